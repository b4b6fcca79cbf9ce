"""MIG and modularity: values worked out by hand, against scikit-learn, and what cannot matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from vaelens.metrics import modularity, mutual_information_gap
from vaelens.metrics.modularity import modularity_of


def grid(*sizes: int) -> Any:
    return np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), -1).reshape(-1, len(sizes))


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def noisy_copies() -> tuple[Any, Any]:
    """Two binary factors, each pair of values 4 times; latent 0 is factor 0 but wrong in 1 of 4, latent 1 is factor 1."""
    factors = np.repeat(grid(2, 2), 4, axis=0)
    wrong = np.tile([0, 0, 0, 1], 4)
    return np.stack([factors[:, 0] ^ wrong, factors[:, 1]], axis=1), factors


def test_mig_of_a_noisy_copy() -> None:
    # I(latent 0; factor 0) = ln 2 - H(1/4), I(latent 1; factor 1) = ln 2, and nothing across, as each is balanced within the
    # other. Each gap is to a latent that knows nothing, over the entropy ln 2.
    found = mutual_information_gap(*noisy_copies())
    known = math.log(2) - binary_entropy(1 / 4)
    assert found.mutual_information == pytest.approx(np.array([[known, 0], [0, math.log(2)]]), abs=1e-12)
    assert found.entropy == pytest.approx([math.log(2)] * 2)
    assert found.per_factor == pytest.approx([known / math.log(2), 1])
    assert found.score == pytest.approx((1 - binary_entropy(1 / 4) / math.log(2) + 1) / 2)


def test_two_latents_that_know_the_same_have_no_gap() -> None:
    codes, factors = noisy_copies()
    assert mutual_information_gap(codes[:, [1, 1]], factors).score == 0


def test_bins_are_of_one_width_between_least_and_largest_code() -> None:
    # With 2 bins of [0, 10] codes up to 5 - are one: 0, 1, 4.9 | 5, 9, 10.
    codes = np.array([0, 1, 4.9, 5, 9, 10])
    found = mutual_information_gap(np.stack([codes, np.zeros(6)], axis=1), np.array([0, 0, 0, 1, 1, 1])[:, None], bins=2)
    assert found.mutual_information.tolist() == [[pytest.approx(math.log(2))], [0]]
    other = mutual_information_gap(np.stack([codes, np.zeros(6)], axis=1), np.array([0, 0, 1, 1, 1, 1])[:, None], bins=2)
    # One bin has factor values 0, 0, 1, the other 1, 1, 1: H(1/3) - H(1/3) / 2.
    assert other.mutual_information[0, 0] == pytest.approx(binary_entropy(1 / 3) / 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [1, -1, 0])
def test_a_latent_that_varies_by_rounding_alone_knows_nothing(dtype: Any, level: int) -> None:
    factors = np.tile(grid(4, 3), (5, 1))
    codes = np.full(factors.shape, level, dtype)
    codes[:, 0] = factors[:, 0]
    codes[factors[:, 1] == 1, 1] = np.nextafter(dtype(level), dtype(2))
    found = mutual_information_gap(codes, factors)
    assert found.mutual_information == pytest.approx(np.array([[math.log(4), 0], [0, 0]]), abs=1e-6)
    assert modularity(codes, factors).per_latent.tolist() == pytest.approx([1, 0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 20]), st.sampled_from([np.float32, np.float64]))
def test_mutual_information_is_that_of_scikit_learn(seed: int, bins: int, kind: type) -> None:
    random = np.random.default_rng(seed)
    factors = random.integers(0, 4, (200, 2))
    codes = (random.standard_normal((200, 3)) + factors[:, [0, 1, 1]]).astype(kind)
    found = mutual_information_gap(codes, factors, bins)
    binned = [np.digitize(latent, np.histogram(latent, bins)[1][:-1]) for latent in codes.T]
    expected = [[mutual_info_score(factor, latent) for factor in factors.T] for latent in binned]
    assert found.mutual_information == pytest.approx(np.array(expected), abs=1e-9)
    assert found.entropy == pytest.approx([mutual_info_score(factor, factor) for factor in factors.T])


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        ([[2, 1], [0, 3]], [1 - 1 / 4, 1]),  # 1^2 / (2^2 (2 - 1)) lost; nothing lost
        ([[2, 2], [0, 0]], [0, 0]),  # as much of each; nothing at all
        ([[2, 1, 1], [4, 0, 4]], [1 - (1 + 1) / (4 * 2), 1 - 16 / (16 * 2)]),
    ],
)
def test_modularity_of_an_information_matrix(information: Any, expected: list[float]) -> None:
    assert modularity_of(np.array(information, np.float64)) == pytest.approx(expected)


def test_modularity_of_codes() -> None:
    # Latent 0 and 1 know of one factor each, whatever they know of it; their sum knows as much of both; a constant nothing.
    codes, factors = noisy_copies()
    codes = np.c_[codes, factors.sum(axis=1), np.ones(16)]
    found = modularity(codes, factors)
    assert found.per_latent == pytest.approx([1, 1, 0, 0], abs=1e-12)
    assert found.score == pytest.approx(0.5)
    assert found.mutual_information.tolist() == mutual_information_gap(codes, factors).mutual_information.tolist()


def test_a_latent_that_is_independent_of_every_factor_has_no_modularity() -> None:
    factors = grid(3, 5, 7)
    assert modularity(np.ones((105, 1)), factors).mutual_information.tolist() == [[0, 0, 0]]
    found = modularity(factors[:, 2:], factors[:, :2])
    assert found.mutual_information.tolist() == [[0, 0]]
    assert found.score == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(5)), st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
def test_the_order_and_the_scale_of_latents_do_not_matter(seed: int, order: list[int], scale: list[float]) -> None:
    factors = grid(3, 4, 5)
    codes = np.random.default_rng(seed).standard_normal((60, 5)) + np.c_[factors, factors[:, :2]]
    turned = (codes * scale)[:, order]
    gap, modular = mutual_information_gap(codes, factors), modularity(codes, factors)
    assert 0 <= gap.score <= 1
    assert 0 <= modular.score <= 1
    assert mutual_information_gap(turned, factors).per_factor == pytest.approx(gap.per_factor, abs=1e-9)
    assert modularity(turned, factors).per_latent == pytest.approx(modular.per_latent[order], abs=1e-9)
