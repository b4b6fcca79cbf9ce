"""Separated attribute predictability: whether one latent alone predicts a factor.

Reference: Kumar et al., "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations" (ICLR 2018),
section 3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.errors import truth, whole
from vaelens.metrics.accuracy import TEST_POINTS, TRAINING_POINTS, fitted_accuracy, split
from vaelens.metrics.arrays import as_array
from vaelens.metrics.codes import Array, labelled
from vaelens.metrics.gap import gap
from vaelens.metrics.results import Result

_LEAST_VARIANCE = 1e-12  # of a latent that can predict anything


@dataclass(frozen=True, eq=False)
class AttributePredictability(Result):
    """The separated attribute predictability of codes with D latents and F factors.

    Attributes:
        score: in [0, 1], the mean of `per_factor`.
        per_factor: (F,), in [0, 1], how far the latent that predicts the factor best is ahead of the next.
        predictability: (D, F), in [0, 1], the accuracy on test points, or R^2.
    """

    score: float
    per_factor: NDArray[np.float64]
    predictability: NDArray[np.float64]


def sap(
    codes: Array,
    factors: Array,
    *,
    seed: int = 0,
    continuous: bool = False,
    training_points: int = TRAINING_POINTS,
    test_points: int = TEST_POINTS,
) -> AttributePredictability:
    """The mean over factors of the gap between the two latents that, each alone, predict the factor best.

    A latent predicts by a linear support vector machine (C = 0.01, classes weighted by how rare they are) as in
    disentanglement_lib; as there codes are taken as they are, so that the score depends on their scale. It differs in that
    points are drawn without replacement, so that no test point was learnt from, and in that the machine is fitted in the
    primal, which is quicker and has no randomness: the optimum is the same.

    A line cannot tell many values apart: codes that are the factors of dSprites, one each, come to 0.25.

    Args:
        codes: (N, D), real numbers, D of 2 and more.
        factors: (N, F), whole numbers.
        seed: of the draw of points; the same seed gives the same result.
        continuous: take the factors' numbers for quantities: R^2 of a line on the training points instead of an accuracy.
        training_points: how many points to learn from.
        test_points: how many others to test on. With fewer observations than both, as many as there are, in this proportion.

    Raises:
        UsageError: a number below 1, or codes and factors that `labelled` refuses.
    """
    truth("continuous", continuous)
    random = np.random.default_rng(whole("seed", seed, least=0))
    data = labelled("SAP", codes, factors, least_latents=2)
    training, test = split(len(data.codes), training_points, test_points, random)
    points, labels = data.codes[training].astype(np.float64), data.labels[:, training]
    if continuous:
        quantities = np.asarray(as_array(factors), np.float64)[training].T
        found = np.array([[_determination(latent, factor) for factor in quantities] for latent in points.T])
    else:
        found = _accuracies(points, labels, data.codes[test].astype(np.float64), data.labels[:, test])
    per_factor = gap(found)
    return AttributePredictability(float(per_factor.mean()), per_factor, found)


def _accuracies(
    points: NDArray[Any], labels: NDArray[Any], test_points: NDArray[Any], test_labels: NDArray[Any]
) -> NDArray[np.float64]:
    """The accuracy on test points of each latent for each factor (D, F); points (n, D), labels (F, n)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC  # takes a second, so not at import

    found = np.empty((points.shape[1], len(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for latent, factor in np.ndindex(found.shape):
            one = [latent]
            machine = LinearSVC(C=0.01, class_weight="balanced", dual=False)
            found[latent, factor] = fitted_accuracy(
                machine, points[:, one], labels[factor], test_points[:, one], test_labels[factor]
            )
    return found


def _determination(latent: NDArray[np.float64], factor: NDArray[np.float64]) -> float:
    """R^2 of a line between both (n,), in [0, 1]; 0 where one of them does not vary."""
    x, y = latent - latent.mean(), factor - factor.mean()
    varies = (x @ x > _LEAST_VARIANCE * len(x)) and y @ y > 0
    return min(1.0, float((x @ y) ** 2 / ((x @ x) * (y @ y)))) if varies else 0.0
