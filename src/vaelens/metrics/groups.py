"""Observations that share the value of a factor, drawn at random, and the codes of those drawn, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.codes import Labelled

Rows = NDArray[np.intp]
_CHUNK = 1 << 14  # codes gathered at a time: they stay in the processor's cache


class ValueGroups:
    """The observations of every value of every factor, found once by a sort of each factor.

    Args:
        data: what `labelled` gives, N observations with F factors.
    """

    def __init__(self, data: Labelled) -> None:
        self._labels = data.labels
        self._order = np.argsort(data.labels, axis=1, kind="stable")
        self._count = np.zeros((len(data.values), max(data.values)), np.intp)
        for factor, labels in enumerate(data.labels):
            self._count[factor] = np.bincount(labels, minlength=self._count.shape[1])
        self._start = np.cumsum(self._count, axis=1) - self._count

    def sharing(self, factor: Rows, rows: Rows, size: tuple[int, ...], random: np.random.Generator) -> Rows:
        """Observations of this size; each has the value that the one in its place among `rows` has of `factor`.

        Drawn with replacement, each of the group as likely as any other, the one in `rows` included.

        Args:
            factor: numbers of factors, of a shape that extends to `size`.
            rows: numbers of observations, likewise.
        """
        value = self._labels[factor, rows]
        place = self._start[factor, value] + random.integers(self._count[factor, value], size=size)
        drawn: Rows = self._order[factor, place]
        return drawn


def gathered(codes: NDArray[Any], rows: Rows) -> Iterator[NDArray[Any]]:
    """The codes (v, L, D) of `rows` (V, L), v of the V at a time."""
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        yield codes.take(rows[start : start + step], axis=0)
