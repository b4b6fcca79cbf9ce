"""All metrics together: codes that are the factors score high, mixed ones lower, constant ones nothing; and repeats."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from vaelens.errors import UsageError
from vaelens.metrics import all_scores, factor_vae_score, mutual_information_gap, sap
from vaelens.metrics.disentanglement import METRICS

FIGURES = [
    "factor_vae_score",
    "factor_vae_score_infogan_cr",
    "beta_vae_score",
    "mig",
    "modularity",
    "sap",
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
]
FACTORS = np.stack(np.meshgrid(*[np.arange(size) for size in (3, 4, 5, 6)], indexing="ij"), -1).reshape(-1, 4)
IDENTITY = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)


def means(codes: Any) -> dict[str, float]:
    return {name: figure.mean for name, figure in all_scores(codes, FACTORS).items()}


@pytest.fixture(scope="module")
def identity() -> dict[str, float]:
    return means(IDENTITY)


def test_codes_that_are_the_factors_score_high(identity: dict[str, float]) -> None:
    assert list(identity) == FIGURES
    assert identity["factor_vae_score"] >= 0.95
    assert identity["factor_vae_score_infogan_cr"] >= 0.95
    assert identity["beta_vae_score"] >= 0.9
    assert identity["mig"] >= 0.9
    assert identity["modularity"] >= 0.95
    assert identity["sap"] >= 0.3  # of factors with 3 to 6 values, of which a line finds the outer ones
    assert sap(IDENTITY, FACTORS, continuous=True).score >= 0.95
    for name in FIGURES[-3:]:
        assert identity[name] >= 0.9


def test_codes_of_which_each_mixes_all_factors_alike_score_by_chance(identity: dict[str, float]) -> None:
    mixed = means(IDENTITY @ hadamard(4) / 2)
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        assert mixed[name] <= 0.1
    assert mixed["modularity"] <= 0.3
    assert mixed["factor_vae_score"] <= 0.35
    assert mixed["dci_informativeness"] <= identity["dci_informativeness"] - 0.2


@pytest.mark.parametrize("seed", range(2))
def test_a_rotation_of_them_scores_lower(identity: dict[str, float], seed: int) -> None:
    rotated = means(IDENTITY @ np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))[0])
    for name in ("mig", "dci_disentanglement", "dci_completeness"):
        assert rotated[name] <= 0.6
    assert rotated["sap"] <= 0.7 * identity["sap"]
    assert rotated["modularity"] <= identity["modularity"] - 0.01


def test_constant_codes_score_nothing() -> None:
    constant = means(np.full((len(FACTORS), 4), 0.3))
    # No latent varies: the classifier of the beta-VAE score and those of DCI answer with the most frequent value.
    assert constant.pop("beta_vae_score") == pytest.approx(1 / 4, abs=0.03)
    assert constant.pop("dci_informativeness") <= 0.3
    assert set(constant.values()) == {0}


def test_codes_of_noise_score_by_chance() -> None:
    noise = means(np.random.default_rng(0).standard_normal((len(FACTORS), 4)))
    assert noise["factor_vae_score"] <= 0.5
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        assert noise[name] <= 0.2


def test_repeats_take_the_next_seeds() -> None:
    codes = torch.from_numpy(IDENTITY + np.random.default_rng(1).standard_normal(IDENTITY.shape))
    seen: list[tuple[int, int]] = []
    found = all_scores(
        codes, FACTORS, repeats=3, seed=5, metrics=["factor_vae_score", "mig"], progress=lambda *done: seen.append(done)
    )
    expected = tuple(factor_vae_score(codes, FACTORS, seed=seed).score for seed in (5, 6, 7))
    assert list(found) == ["factor_vae_score", "mig"]
    assert found["factor_vae_score"].values == expected
    assert found["factor_vae_score"].mean == pytest.approx(sum(expected) / 3)
    assert found["factor_vae_score"].std == pytest.approx(statistics.stdev(expected))
    assert found["factor_vae_score"].std
    # There is nothing to repeat where there is no randomness.
    assert found["mig"].to_dict() == {
        "mean": mutual_information_gap(codes, FACTORS).score,
        "std": None,
        "values": [mutual_information_gap(codes, FACTORS).score],
    }
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_repeat_has_no_spread() -> None:
    found = all_scores(IDENTITY, FACTORS, metrics="factor_vae_score")
    assert found["factor_vae_score"].to_dict() == {"mean": 1, "std": None, "values": [1]}


def test_only_what_is_named_is_measured() -> None:
    assert list(all_scores(IDENTITY, FACTORS, metrics=("modularity", "mig", "modularity"))) == ["modularity", "mig"]
    assert all_scores(IDENTITY, FACTORS, metrics=()) == {}


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=rf"^unknown metric 'irs'; there are: {', '.join(METRICS)}$"):
        all_scores(IDENTITY, FACTORS, metrics=["mig", "irs"])


@pytest.mark.parametrize("given", [{"repeats": 0}, {"repeats": 1.5}, {"seed": -1}])
def test_numbers_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"must be a whole number from"):
        all_scores(IDENTITY, FACTORS, **given)


def test_what_a_metric_refuses_is_refused() -> None:
    with pytest.raises(UsageError, match=r"codes \(359, 4\) and factors \(360, 4\) must have as many rows"):
        all_scores(IDENTITY[1:], FACTORS)
    with pytest.raises(UsageError, match=r"codes must be an array"):
        all_scores([[0.0, 1.0], [2.0]], FACTORS)
