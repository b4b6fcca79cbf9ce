"""Modularity: whether a latent knows of one factor only.

Reference: Ridgeway and Mozer, "Learning Deep Disentangled Embeddings with the F-Statistic Loss" (NeurIPS 2018), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.codes import Array, labelled
from vaelens.metrics.information import BINS, mutual_information
from vaelens.metrics.results import Result


@dataclass(frozen=True, eq=False)
class Modularity(Result):
    """The modularity of codes with D latents and F factors.

    Attributes:
        score: in [0, 1], the mean of `per_latent`.
        per_latent: (D,), in [0, 1]; 1 where a latent knows of one factor only, 0 where it knows as much of each, or nothing.
        mutual_information: (D, F), nats.
    """

    score: float
    per_latent: NDArray[np.float64]
    mutual_information: NDArray[np.float64]


def modularity(codes: Array, factors: Array, bins: int = BINS) -> Modularity:
    """The mean over latents of how much of what a latent knows is of one factor; see `modularity_of`.

    Mutual information is that of `mutual_information_gap`, over all N observations, where disentanglement_lib draws 10,000. As
    there, every latent counts the same. A collapsed latent that is not quite constant has little information on any factor, and
    its modularity is that of chance: look at `mutual_information` beside `per_latent`.

    Args:
        codes: (N, D), real numbers.
        factors: (N, F), whole numbers, F of 2 and more.
        bins: how many bins per latent, 2 or more.

    Raises:
        UsageError: bins out of range, or codes and factors that `labelled` refuses.
    """
    information, _ = mutual_information(labelled("modularity", codes, factors, least_factors=2), bins)
    per_latent = modularity_of(information)
    return Modularity(float(per_latent.mean()), per_latent, information)


def modularity_of(information: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 less the squared information on all factors but the best, relative to that on the best and to F - 1.

    Args:
        information: (D, F), mutual information, F of 2 and more.

    Returns:
        (D,), in [0, 1]; 0 where a latent has no information, as in disentanglement_lib.
    """
    squares = np.square(information)
    best = squares.max(axis=1)
    others = squares.sum(axis=1) - best
    most = best * (information.shape[1] - 1)
    return np.where(most > 0, 1 - np.divide(others, most, out=np.ones_like(most), where=most > 0), 0.0).clip(0, 1)
