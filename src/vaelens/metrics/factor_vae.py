"""The FactorVAE score: which factor is held fixed is told by which latent varies least.

Reference: Kim and Mnih, "Disentangling by Factorising" (ICML 2018), section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.errors import UsageError, brief, unknown, whole
from vaelens.metrics.codes import Array, labelled
from vaelens.metrics.groups import Rows, ValueGroups, gathered
from vaelens.metrics.results import Result

_CHUNK = 1 << 14


@dataclass(frozen=True)
class FactorVAESettings:
    """How votes are cast.

    Attributes:
        observations: how many observations make one vote, L.
        training_votes: how many votes the majority classifier is made of.
        evaluation_votes: how many more it is measured on; with 0 it is measured on those it is made of.
        least_std: a latent whose standard deviation over all observations is below this never wins a vote.
        in_turn: the factors are held fixed in turn, as often each; else one is drawn for each vote.
    """

    observations: int
    training_votes: int
    evaluation_votes: int
    least_std: float
    in_turn: bool


PRESETS = {
    "disentanglement_lib": FactorVAESettings(64, 10_000, 5_000, 0.05, in_turn=False),
    "infogan_cr": FactorVAESettings(100, 500, 0, 0.0, in_turn=True),
}


@dataclass(frozen=True, eq=False)
class FactorVAEScore(Result):
    """The FactorVAE score of codes with D latents and F factors.

    Attributes:
        score: in [0, 1]; the accuracy over evaluation votes, or over training votes where there are no others. By chance 1 / F.
        train_accuracy: in [0, 1].
        eval_accuracy: in [0, 1]; None without evaluation votes.
        active: (D,), bool, the latents that may win a vote.
        votes: (D, F), how many training votes each latent won while each factor was held fixed.
        preset: its name.
        settings: the settings used, with what was overridden.
    """

    score: float
    train_accuracy: float
    eval_accuracy: float | None
    active: NDArray[np.bool_]
    votes: NDArray[np.int64]
    preset: str
    settings: FactorVAESettings


def factor_vae_score(
    codes: Array,
    factors: Array,
    *,
    preset: str = "disentanglement_lib",
    seed: int = 0,
    observations: int | None = None,
    training_votes: int | None = None,
    evaluation_votes: int | None = None,
    least_std: float | None = None,
) -> FactorVAEScore:
    """How well a majority vote tells which factor is held fixed from which latent varies least.

    A vote draws a factor, takes the value that it has in an observation drawn at random, draws L observations with that value,
    with replacement, and is won by the latent with the least variance over them relative to its variance over all N. The
    classifier answers, for each latent, with the factor that it won most training votes for.

    Two presets. "disentanglement_lib" (Locatello et al. 2019): L = 64, 10,000 training votes, 5,000 evaluation votes, latents
    of a standard deviation below 0.05 pruned. "infogan_cr" (Lin et al. 2020): L = 100, 500 votes with the factors in turn,
    nothing pruned but constant latents, and the score is the accuracy on the votes that the classifier is made of, so that it
    is above 1 / F even by chance. Both differ from the published code in that variances over all observations are exact, where
    it estimates them from 10,000 draws and from a tenth of all images, and in that observations are drawn among those given:
    the same where these are a full grid of factors.

    Args:
        codes: (N, D), real numbers.
        factors: (N, F), whole numbers, F of 2 and more.
        preset: one of PRESETS.
        seed: of the draws; the same seed gives the same result.
        observations: instead of the preset's, likewise those below; see `FactorVAESettings`.

    Returns:
        The score; 0 where every latent is pruned.

    Raises:
        UsageError: an unknown preset, a setting out of range, or codes and factors that `labelled` refuses, a constant factor
            among them: counted as one of F it would change the score.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    settings = _overridden(PRESETS[preset], observations, training_votes, evaluation_votes, least_std)
    random = np.random.default_rng(whole("seed", seed, least=0))
    data = labelled("the FactorVAE score", codes, factors, least_factors=2)
    variance = _variances(data.codes)
    active = (variance > 0) & (np.sqrt(variance) >= settings.least_std)
    shape = data.codes.shape[1], len(data.values)
    if not active.any():
        nothing = 0.0 if settings.evaluation_votes else None
        return FactorVAEScore(0.0, 0.0, nothing, active, np.zeros(shape, np.int64), preset, settings)
    groups = ValueGroups(data)

    def votes(count: int) -> NDArray[np.int64]:
        factor, rows = _drawn(groups, data.labels.shape, count, settings, random)
        winner = _winners(data.codes, rows, variance, active)
        return np.bincount(winner * shape[1] + factor, minlength=shape[0] * shape[1]).reshape(shape)

    training = votes(settings.training_votes)
    answer = training.argmax(axis=1)
    train_accuracy = _accuracy(training, answer)
    eval_accuracy = _accuracy(votes(settings.evaluation_votes), answer) if settings.evaluation_votes else None
    score = train_accuracy if eval_accuracy is None else eval_accuracy
    return FactorVAEScore(score, train_accuracy, eval_accuracy, active, training, preset, settings)


