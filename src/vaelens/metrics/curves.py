"""What a ranking of pixels comes to: figures from scores counted by range, each with a bound on what the ranges hide."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.regions import FPR_LIMIT, partial_area
from vaelens.metrics.spans import Floats, Keys, Spans, to_score


@dataclass(frozen=True)
class PixelCurves:
    """Figures over pixels; None where one is not defined. Each `_error` is the most by which its figure can be off."""

    auroc: float | None = None
    auroc_error: float | None = None
    average_precision: float | None = None
    average_precision_error: float | None = None
    best_iou: float | None = None
    best_iou_threshold: float | None = None
    aupro: float | None = None
    aupro_error: float | None = None

    @classmethod
    def measure(cls, spans: Spans, regions: int) -> PixelCurves:
        """Figures of all scores in `spans`, whose abnormal ones form so many `regions` with a weight of 1 each."""
        normal, abnormal = int(spans.normal.sum()), int(spans.abnormal.sum())
        if not abnormal:
            return cls()
        # Where spans overlap, a score is ranked by the middle of its span; where they do not, that is its true place.
        centre = (spans.low >> 1) + (spans.high >> 1) + (spans.low & spans.high & 1)
        order = np.argsort(centre)
        hull = _Hull.of(spans.ordered(order))
        order = order[::-1]
        ranked = spans.ordered(order)
        last = np.append(np.flatnonzero(np.diff(centre[order])), len(order) - 1)
        hits = np.cumsum(ranked.abnormal)
        alarms = np.cumsum(ranked.normal)

        iou = hits[last] / (abnormal + alarms[last])
        best = int(np.argmax(iou))
        precision = _average_precision(ranked, hits, alarms, last)
        low, high = hull.average_precision() if hull else (precision, precision)
        precision = float(np.clip(precision, low, high))
        found = cls(
            average_precision=precision,
            average_precision_error=max(high - precision, precision - low),
            best_iou=float(iou[best]),
            best_iou_threshold=_between(ranked, int(last[best])),
        )
        if not normal:
            return found

        before = np.append(0, hits[last][:-1]), np.append(0, alarms[last][:-1])
        below = normal - (before[1] + alarms[last]) / 2
        area = _total(np.diff(hits[last], prepend=0) * below) / (abnormal * normal)
        low, high = hull.auroc() if hull else (area, area)
        area = float(np.clip(area, low, high))
        overlap = np.cumsum(ranked.weight)[last] / max(regions, 1)
        return cls(
            auroc=area,
            auroc_error=max(high - area, area - low),
            average_precision=found.average_precision,
            average_precision_error=found.average_precision_error,
            best_iou=found.best_iou,
            best_iou_threshold=found.best_iou_threshold,
            aupro=partial_area(alarms[last] / normal, overlap),
            aupro_error=hull.aupro_error(regions) if hull else 0.0,
        )


def _average_precision(ranked: Spans, hits: Keys, alarms: Keys, last: Keys) -> float:
    """The mean over abnormal pixels of the precision at their scores, as scikit-learn defines it.

    Pixels of one score share the precision of all of them; in a range, they are taken to be spread evenly among normal ones.
    """
    ends = np.diff(last, prepend=-1)
    whole = hits[last] / (hits[last] + alarms[last])
    tied = np.repeat(whole, ends)
    spread = ranked.low < ranked.high
    earlier = hits - ranked.abnormal + (ranked.abnormal + 1) / 2
    passed = alarms - ranked.normal / 2
    each = np.where(spread, earlier / (earlier + passed), tied)
    return _total(ranked.abnormal * each) / int(hits[-1])


def _between(ranked: Spans, at: int) -> float:
    """A threshold that flags, as scores above it, the first `at` + 1 spans of a ranking and no other."""
    if at + 1 == len(ranked):
        return math.nextafter(to_score(int(ranked.low[at])), -math.inf)
    low, high = (to_score(key) for key in _gap(ranked, at))
    if low == -math.inf and high > -sys.float_info.max:
        low = -sys.float_info.max  # minus infinity flags all
    middle = low + (high - low) / 2
    # In the middle, so that rounding the threshold to float32 moves no pixel across it.
    return middle if low <= middle < high else low


def _gap(ranked: Spans, at: int) -> tuple[int, int]:
    """Keys of the gap below span `at` of a ranking; where the next span overlaps it, of the gap between their centres."""
    low, high = int(ranked.high[at + 1]), int(ranked.low[at])
    if low < high:
        return low, high
    return (int(ranked.low[at + 1]) + low) // 2, (high + int(ranked.high[at])) // 2


@dataclass(frozen=True)
class _Hull:
    """For each span that holds abnormal scores, the fewest and the most scores that can lie above its own.

    Attributes:
        abnormal: (M,), how many abnormal scores it holds.
        weight: (M,), their weights.
        alarms: the fewest and the most normal scores (M,) with the score of one of them or a higher one.
        higher: the fewest and the most normal scores (M,) with a higher one.
        hits: the fewest and the most abnormal scores (M,) with its score or a higher one, itself included.
        totals: normal and abnormal scores in all.
    """

    abnormal: Keys
    weight: Floats
    alarms: tuple[Keys, Keys]
    higher: tuple[Keys, Keys]
    hits: tuple[Keys, Keys]
    totals: tuple[int, int]

    @classmethod
    def of(cls, spans: Spans) -> _Hull | None:
        """None where each span is a single score: nothing is hidden then."""
        if bool((spans.low == spans.high).all()):
            return None
        # Ranked spans are all but in order by either end, and a stable sort takes advantage of that.
        by_low, by_high = np.argsort(spans.low, kind="stable"), np.argsort(spans.high, kind="stable")
        lows, highs = spans.low[by_low], spans.high[by_high]
        held = by_low[spans.abnormal[by_low] > 0]
        low, high = spans.low[held], spans.high[held]
        at_least = np.searchsorted(lows, high, side="left")  # spans from here on lie at or above the upper end
        above = np.searchsorted(lows, high, side="right")
        may = np.searchsorted(highs, low, side="left")  # spans from here on may reach the lower end
        may_exceed = np.searchsorted(highs, low, side="right")
        normal_low, normal_high = _from(spans.normal[by_low]), _from(spans.normal[by_high])
        hits = _from(spans.abnormal[by_low])[at_least], _from(spans.abnormal[by_high])[may]
        return cls(
            spans.abnormal[held],
            spans.weight[held],
            (normal_low[at_least], normal_high[may]),
            (normal_low[above], normal_high[may_exceed]),
            (np.maximum(hits[0], 1), hits[1]),
            (int(spans.normal.sum()), int(spans.abnormal.sum())),
        )

    def auroc(self) -> tuple[float, float]:
        """The least and the most that it can be."""
        normal, abnormal = self.totals
        # A normal score at the same key counts half; where it may be at the same key or not, the worse or the better is taken.
        least = _total(self.abnormal * (normal - (self.alarms[1] + self.higher[1]) / 2))
        most = _total(self.abnormal * (normal - (self.alarms[0] + self.higher[0]) / 2))
        return least / (normal * abnormal), most / (normal * abnormal)

    def average_precision(self) -> tuple[float, float]:
        """The least and the most that it can be."""
        least = self.hits[0] / (self.hits[0] + self.alarms[1])
        most = self.hits[1] / (self.hits[1] + self.alarms[0])
        return _total(self.abnormal * least) / self.totals[1], _total(self.abnormal * most) / self.totals[1]

    def aupro_error(self, regions: int) -> float:
        """How far off it can be: each region's part moves by what the false positive rate at its pixels can."""
        moved = sum(
            np.clip(most / self.totals[0], 0, FPR_LIMIT) - np.clip(fewest / self.totals[0], 0, FPR_LIMIT)
            for fewest, most in (self.alarms, self.higher)
        )
        return float(np.sum(self.weight * moved) / (2 * FPR_LIMIT * max(regions, 1)))


def _total(values: NDArray[Any]) -> float:
    return float(values.sum())


def _from(counts: NDArray[np.int64]) -> Keys:
    """(M,) -> (M + 1,): the sum from each place to the end."""
    return np.append(np.cumsum(counts[::-1])[::-1], 0)
