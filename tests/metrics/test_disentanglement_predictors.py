"""SAP and DCI: their formulas by hand, cases with a known outcome, and the points they learn from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.metrics import dci, sap
from vaelens.metrics.accuracy import split
from vaelens.metrics.dci import importance_scores
from vaelens.metrics.gap import gap


def grid(*sizes: int) -> Any:
    return np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), -1).reshape(-1, len(sizes))


def binary_entropy(p: float) -> float:
    """In bits."""
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


importances = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).gamma(0.3, size=(5, 3)))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0.9, 0.5], [0.6, 0.8]], [0.3, 0.3]),
        ([[0.9, 0.5], [0.6, 0.8], [0.8, 0.8]], [0.1, 0]),
        ([[1], [0], [0]], [1]),
    ],
)
def test_gap_of_a_matrix(matrix: Any, expected: list[float]) -> None:
    assert gap(np.array(matrix, np.float64)) == pytest.approx(expected)


def test_sap_of_binary_factors() -> None:
    # A latent that is a factor predicts it always, and the other as chance does, 1/2: a gap of 1/2.
    factors = np.tile(grid(2, 2), (10_000, 1))
    found = sap(factors, factors)
    assert found.predictability.diagonal().tolist() == [1, 1]
    assert found.predictability[[0, 1], [1, 0]] == pytest.approx([0.5, 0.5], abs=0.04)
    assert found.score == pytest.approx(0.5, abs=0.04)


def test_sap_of_quantities() -> None:
    # Factors a and b of variance v, independent. The latent a has an R^2 of 1 with a and of 0 with b; the latent a + b has one
    # of v^2 / (v 2v) = 1/2 with either.
    factors = np.tile(grid(4, 4), (2500, 1))
    codes = np.stack([factors[:, 0], factors.sum(axis=1)], axis=1)
    found = sap(codes, factors, continuous=True)
    assert found.predictability == pytest.approx(np.array([[1, 0], [0.5, 0.5]]), abs=0.03)
    assert found.per_factor == pytest.approx([0.5, 0.5], abs=0.05)


def test_sap_of_constant_codes_is_0() -> None:
    factors = grid(3, 4, 5)
    assert sap(np.ones((60, 3)), factors).score == 0
    assert sap(np.ones((60, 3)), factors, continuous=True).score == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_sap_does_not_depend_on_the_order_of_latents(seed: int, order: list[int]) -> None:
    factors = grid(3, 4, 5)
    codes = np.random.default_rng(seed).standard_normal((60, 4)) + np.c_[factors, factors[:, 0]]
    found = sap(codes, factors, seed=seed)
    assert 0 <= found.score <= 1
    assert (sap(codes[:, order], factors, seed=seed).predictability == found.predictability[order]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_sap_of_quantities_does_not_depend_on_scale(seed: int, scale: list[float]) -> None:
    factors = grid(3, 4, 5)
    codes = np.random.default_rng(seed).standard_normal((60, 4)) + np.c_[factors, factors[:, 0]]
    found = sap(codes, factors, continuous=True)
    assert 0 <= found.score <= 1
    assert sap(codes * scale, 3 * factors - 1, continuous=True).score == pytest.approx(found.score, abs=1e-9)


@pytest.mark.parametrize(
    ("importance", "disentanglement", "completeness"),
    [
        ([[1, 0], [0, 1]], 1, 1),
        ([[0.5, 0.5], [0.5, 0.5]], 0, 0),
        ([[0, 0], [0, 0]], 0, 0),
        # Latent 0 has 3/4 of all importance, in shares 2/3 and 1/3; latent 1 has 1/4, all of it for factor 1. For factor 0
        # latent 0 alone is important, for factor 1 both alike; the factors count the same.
        ([[1, 0.5], [0, 0.5]], 3 / 4 * (1 - binary_entropy(1 / 3)) + 1 / 4, 1 / 2),
        # A latent of no importance counts nothing. Entropies over 3 latents are to the base 3: ln 2 / ln 3 for two alike.
        ([[1, 0], [0, 0], [0, 1]], 1, 1),
        ([[0.5, 0], [0.5, 0], [0, 1]], 1, (1 - math.log(2) / math.log(3) + 1) / 2),
    ],
)
def test_scores_of_an_importance_matrix(importance: Any, disentanglement: float, completeness: float) -> None:
    assert importance_scores(np.array(importance, np.float64)) == pytest.approx((disentanglement, completeness), abs=1e-12)


@settings(deadline=None)
@given(importances, st.permutations(range(5)), st.permutations(range(3)), st.floats(0.01, 100))
def test_neither_order_nor_scale_of_importances_matters(matrix: Any, rows: list[int], columns: list[int], by: float) -> None:
    found = importance_scores(matrix)
    assert all(0 <= value <= 1 for value in found)
    assert importance_scores(by * matrix[rows][:, columns]) == pytest.approx(found, abs=1e-9)
    assert importance_scores(matrix.T) == pytest.approx(found[::-1], abs=1e-9)


@pytest.mark.parametrize("estimator", ["forest", "boosting"])
def test_dci_of_codes_that_are_the_factors(estimator: str) -> None:
    factors = np.tile(grid(3, 4), (20, 1))
    codes = np.c_[factors[:, ::-1], np.random.default_rng(0).standard_normal(240)]
    found = dci(codes, factors, estimator=estimator)
    assert found.importance == pytest.approx(np.array([[0, 1], [1, 0], [0, 0]]), abs=0.02)
    assert min(found.disentanglement, found.completeness) > 0.95
    assert found.informativeness == 1
    assert found.estimator == estimator


@pytest.mark.parametrize("estimator", ["forest", "boosting"])
def test_dci_of_constant_codes_is_0(estimator: str) -> None:
    found = dci(np.ones((60, 3)), grid(3, 4, 5), estimator=estimator)
    assert (found.disentanglement, found.completeness) == (0, 0)
    assert found.informativeness <= 0.45  # by chance (1/3 + 1/4 + 1/5) / 3, on 20 points


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(-6, 6), min_size=4, max_size=4))
def test_dci_does_not_depend_on_scale(seed: int, powers: list[int]) -> None:
    factors = grid(3, 4, 5)
    codes = np.random.default_rng(seed).standard_normal((60, 4)) + np.c_[factors, factors[:, 0]]
    found = dci(codes, factors, seed=seed)
    assert all(0 <= value <= 1 for value in (found.disentanglement, found.completeness, found.informativeness))
    # Powers of 2, so that thresholds between codes are rounded alike.
    assert dci(codes * 2.0 ** np.array(powers), factors, seed=seed).importance == pytest.approx(found.importance, abs=1e-12)


@pytest.mark.parametrize("metric", [sap, dci])
@pytest.mark.parametrize("seed", range(3))
def test_two_observations_are_enough(metric: Any, seed: int) -> None:
    # One to learn from, and the other has another value of each factor: never right.
    found = metric(np.eye(2), np.eye(2, dtype=int), seed=seed).to_dict()
    assert found.get("score", found.get("disentanglement")) == 0


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 60), st.integers(1, 60))
def test_test_points_are_no_training_points(count: int, training: int, test: int) -> None:
    rows, others = split(count, training, test, np.random.default_rng(0))
    assert len({*rows.tolist(), *others.tolist()}) == len(rows) + len(others) == min(count, training + test)
    assert len(rows) >= 1
    assert len(others) >= 1
    if training + test <= count:
        assert (len(rows), len(others)) == (training, test)
    else:
        assert len(rows) == pytest.approx(count * training / (training + test), abs=1)


@pytest.mark.parametrize("numbers", [(0, 5), (5, 0), (2.5, 5)])
def test_numbers_of_points_are_whole(numbers: Any) -> None:
    with pytest.raises(UsageError, match=r"must be a whole number from 1 on"):
        split(10, *numbers, np.random.default_rng(0))