def _overridden(
    settings: FactorVAESettings,
    observations: int | None,
    training_votes: int | None,
    evaluation_votes: int | None,
    least_std: float | None,
) -> FactorVAESettings:
    if observations is not None:
        settings = replace(settings, observations=whole("observations", observations, least=2))
    if training_votes is not None:
        settings = replace(settings, training_votes=whole("training_votes", training_votes))
    if evaluation_votes is not None:
        settings = replace(settings, evaluation_votes=whole("evaluation_votes", evaluation_votes, least=0))
    if least_std is not None:
        if not isinstance(least_std, int | float | np.number) or not 0 <= least_std < math.inf:
            raise UsageError(f"least_std must be a number from 0 on, got {brief(least_std)}")
        settings = replace(settings, least_std=float(least_std))
    return settings


def _drawn(
    groups: ValueGroups, shape: tuple[int, ...], count: int, settings: FactorVAESettings, random: np.random.Generator
) -> tuple[Rows, Rows]:
    """The factor held fixed in each vote (V,) and its observations (V, L)."""
    factor = np.arange(count) % shape[0] if settings.in_turn else random.integers(shape[0], size=count)
    first = random.integers(shape[1], size=count)
    return factor, groups.sharing(factor[:, None], first[:, None], (count, settings.observations), random)


def _winners(codes: NDArray[Any], rows: Rows, variance: NDArray[np.float64], active: NDArray[np.bool_]) -> Rows:
    """The latent that wins each vote (V,): the active one of the least variance over the rows (V, L) relative to `variance`."""
    latents = np.flatnonzero(active)
    least = [(_spread(given)[:, latents] / variance[latents]).argmin(axis=1) for given in gathered(codes, rows)]
    winners: Rows = latents[np.concatenate(least)]
    return winners


def _variances(codes: NDArray[Any]) -> NDArray[np.float64]:
    """The variance of each latent over all observations (D,)."""
    total, squares = np.zeros(codes.shape[1]), np.zeros(codes.shape[1])
    for start in range(0, len(codes), _CHUNK):
        offset = np.subtract(codes[start : start + _CHUNK], codes[0], dtype=np.float64)
        total += offset.sum(axis=0)
        squares += np.einsum("nd,nd->d", offset, offset)
    return np.maximum(squares / len(codes) - (total / len(codes)) ** 2, 0)


def _spread(codes: NDArray[Any]) -> NDArray[np.float64]:
    """The variance of each latent (v, D) over the observations of codes (v, L, D)."""
    # From the first observation, so that equal codes have a variance of exactly 0 whatever they are.
    offset = np.subtract(codes, codes[:, :1], dtype=np.float64)
    count = codes.shape[1]
    squares = np.einsum("vld,vld->vd", offset, offset) / count
    spread: NDArray[np.float64] = np.maximum(squares - (np.einsum("vld->vd", offset) / count) ** 2, 0)
    return spread


def _accuracy(votes: NDArray[np.int64], answer: Rows) -> float:
    return float(votes[np.arange(len(votes)), answer].sum() / votes.sum())
