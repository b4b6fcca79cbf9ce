"""A stream of scores in bounded memory, with ranks precise enough for every figure and a bound on what is lost.

The first million scores are kept as they are. After that, the highest of all are kept exactly, because precision at the top of
the ranking hangs on single scores; the others are counted in a tree of ranges (`histogram`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.histogram import RANK_SHARE, ScoreTree
from vaelens.metrics.spans import Floats, Keys, Spans, starts, to_keys

EXACT = 1 << 20  # so many scores are kept as they are before any is counted by range
_TOP = 1 << 15  # so many of the highest are kept as they are for good
_MOST_CELLS = 3 << 18  # of a tree before its cells are joined to coarser spans
_LOOKED_AT = 4096  # scores, to see whether many are equal
_FLOAT32_BITS = 29  # the lowest bits of a float64 that are zero where it was a float32


class ScoreStore:
    """Normal and abnormal scores of one group of images."""

    def __init__(self) -> None:
        self._waiting: list[_Scores] = []
        self._top = _Scores.none()
        self._cut = int(np.iinfo(np.int64).min)  # scores above this belong to the top
        self._tree: ScoreTree | None = None
        self._frozen: list[Spans] = []
        self._exact_bits = _FLOAT32_BITS

    def add(self, normal: NDArray[np.floating], abnormal: NDArray[np.floating], weight: Floats) -> None:
        """Take in normal scores (N,) and abnormal ones (P,) with their weights (P,). No NaN."""
        if normal.dtype.itemsize > 4 or abnormal.dtype.itemsize > 4:
            self._need_all_bits()
        self._wait(_Scores(to_keys(normal), to_keys(abnormal), weight))

    def merge(self, other: ScoreStore) -> None:
        """Take in all that `other` has seen; it stays as it is."""
        if other._exact_bits < self._exact_bits:
            self._need_all_bits()
        self._frozen += other._frozen
        if other._tree is not None:
            self._frozen.append(other._tree.spans())
        self._condense(sum(len(part) for part in self._frozen) > _MOST_CELLS)
        for scores in (*other._waiting, other._top):
            self._wait(scores)

    def spans(self) -> Spans:
        """All scores, by ranges."""
        if self._tree is None and not self._frozen:
            waiting = _Scores.joined([*self._waiting, self._top])
            self._waiting = [waiting]
            return Spans.exact(waiting.normal, waiting.abnormal, waiting.weight)
        self._flush()
        top = Spans.exact(self._top.normal, self._top.abnormal, self._top.weight)
        return Spans.joined([top, *self._frozen, *([] if self._tree is None else [self._tree.spans()])])

    def _wait(self, scores: _Scores) -> None:
        self._waiting.append(scores)
        if sum(len(part) for part in self._waiting) > EXACT:
            self._flush()

    def _flush(self) -> None:
        """Count what waits."""
        scores = _Scores.joined(self._waiting)
        self._waiting = []
        if not len(scores):
            return
        top, rest = scores.parted(self._cut)
        if len(top) + len(self._top) > 2 * _TOP:
            self._cut = max(self._cut, top.kth_largest(_TOP), self._top.kth_largest(_TOP))
            top, lower = top.parted(self._cut)
            kept, dropped = self._top.parted(self._cut)
            top = _Scores.joined([top, kept])
            self._cut = max(self._cut, top.kth_largest(_TOP))
            self._top, last = top.parted(self._cut)
            rest = _Scores.joined([rest, lower, dropped, last])
        else:
            self._top = _Scores.joined([self._top, top])
        if not len(rest):
            return
        if self._tree is None:
            self._tree = ScoreTree(self._exact_bits)
        rest, times = rest.folded()
        self._tree.add(rest.normal, rest.abnormal, rest.weight, above=len(self._top), times=times)
        self._condense(self._tree.size > _MOST_CELLS)

    def _condense(self, needed: bool) -> None:
        """Join cells and spans to coarser ones and start a new tree, so that memory stays bounded whatever the scores do."""
        if needed:
            self._freeze()
            self._frozen = [Spans.joined(self._frozen).condensed(RANK_SHARE / 2, len(self._top))]

    def _freeze(self) -> None:
        if self._tree is not None:
            self._frozen.append(self._tree.spans())
            self._tree = None

    def _need_all_bits(self) -> None:
        """From now on scores may differ in bits that float32 does not have."""
        if self._exact_bits:
            self._freeze()
            self._exact_bits = 0


class _Scores:
    """Keys of normal scores (N,) and of abnormal ones (P,) with their weights (P,)."""

    def __init__(self, normal: Keys, abnormal: Keys, weight: Floats) -> None:
        self.normal = normal
        self.abnormal = abnormal
        self.weight = weight

    def __len__(self) -> int:
        return len(self.normal) + len(self.abnormal)

    @classmethod
    def none(cls) -> _Scores:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def joined(cls, parts: list[_Scores]) -> _Scores:
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else cls.none()
        return cls(
            np.concatenate([p.normal for p in parts]),
            np.concatenate([p.abnormal for p in parts]),
            np.concatenate([p.weight for p in parts]),
        )

    def folded(self) -> tuple[_Scores, tuple[Keys, Keys] | None]:
        """Where many are equal, each distinct one and how often it is there; else themselves and None."""
        some = self.normal[:: max(1, len(self.normal) // _LOOKED_AT)]
        if len(some) < _LOOKED_AT or 2 * len(np.unique(some)) > len(some):
            return self, None
        normal, order = np.sort(self.normal), np.argsort(self.abnormal)
        abnormal = self.abnormal[order]
        first, first_abnormal = np.flatnonzero(starts(normal)), np.flatnonzero(starts(abnormal))
        weight = np.add.reduceat(self.weight[order], first_abnormal) if len(abnormal) else self.weight
        times = np.diff(first, append=len(normal)), np.diff(first_abnormal, append=len(abnormal))
        return _Scores(normal[first], abnormal[first_abnormal], weight), times

    def parted(self, cut: int) -> tuple[_Scores, _Scores]:
        """Those above `cut`, and the others."""
        normal, abnormal = self.normal > cut, self.abnormal > cut
        if not (normal.any() or abnormal.any()):
            return self.none(), self
        above = _Scores(self.normal[normal], self.abnormal[abnormal], self.weight[abnormal])
        return above, _Scores(self.normal[~normal], self.abnormal[~abnormal], self.weight[~abnormal])

    def kth_largest(self, k: int) -> int:
        """The k-th largest key; where there are fewer, a key below all."""
        if len(self) < k:
            return int(np.iinfo(np.int64).min)
        keys = np.concatenate([self.normal, self.abnormal])
        if len(keys) > 16 * k:  # most of them need not be looked at twice
            some = keys[::16].copy()
            some.partition(len(some) - k // 8)
            largest = keys[keys >= some[len(some) - k // 8]]
            keys = largest if len(largest) >= k else keys
        keys.partition(len(keys) - k)
        return int(keys[len(keys) - k])
