"""The mutual information gap: whether one latent alone knows a factor.

Reference: Chen et al., "Isolating Sources of Disentanglement in Variational Autoencoders" (NeurIPS 2018), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.codes import Array, labelled
from vaelens.metrics.gap import gap
from vaelens.metrics.information import BINS, mutual_information
from vaelens.metrics.results import Result


@dataclass(frozen=True, eq=False)
class InformationGap(Result):
    """The mutual information gap of codes with D latents and F factors.

    Attributes:
        score: in [0, 1], the mean of `per_factor`.
        per_factor: (F,), in [0, 1], how far the latent that knows most of the factor is ahead of the next, over its entropy.
        mutual_information: (D, F), nats.
        entropy: (F,), nats, of each factor.
    """

    score: float
    per_factor: NDArray[np.float64]
    mutual_information: NDArray[np.float64]
    entropy: NDArray[np.float64]


def mutual_information_gap(codes: Array, factors: Array, bins: int = BINS) -> InformationGap:
    """The mean over factors of the gap between the two latents with most mutual information, over the factor's entropy.

    Latents are put into bins as disentanglement_lib does: 20 of one width between the least and the largest code of each. It
    differs in that all N observations count, where disentanglement_lib draws 10,000: the figure has no randomness.

    Args:
        codes: (N, D), real numbers, D of 2 and more.
        factors: (N, F), whole numbers.
        bins: how many bins per latent, 2 or more.

    Raises:
        UsageError: bins out of range, or codes and factors that `labelled` refuses.
    """
    information, entropy = mutual_information(labelled("MIG", codes, factors, least_latents=2), bins)
    per_factor = gap(information) / entropy
    return InformationGap(float(per_factor.mean()), per_factor, information, entropy)
