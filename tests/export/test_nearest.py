"""Neighbours and their weights in operations of a file: those that the library finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.attention import Deviation
from vaelens.attention.scores import ridged
from vaelens.export.nearest import nearest, solved_for_ones
from vaelens.export.traced import TracedDeviation


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 40),
    dims=st.integers(1, 40),
    ridge=st.sampled_from([1e-3, 0.03, 0.3, 1.0, 30.0]),
    scale=st.sampled_from([1e-4, 1.0, 1e3]),
)
def test_the_system_is_solved_as_torch_solves_it(seed: int, count: int, dims: int, ridge: float, scale: float) -> None:
    offsets = scale * torch.randn(3, count, dims, generator=torch.Generator().manual_seed(seed))
    gram, spread = ridged(offsets, ridge)
    got = solved_for_ones(gram, spread, ridge)
    got = got / got.sum(1, keepdim=True)
    exact = torch.linalg.solve(gram.double(), torch.ones(3, count, 1, dtype=torch.double)).squeeze(2)
    exact = exact / exact.sum(1, keepdim=True)
    condition = (count + ridge) / ridge
    assert (got - exact).abs().max() <= 1e-6 * max(1.0, condition / 100)


def test_neighbours_that_coincide_with_the_image_weigh_the_same() -> None:
    gram, spread = ridged(torch.zeros(1, 4, 3), 0.3)
    weights = solved_for_ones(gram, spread, 0.3)
    assert torch.allclose(weights / weights.sum(), torch.full((1, 4), 0.25))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    of=st.integers(1, 90),
    dims=st.integers(1, 12),
    count=st.integers(1, 8),
    away=st.sampled_from([0.0, 1e3, 1e5]),
)
def test_the_nearest_are_the_nearest(seed: int, of: int, dims: int, count: int, away: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    among = torch.randn(of, dims, generator=generator) + away
    codes = torch.randn(5, dims, generator=generator) + away
    count = min(count, of)
    indices, offsets = nearest(codes, among, count)
    assert all(len(set(row)) == count for row in indices.tolist())
    assert torch.equal(offsets, among[indices] - codes[:, None])
    distances = torch.cdist(codes.double(), among.double())
    exact = distances.sort(1).values[:, :count]
    assert torch.allclose(distances.gather(1, indices).sort(1).values, exact, rtol=1e-5, atol=1e-7 * max(1.0, away))


def test_of_an_image_that_is_there_many_times_each_counts_once() -> None:
    among = torch.tensor([[0.0], [1.0], [1.0], [1.0], [5.0]])
    indices, _ = nearest(torch.tensor([[1.0], [4.9]]), among, 3)
    assert sorted(indices[0].tolist()) == [1, 2, 3]
    assert 4 in indices[1].tolist()


@pytest.mark.parametrize(("neighbours", "ridge"), [(6, 0.3), (6, None), (1, 0.3), (None, None), (40, 0.05)])
def test_the_reference_is_the_librarys(neighbours: int | None, ridge: float | None) -> None:
    """As near to that of float64 as the library's own is, which rounds otherwise."""
    codes, features, mean = torch.randn(40, 5), torch.rand(40, 3, 4, 6), torch.randn(7, 5)
    deviation = Deviation(codes, features, "layer", neighbours, ridge)
    exact = Deviation(codes.double(), features.double(), "layer", neighbours, ridge).reference(mean.double())
    got = TracedDeviation.of(deviation).reference(mean)
    assert got.shape == exact.shape
    assert got.dtype == torch.float32
    assert (got - exact).abs().max() < 1e-6 + 5 * (deviation.reference(mean) - exact).abs().max()
