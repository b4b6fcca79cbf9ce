"""A histogram of scores that refines itself where many scores fall, so that ranks keep a known relative precision.

A tree over the bits of a score's key: the root has one cell for each binary order of magnitude, and a cell that holds more than
a small share of all scores above it is split into as many equal parts as that takes, down to a single key. What fell into it
before the split stays with it as a span, so nothing is ever moved by guess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.spans import CHUNK, Floats, Keys, Spans

RANK_SHARE = 2e-4  # a cell holds at most this share of the scores above it,
_FEW = 4  # or this many
_FINER = 2  # cells are split for scores spread so unevenly that the fullest part holds so many times the mean
_ROOT_BITS = 52  # bits of a key below sign and exponent
_ROOT_CELLS = 4096
_MOST_BITS = 16  # one split makes at most so many bits' worth of parts


class ScoreTree:
    """Counts of normal and abnormal scores by range of keys.

    Args:
        exact_bits: how many of a key's lowest bits are zero in every score to come (29 where all are float32).

    Attributes:
        size: how many cells there are, split ones included.
    """

    def __init__(self, exact_bits: int) -> None:
        self.exact_bits = exact_bits
        self.size = _ROOT_CELLS
        self._low = np.arange(-_ROOT_CELLS // 2, _ROOT_CELLS // 2, dtype=np.int64) << _ROOT_BITS
        self._bits = np.full(_ROOT_CELLS, _ROOT_BITS, np.int8)
        self._normal = np.zeros(_ROOT_CELLS, np.int64)
        self._abnormal = np.zeros(_ROOT_CELLS, np.int64)
        self._weight = np.zeros(_ROOT_CELLS)
        # A key goes from cell c to cell bias[c] + (key >> shift[c]): a part of c where c is split, else c itself.
        self._split = np.zeros(_ROOT_CELLS, dtype=bool)
        self._shift = np.full(_ROOT_CELLS, 63, np.int64)
        self._bias = np.arange(_ROOT_CELLS, dtype=np.int64) + (self._low < 0)
        self._order = np.arange(_ROOT_CELLS, dtype=np.int64)  # cells by their lowest key, a split one before its parts

    def spans(self) -> Spans:
        """The cells that hold any score."""
        held = np.flatnonzero(self._normal[: self.size] + self._abnormal[: self.size])
        low, bits = self._low[held], self._bits[held].astype(np.int64)
        width = np.where(bits > self.exact_bits, (np.int64(1) << bits) - 1, 0)
        return Spans(low, low + width, self._normal[held], self._abnormal[held], self._weight[held])

    def add(self, normal: Keys, abnormal: Keys, weight: Floats, above: int, times: tuple[Keys, Keys] | None = None) -> None:
        """Count keys of normal scores (N,) and of abnormal ones (P,) with their weights (P,).

        Args:
            normal, abnormal, weight: see above.
            times: how often each normal key (N,) and each abnormal one (P,) counts; None for once. A weight stands for all
                the times that its key counts.
            above: how many scores are known, and counted elsewhere, that are higher than any score in this tree.
        """
        cells = self._find(normal), self._find(abnormal)
        often: tuple[Keys | None, Keys | None] = (None, None) if times is None else times
        fresh = _Fresh(*cells, weight, often, 0, self.size)
        self._count(fresh)
        total = self._normal[: self.size] + self._abnormal[: self.size]
        higher = np.empty(self.size, np.int64)
        from_top = self._order[::-1]
        ordered = total[from_top]
        higher[from_top] = np.cumsum(ordered) - ordered + above
        while True:
            limit = np.maximum(_FEW, RANK_SHARE * higher)
            inside = slice(fresh.first, fresh.first + len(total))
            heavy = (total > limit) & (fresh.normal + fresh.abnormal > 0) & (self._bits[inside] > self.exact_bits)
            if not heavy.any():
                return
            self._count(fresh, heavy, sign=-1)
            parents = np.flatnonzero(heavy)
            first = self.size
            parts = self._divide(parents + fresh.first, total[heavy] / limit[heavy])
            chosen = [np.flatnonzero(self._split.take(of)) for of in cells]
            normal, abnormal, weight = normal[chosen[0]], abnormal[chosen[1]], weight[chosen[1]]
            often = _at(often[0], chosen[0]), _at(often[1], chosen[1])
            cells = self._next(cells[0][chosen[0]], normal), self._next(cells[1][chosen[1]], abnormal)
            fresh = _Fresh(*cells, weight, often, first, self.size)
            self._count(fresh)
            total = fresh.normal + fresh.abnormal
            # Above a part lies what lies above its parent, and its siblings from the next one up.
            upto = np.cumsum(total)
            last = np.cumsum(parts) - 1
            higher = np.repeat(higher[parents] + upto[last], parts) - upto

    def _find(self, keys: Keys) -> Keys:
        """The cell (N,) that each key (N,) is counted in."""
        found = np.empty(len(keys), np.int64)
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            cells = (part >> _ROOT_BITS) + _ROOT_CELLS // 2
            cells = self._next(cells, part)
            while True:
                deeper = np.flatnonzero(self._split.take(cells))
                if not len(deeper):
                    break
                if 2 * len(deeper) > len(cells):
                    cells = self._next(cells, part)
                else:
                    cells[deeper] = self._next(cells[deeper], part[deeper])
            found[start : start + CHUNK] = cells
        return found

    def _next(self, cells: Keys, keys: Keys) -> Keys:
        moved: Keys = keys >> self._shift.take(cells)
        moved += self._bias.take(cells)
        return moved

    def _count(self, fresh: _Fresh, where: NDArray[np.bool_] | None = None, sign: int = 1) -> None:
        inside: slice | Keys = slice(fresh.first, fresh.first + len(fresh.normal))
        chosen: slice | NDArray[np.bool_] = slice(None)
        if where is not None:
            inside, chosen = np.flatnonzero(where) + fresh.first, where
        self._normal[inside] += sign * fresh.normal[chosen]
        self._abnormal[inside] += sign * fresh.abnormal[chosen]
        self._weight[inside] += sign * fresh.weight[chosen]

    def _divide(self, cells: Keys, excess: Floats) -> Keys:
        """Split cells (K,) that hold `excess` (K,) times too much; returns how many parts (K,) each has got."""
        room = self._bits[cells].astype(np.int64) - self.exact_bits
        bits = np.clip(np.ceil(np.log2(_FINER * excess)), 2, _MOST_BITS).astype(np.int64)
        bits = np.where(room <= bits + 2, room, bits)  # few bits left: single keys at once
        parts = np.int64(1) << bits
        first: Keys = self.size + np.cumsum(parts) - parts
        self._grow(int(first[-1] + parts[-1]) - self.size)
        low = self._low[cells]
        left: Keys = self._bits[cells].astype(np.int64) - bits
        self._split[cells] = True
        self._shift[cells] = left
        self._bias[cells] = first - (low >> left)

        new = slice(int(first[0]), self.size)
        ids = np.arange(new.start, new.stop, dtype=np.int64)
        index = ids - np.repeat(first, parts)
        self._low[new] = np.repeat(low, parts) + (index << np.repeat(left, parts))
        self._bits[new] = np.repeat(left, parts)
        self._bias[new] = ids + (self._low[new] < 0)
        place = np.empty(new.start, np.int64)
        place[self._order] = np.arange(new.start)
        self._order = np.insert(self._order, np.repeat(place[cells] + 1, parts), ids)
        return parts

    def _grow(self, extra: int) -> None:
        size = self.size + extra
        if size > len(self._low):
            room = max(size, len(self._low) * 5 // 4) - len(self._low)
            for name, value in _EMPTY.items():
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.full(room, value, old.dtype)]))
        self.size = size


_EMPTY = {"_low": 0, "_bits": 0, "_normal": 0, "_abnormal": 0, "_weight": 0, "_split": False, "_shift": 63, "_bias": 0}


class _Fresh:
    """Counts of the scores being added, for the cells from `first` up to `stop`."""

    def __init__(
        self, normal: Keys, abnormal: Keys, weight: Floats, often: tuple[Keys | None, Keys | None], first: int, stop: int
    ) -> None:
        self.first = first
        if first:
            normal, abnormal = normal - first, abnormal - first
        self.normal = _counted(normal, often[0], stop - first)
        self.abnormal = _counted(abnormal, often[1], stop - first)
        self.weight: Floats = np.asarray(np.bincount(abnormal, weight, minlength=stop - first), np.float64)


def _counted(cells: Keys, often: Keys | None, size: int) -> Keys:
    """How many scores each of `size` cells gets; whole numbers are exact in float64 as far as any count goes."""
    return np.asarray(np.bincount(cells, often, minlength=size), np.int64)


def _at(often: Keys | None, chosen: Keys) -> Keys | None:
    return None if often is None else often[chosen]
