"""The FactorVAE and the beta-VAE score: cases with one possible outcome, what cannot matter, and the speed at full size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.metrics import beta_vae_score, factor_vae_score
from vaelens.metrics.codes import labelled
from vaelens.metrics.groups import ValueGroups


def grid(*sizes: int) -> Any:
    return np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), -1).reshape(-1, len(sizes))


def random_codes(seed: int, count: int, latents: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, latents))


def test_a_latent_that_is_the_factor_wins_every_vote_on_it() -> None:
    # While a factor is held fixed, the latent that equals it has variance 0. The other has more unless all 100 draws agree, a
    # chance of 2^-99. Factors come in turn, 250 times each.
    factors = grid(2, 2)
    found = factor_vae_score(factors, factors, preset="infogan_cr")
    assert found.votes.tolist() == [[250, 0], [0, 250]]
    assert (found.score, found.train_accuracy, found.eval_accuracy) == (1, 1, None)
    swapped = factor_vae_score(factors[:, ::-1], factors, preset="infogan_cr")
    assert swapped.votes.tolist() == [[0, 250], [250, 0]]
    assert swapped.score == 1


def test_with_one_latent_half_of_the_votes_on_two_factors_are_right() -> None:
    factors = grid(2, 2)
    found = factor_vae_score(factors[:, :1], factors, preset="infogan_cr")
    assert found.votes.tolist() == [[250, 250]]
    assert found.score == 0.5


def test_votes_on_a_factor_that_no_latent_knows_are_lost() -> None:
    # 500 votes in turn on 3 factors: 167, 167 and 166. Either latent wins at most 166 on the third factor, fewer than the 167
    # on its own, so that the third is never answered.
    factors = grid(4, 4, 4)
    found = factor_vae_score(factors[:, :2], factors, preset="infogan_cr")
    assert found.votes[:, :2].tolist() == [[167, 0], [0, 167]]
    assert found.votes[:, 2].sum() == 166
    assert found.score == 334 / 500


def test_evaluation_votes_are_answered_as_in_training() -> None:
    factors = grid(4, 4, 4)
    found = factor_vae_score(factors[:, :2], factors)
    assert found.votes.sum() == 10_000
    assert found.votes[0, 1] == found.votes[1, 0] == 0
    assert found.score == found.eval_accuracy != found.train_accuracy
    assert found.score == pytest.approx(2 / 3, abs=0.03)  # 5,000 votes, each right with a chance of 2/3: a std of 0.007
    assert found.train_accuracy == found.votes.max(axis=1).sum() / 10_000


@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops_over_votes(seed: int) -> None:
    factors, random = grid(3, 4, 5), np.random.default_rng(seed)
    codes = random_codes(seed, 60, 4) + factors @ random_codes(seed + 9, 3, 4)
    wins = np.zeros((2, 4, 3))
    for vote in range(6000):
        factor, shown = random.integers(3), factors[random.integers(60)]
        group = [i for i in range(60) if factors[i, factor] == shown[factor]]
        given = codes[random.choice(group, 10)]
        wins[vote % 2, (given.var(axis=0) / codes.var(axis=0)).argmin(), factor] += 1
    expected = sum(wins[1, latent, wins[0, latent].argmax()] for latent in range(4)) / 3000
    found = factor_vae_score(codes, factors, observations=10, seed=seed)
    assert found.score == pytest.approx(expected, abs=0.035)  # two counts whose std is 0.009 and less
    assert found.votes / 10_000 == pytest.approx(wins[0] / 3000, abs=0.035)


def test_a_pruned_latent_never_wins() -> None:
    factors = grid(4, 4)
    codes = np.stack([factors[:, 0] * 0.01, factors[:, 1], np.full(16, 3.7)], axis=1)  # std 0.011, 1.1 and 0
    found = factor_vae_score(codes, factors)
    assert found.active.tolist() == [False, True, False]
    assert found.votes[[0, 2]].sum() == 0
    assert found.score == pytest.approx(0.5, abs=0.03)
    kept = factor_vae_score(codes, factors, least_std=0)
    assert kept.active.tolist() == [True, True, False]
    assert kept.score == 1
    assert kept.settings.least_std == 0
    assert factor_vae_score(codes, factors, preset="infogan_cr").active.tolist() == [True, True, False]


@pytest.mark.parametrize(("preset", "evaluated"), [("disentanglement_lib", 0.0), ("infogan_cr", None)])
def test_where_all_latents_are_pruned_the_score_is_0(preset: str, evaluated: float | None) -> None:
    found = factor_vae_score(np.full((16, 3), 0.1), grid(4, 4), preset=preset)
    assert (found.score, found.train_accuracy, found.eval_accuracy) == (0, 0, evaluated)
    assert found.votes.tolist() == [[0, 0]] * 3


def test_settings_instead_of_those_of_the_preset() -> None:
    found = factor_vae_score(random_codes(0, 16, 3), grid(4, 4), observations=5, training_votes=70, evaluation_votes=0)
    assert found.votes.sum() == 70
    assert found.eval_accuracy is None
    assert found.preset == "disentanglement_lib"
    assert (found.settings.observations, found.settings.training_votes, found.settings.least_std) == (5, 70, 0.05)


def test_a_large_mean_hides_no_variance() -> None:
    factors = grid(4, 4)
    assert factor_vae_score(factors * 1e-3 + 1e6, factors, least_std=0).score == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(5)), st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
def test_the_order_and_the_scale_of_latents_do_not_matter(seed: int, order: list[int], scale: list[float]) -> None:
    factors = grid(3, 4, 5)
    codes = random_codes(seed, 60, 5) + np.c_[factors, factors[:, :2]]
    few: dict[str, Any] = {"training_votes": 200, "evaluation_votes": 100, "least_std": 0, "seed": seed}
    found = factor_vae_score(codes, factors, **few)
    turned = factor_vae_score((codes * scale)[:, order], factors, **few)
    assert 0 <= found.score <= 1
    assert turned.score == found.score
    assert (turned.votes == found.votes[order]).all()


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_observations_are_drawn_from_the_right_group(seed: int) -> None:
    random = np.random.default_rng(seed)
    factors = random.integers(0, 4, (40, 3))
    factors[:2] = [[0, 0, 0], [1, 1, 1]]
    groups = ValueGroups(labelled("this", np.zeros((40, 1)), factors))
    factor, first = random.integers(3, size=(20, 1)), random.integers(40, size=(20, 1))
    drawn = groups.sharing(factor, first, (20, 7), random)
    assert (factors[drawn, factor] == factors[first, factor]).all()


def test_each_observation_of_a_group_is_as_likely() -> None:
    factors = np.array([0, 1, 0, 1, 1, 0, 1])[:, None]
    groups = ValueGroups(labelled("this", np.zeros((7, 1)), factors))
    drawn = groups.sharing(np.array(0), np.array(1), (40_000,), np.random.default_rng(0))
    assert np.bincount(drawn, minlength=7) / 40_000 == pytest.approx([0, 0.25, 0, 0.25, 0.25, 0, 0.25], abs=0.01)


def test_pairs_that_share_a_factor_do_not_differ_in_its_latent() -> None:
    # Sharing factor 0, the mean difference in latent 0 is 0; sharing factor 1, it is that of 64 pairs that differ by 0 or 1,
    # each with a chance of 1/2. A threshold of 1/4 is 4 standard deviations from that. One latent is as good as two.
    factors = grid(2, 2)
    assert beta_vae_score(factors, factors).score == 1
    assert beta_vae_score(factors[:, :1], factors).score == pytest.approx(1, abs=0.002)


def test_constant_codes_tell_no_factor() -> None:
    assert beta_vae_score(np.ones((120, 3)), grid(2, 3, 4, 5)).score == pytest.approx(1 / 4, abs=0.03)


def test_a_single_training_point_is_answered_with_its_factor() -> None:
    found = beta_vae_score(random_codes(0, 16, 3), grid(4, 4), training_points=1, evaluation_points=2000)
    assert found.score == pytest.approx(0.5, abs=0.05)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_beta_vae_score_does_not_depend_on_the_order_of_latents(seed: int, order: list[int]) -> None:
    factors = grid(3, 4, 5)
    codes = random_codes(seed, 60, 4) + np.c_[factors, factors[:, 0]]
    few = {"training_points": 300, "evaluation_points": 200, "seed": seed}
    found = beta_vae_score(codes, factors, **few).score
    assert 0 <= found <= 1
    assert beta_vae_score(codes[:, order], factors, **few).score == pytest.approx(found, abs=0.01)  # the solver stops early


def test_the_factor_vae_score_of_all_dsprites_takes_less_than_a_second() -> None:
    factors = grid(3, 6, 40, 32, 32)
    codes = np.random.default_rng(0).standard_normal((len(factors), 10), dtype=np.float32)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        found = factor_vae_score(codes, factors)
        times.append(time.perf_counter() - start)
    assert found.score == pytest.approx(0.2, abs=0.03)
    assert min(times) < 2  # 0.2 s on one free core; a busy machine only ever adds
