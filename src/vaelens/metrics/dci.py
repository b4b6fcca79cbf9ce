"""Disentanglement, completeness and informativeness, from how important each latent is to predict each factor.

Reference: Eastwood and Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations" (ICLR 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.errors import unknown, whole
from vaelens.metrics.accuracy import TEST_POINTS, TRAINING_POINTS, fitted_accuracy, split
from vaelens.metrics.codes import Array, labelled
from vaelens.metrics.results import Result

Floats = NDArray[np.float64]
_TREES = 10  # as many as scikit-learn's forests had when the paper was written
_LEAST_LEAF = 0.005  # of all training points: smaller leaves tell noise apart, and latents of noise seem important


@dataclass(frozen=True, eq=False)
class DCI(Result):
    """Disentanglement, completeness and informativeness of codes with D latents and F factors, each in [0, 1].

    Attributes:
        disentanglement: 1 where every latent that matters is important for one factor only.
        completeness: 1 where one latent alone is important for a factor.
        informativeness: the mean over factors of the accuracy on test points.
        importance: (D, F), of each latent for each factor; sums to 1 over latents, or to 0 where nothing could be learnt.
        estimator: that used.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Floats
    estimator: str


def dci(
    codes: Array,
    factors: Array,
    *,
    seed: int = 0,
    estimator: str = "forest",
    training_points: int = TRAINING_POINTS,
    test_points: int = TEST_POINTS,
) -> DCI:
    """Scores of the importance that a classifier of each factor gives to each latent; see `importance_scores`.

    The default, "forest", is not the estimator of disentanglement_lib: figures of the two are not comparable. "boosting" is
    that estimator, gradient boosted trees with the defaults of scikit-learn, and takes minutes for factors of many values, as
    those of dSprites are. "forest" takes seconds: random forests, as in Eastwood and Williams' own work, but classifiers where
    theirs were regressors; 10 trees which consider every latent at every split, and whose leaves hold 1/200 of the training
    points or more, where theirs were limited in depth. More than 200 values of a factor are therefore not told apart.

    Either differs from disentanglement_lib in that points are drawn without replacement, so that no test point was learnt from.

    Args:
        codes: (N, D), real numbers, D of 2 and more.
        factors: (N, F), whole numbers, F of 2 and more.
        seed: of the draw of points and of the classifiers; the same seed gives the same result.
        estimator: "forest" or "boosting".
        training_points: how many points to learn from.
        test_points: how many others to test on. With fewer observations than both, as many as there are, in this proportion.

    Raises:
        UsageError: an unknown estimator, a number below 1, or codes and factors that `labelled` refuses.
    """
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    random = np.random.default_rng(whole("seed", seed, least=0))
    data = labelled("DCI", codes, factors, least_latents=2, least_factors=2)
    training, test = split(len(data.codes), training_points, test_points, random)
    importance = np.zeros((data.codes.shape[1], len(data.values)))
    accuracy = np.empty(len(data.values))
    for factor, labels in enumerate(data.labels):
        model = ESTIMATORS[estimator](int(random.integers(1 << 31)))
        accuracy[factor] = fitted_accuracy(model, data.codes[training], labels[training], data.codes[test], labels[test])
        if hasattr(model, "estimators_"):  # else the training points had one value only
            importance[:, factor] = model.feature_importances_
    return DCI(*importance_scores(importance), float(accuracy.mean()), importance, estimator)


def importance_scores(importance: Floats) -> tuple[float, float]:
    """Disentanglement and completeness of an importance matrix.

    A latent is disentangled by 1 less the entropy, to the base F, of its importances over factors made to sum to 1, and counts
    by its share of all importance. Completeness is the same of the transposed matrix, to the base D.

    Args:
        importance: (D, F), none negative, D and F of 2 and more.

    Returns:
        Disentanglement and completeness, in [0, 1]; both 0 where all importances are 0.
    """
    return _concentration(importance), _concentration(importance.T)


def _concentration(importance: Floats) -> float:
    """The weighted mean over rows of 1 less the entropy of a row, to the base of its length."""
    total = importance.sum(axis=1)
    rows = importance[total > 0] / total[total > 0, None]
    if not len(rows):
        return 0.0
    entropy = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(axis=1) / np.log(importance.shape[1])
    return float(np.clip((1 - entropy) @ total[total > 0] / total.sum(), 0, 1))


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # takes a second, so not at import

    # With the default of fewer latents to choose from at each split, a tree must often split by one that tells nothing.
    return RandomForestClassifier(_TREES, max_features=None, min_samples_leaf=_LEAST_LEAF, random_state=seed)


def _boosting(seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier  # takes a second, so not at import

    return GradientBoostingClassifier(random_state=seed)


ESTIMATORS: dict[str, Callable[[int], Any]] = {"forest": _forest, "boosting": _boosting}
