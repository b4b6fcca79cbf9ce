"""Scores counted by range: what is left of a stream of scores once the scores themselves are gone.

A score is held as its key, an int64 that sorts as the score does. A span is a range of keys, both ends included, with the
number of normal and abnormal scores in it; where both ends are the same key, nothing has been lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK = 1 << 16  # scores handled at a time: they stay in the processor's cache
_SIGN = np.int64(np.iinfo(np.int64).max)


def to_keys(scores: NDArray[np.floating]) -> Keys:
    """Floats (N,) of any width -> int64 keys (N,) in the same order; both zeros have the key 0. No NaN."""
    keys = np.empty(scores.shape, np.int64)
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK]
        part.view(np.float64)[...] = scores[start : start + CHUNK]
        # Floats are sign and magnitude, integers two's complement: negative ones become minus their magnitude.
        sign = part >> 63
        part ^= sign & _SIGN
        part -= sign
    return keys


def to_score(key: int) -> float:
    """The float64 whose key this is."""
    magnitude = float(np.array(abs(key), dtype=np.int64).view(np.float64))
    return -magnitude if key < 0 else magnitude


@dataclass(frozen=True)
class Spans:
    """M ranges of keys, which may overlap, in no particular order.

    Attributes:
        low: (M,), the lowest key that a score in the span may have.
        high: (M,), the highest.
        normal: (M,), how many normal scores lie there.
        abnormal: (M,), how many abnormal ones.
        weight: (M,), the abnormal ones' weights, summed.
    """

    low: Keys
    high: Keys
    normal: Keys
    abnormal: Keys
    weight: Floats

    def __len__(self) -> int:
        return len(self.low)

    @property
    def mass(self) -> Keys:
        """(M,), how many scores lie there."""
        return self.normal + self.abnormal

    @classmethod
    def none(cls) -> Spans:
        """No scores at all."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty, empty, np.zeros(0))

    @classmethod
    def exact(cls, normal: Keys, abnormal: Keys, weight: Floats) -> Spans:
        """One span for each distinct key of normal scores (N,) and abnormal ones (P,) with their weights (P,)."""
        normal = np.sort(normal)
        order = np.argsort(abnormal)
        abnormal, weight = abnormal[order], weight[order]
        low = np.concatenate([normal[starts(normal)], abnormal[starts(abnormal)]])
        low = np.sort(low)
        low = low[starts(low)]
        end_normal = np.searchsorted(normal, low, side="right")
        end_abnormal = np.searchsorted(abnormal, low, side="right")
        sums = np.concatenate([[0.0], np.cumsum(weight)])[end_abnormal]
        return cls(low, low, np.diff(end_normal, prepend=0), np.diff(end_abnormal, prepend=0), np.diff(sums, prepend=0.0))

    @classmethod
    def joined(cls, parts: Sequence[Spans]) -> Spans:
        """All of them in one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.low for p in parts]),
            np.concatenate([p.high for p in parts]),
            np.concatenate([p.normal for p in parts]),
            np.concatenate([p.abnormal for p in parts]),
            np.concatenate([p.weight for p in parts]),
        )

    def ordered(self, order: Keys) -> Spans:
        """Its spans at these places (K,)."""
        return Spans(self.low[order], self.high[order], self.normal[order], self.abnormal[order], self.weight[order])

    def condensed(self, share: float, offset: int) -> Spans:
        """Fewer spans: neighbours are joined as long as they hold a `share` of all scores above them, or less.

        Args:
            share: of the scores above.
            offset: scores that lie above all of these and are counted elsewhere.
        """
        if not len(self):
            return self
        order = np.argsort(self.low, kind="stable")
        mass = self.mass[order]
        above = mass.sum() - np.cumsum(mass) + max(offset, 1)
        heavy = mass > share * above
        # Equal steps of the logarithm of what lies above are spans of an equal share of it.
        step = np.floor(np.log(above) / np.log1p(share))
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = (step[1:] != step[:-1]) | heavy[1:] | heavy[:-1]
        first = np.flatnonzero(starts)
        return Spans(
            np.minimum.reduceat(self.low[order], first),
            np.maximum.reduceat(self.high[order], first),
            np.add.reduceat(self.normal[order], first),
            np.add.reduceat(self.abnormal[order], first),
            np.add.reduceat(self.weight[order], first),
        )


def starts(ordered: Keys) -> NDArray[np.bool_]:
    """Where a new value begins."""
    starts = np.ones(len(ordered), dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return starts
