"""Mutual information of every latent with every factor, on which MIG and modularity rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.errors import whole
from vaelens.metrics.codes import Labelled

Floats = NDArray[np.float64]
BINS = 20
_MOST_BINS = 1 << 16


def mutual_information(data: Labelled, bins: int = BINS) -> tuple[Floats, Floats]:
    """Information in nats over all N observations.

    Args:
        data: what `labelled` gives.
        bins: each latent is put into so many bins of one width between its least and its largest code.

    Returns:
        The mutual information (D, F) of latent and factor, from 0 to the entropy of the factor; and these entropies (F,).

    Raises:
        UsageError: `bins` is no whole number from 2 on.
    """
    bins = whole("bins", bins, least=2, most=_MOST_BINS)
    information = np.empty((data.codes.shape[1], len(data.values)))
    for latent, row in enumerate(information):
        place = _binned(data.codes[:, latent], bins)
        for factor, (labels, count) in enumerate(zip(data.labels, data.values, strict=True)):
            joint = np.bincount(place * count + labels, minlength=bins * count).reshape(bins, count)
            row[factor] = information_of(joint)
    entropy = np.array([_entropy(np.bincount(labels)) for labels in data.labels])
    return np.minimum(information, entropy), entropy


def information_of(joint: NDArray[np.int64]) -> float:
    """Mutual information in nats of two variables, of which value i of one and j of the other were seen joint[i, j] times."""
    total = int(joint.sum())
    there = joint > 0
    seen = joint[there].astype(np.float64)
    by_chance = np.outer(joint.sum(axis=1), joint.sum(axis=0))[there]
    # Whole numbers before the logarithm: that of independent variables is exactly 0, which modularity asks for.
    return max(0.0, float((seen * np.log(seen * total / by_chance)).sum() / total))


def _binned(column: NDArray[Any], bins: int) -> NDArray[np.intp]:
    """The number of the bin of each value (N,)."""
    column = np.ascontiguousarray(column)
    least, most = column.min(), column.max()
    if most - least <= 2 * bins * np.spacing(np.maximum(abs(least), abs(most))):  # too few numbers in between for the bins
        return np.zeros(len(column), np.intp)
    edges = np.histogram_bin_edges(column, bins)
    return np.searchsorted(edges[1:-1], column, side="right")


def _entropy(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
