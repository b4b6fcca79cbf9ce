"""The beta-VAE score: which factor pairs of observations share is told by how their codes differ.

Reference: Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework" (ICLR 2017),
section 3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from vaelens.errors import whole
from vaelens.metrics.accuracy import fitted_accuracy
from vaelens.metrics.codes import Array, Labelled, labelled
from vaelens.metrics.groups import Rows, ValueGroups, gathered
from vaelens.metrics.results import Result


@dataclass(frozen=True, eq=False)
class BetaVAEScore(Result):
    """The beta-VAE score.

    Attributes:
        score: in [0, 1], the accuracy on evaluation points; by chance 1 / F.
    """

    score: float


def beta_vae_score(
    codes: Array,
    factors: Array,
    *,
    seed: int = 0,
    pairs: int = 64,
    training_points: int = 10_000,
    evaluation_points: int = 5_000,
) -> BetaVAEScore:
    """How well a linear classifier tells which factor pairs of observations share from the mean difference of their codes.

    A point draws a factor and L pairs of observations, each pair with one value of it, and is the mean over pairs of the
    absolute difference of their codes, (D,). The settings are those of disentanglement_lib, and as there codes are taken as
    they are: the score depends on their scale. It differs in the solver, which is scikit-learn's default of today (one
    multinomial model, iterated until it converges; that of 2018 was one model per factor), and in that pairs are drawn among
    the observations given: the same where these are a full grid of factors.

    Args:
        codes: (N, D), real numbers.
        factors: (N, F), whole numbers, F of 2 and more.
        seed: of the draws; the same seed gives the same result.
        pairs: how many pairs make a point, L.
        training_points: how many points the classifier learns from.
        evaluation_points: how many it is measured on.

    Raises:
        UsageError: a number below 1, or codes and factors that `labelled` refuses.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # takes a second, so not at import

    pairs, training = whole("pairs", pairs), whole("training_points", training_points)
    evaluation = whole("evaluation_points", evaluation_points)
    random = np.random.default_rng(whole("seed", seed, least=0))
    data = labelled("the beta-VAE score", codes, factors, least_factors=2)
    groups = ValueGroups(data)
    factor, points = _points(data, groups, training, pairs, random)
    test_factor, test_points = _points(data, groups, evaluation, pairs, random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracy = fitted_accuracy(LogisticRegression(max_iter=1000), points, factor, test_points, test_factor)
    return BetaVAEScore(accuracy)


def _points(
    data: Labelled, groups: ValueGroups, count: int, pairs: int, random: np.random.Generator
) -> tuple[Rows, np.typing.NDArray[np.float64]]:
    """The factor that each point shares (V,), and the points (V, D)."""
    factor = random.integers(len(data.values), size=count)
    first = random.integers(len(data.codes), size=(count, pairs))
    second = groups.sharing(factor[:, None], first, (count, pairs), random)
    both = zip(gathered(data.codes, first), gathered(data.codes, second), strict=True)
    return factor, np.concatenate([np.abs(one - other).mean(axis=1, dtype=np.float64) for one, other in both])
