"""The parts of the KL divergence: by hand, against a Gaussian aggregate whose parts are known, and of hostile input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MixtureSameFamily, Normal
from torch.distributions.categorical import Categorical

from vaelens.errors import UsageError
from vaelens.metrics import aggregate, kl_parts
from vaelens.objectives import kl_per_latent

NARROW = 2 * math.log(0.01)  # a log variance at which posteriors a unit apart do not meet


def grid(*sides: int) -> torch.Tensor:
    return torch.cartesian_prod(*(torch.arange(side).float() for side in sides))


def test_independent_latents_on_a_grid() -> None:
    """Six images that six codes tell apart, in two latents which have nothing to do with each other."""
    mean = grid(2, 3)
    found = kl_parts(mean, torch.full_like(mean, NARROW), samples=64)
    assert found.information == pytest.approx(math.log(6), abs=1e-4)
    assert found.total_correlation == pytest.approx(0, abs=1e-4)
    assert found.information_error == pytest.approx(0, abs=1e-4)


def test_a_latent_that_repeats_another_is_what_they_share() -> None:
    """The second latent is the first: of log 4 each has all, and together they have no more."""
    mean = grid(4).repeat(2, 1).reshape(2, 4).T
    found = kl_parts(mean, torch.full_like(mean, NARROW), samples=64)
    assert found.information == pytest.approx(math.log(4), abs=1e-4)
    assert found.total_correlation == pytest.approx(math.log(4), abs=1e-4)
    # A third that is noise from the prior adds nothing anywhere.
    with_noise = torch.cat([mean, torch.zeros(4, 1)], 1)
    logvar = torch.tensor([NARROW, NARROW, 0.0]).expand(4, 3)
    more = kl_parts(with_noise, logvar, samples=64)
    assert more.total_correlation == pytest.approx(math.log(4), abs=1e-4)
    assert more.marginal[2] == pytest.approx(0, abs=1e-6)


def test_one_latent_is_correlated_with_nothing_and_its_marginal_is_the_mixture() -> None:
    mean, std = torch.tensor([[-1.0], [0.5], [2.0]]), torch.tensor([[0.5], [1.0], [0.3]])
    found = kl_parts(mean, 2 * std.log(), samples=200_000)
    assert found.total_correlation == pytest.approx(0, abs=1e-6)
    mixture = MixtureSameFamily(Categorical(torch.ones(3)), Normal(mean[:, 0], std[:, 0]))
    at = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    log_q = mixture.log_prob(at)
    divergence = float(torch.trapezoid(log_q.exp() * (log_q - Normal(0.0, 1.0).log_prob(at)), at))
    assert found.marginal[0] == pytest.approx(divergence, abs=0.02)
    assert found.information + divergence == pytest.approx(float(kl_per_latent(mean, 2 * std.log()).mean()), abs=0.02)


def test_a_gaussian_aggregate_has_the_total_correlation_of_its_covariance() -> None:
    """-1/2 log det of the correlation matrix; and of rotated codes that were independent there is some."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.full((20_000, 2), math.log(0.3))
    means = torch.randn(20_000, 2, generator=generator) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]]) + 0.3 * torch.eye(2)
    expected = -0.5 * math.log(1 - (0.8 / 1.3) ** 2)
    assert torch.linalg.det(covariance) > 0
    found = kl_parts(means, noise, samples=2000)
    assert found.total_correlation == pytest.approx(expected, abs=4 * found.total_correlation_error + 0.01)
    assert found.information == pytest.approx(
        0.5 * math.log(float(torch.linalg.det(covariance)) / 0.3**2), abs=4 * found.information_error + 0.01
    )


def test_a_square_that_is_turned_is_correlated() -> None:
    """Position in two latents that are turned against it, which a discriminator finds hard to see."""
    square = grid(200, 200) / 100 - 0.995
    narrow = torch.full_like(square, 2 * math.log(0.01))
    turned = square @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    straight, diamond = (kl_parts(codes, narrow, samples=2000) for codes in (square, turned))
    assert straight.total_correlation == pytest.approx(0, abs=1e-3)
    # Of the square the entropy is 2 log 2, of each side of the diamond 1/2 + log sqrt 2; the narrow noise blurs the edges.
    assert diamond.total_correlation == pytest.approx(1 + math.log(2) - 2 * math.log(2), abs=0.05)
    assert diamond.information == pytest.approx(straight.information, abs=0.1)  # turning loses nothing


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_the_parts_add_up_for_each_sample(images: int, latents: int, seed: int) -> None:
    """To log q(z|x) - log p(z) at the very samples; and chunks of any size give the same."""
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(images, latents, generator=generator), torch.randn(images, latents, generator=generator) - 2
    found = kl_parts(mean, logvar, samples=50, seed=seed)
    again = torch.Generator().manual_seed(seed)
    chosen, noise = torch.randint(images, (50,), generator=again), torch.randn(50, latents, generator=again)
    posterior = Normal(mean[chosen], (logvar[chosen] / 2).exp())
    codes = mean[chosen] + noise * (logvar[chosen] / 2).exp()
    divergence = (posterior.log_prob(codes) - Normal(0.0, 1.0).log_prob(codes)).sum(1).mean()
    total = found.information + found.total_correlation + found.marginal.sum()
    assert total == pytest.approx(float(divergence), abs=1e-3)
    assert found.information <= math.log(images) + 1e-4
    # The mixture written out, all at once.
    every = Normal(mean, (logvar / 2).exp()).log_prob(codes[:, None])
    joint = every.sum(2).logsumexp(1) - math.log(images)
    apart = (every.logsumexp(1) - math.log(images)).sum(1)
    assert found.total_correlation == pytest.approx(float((joint - apart).mean()), abs=1e-3)


def test_chunks_are_nothing_to_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    mean, logvar = torch.randn(101, 3, generator=generator), torch.randn(101, 3, generator=generator) - 3
    seen: list[tuple[int, int]] = []
    whole = kl_parts(mean, logvar, samples=37)
    monkeypatch.setattr(aggregate, "_AT_ONCE", 10)
    monkeypatch.setattr(aggregate, "_IMAGES", 7)
    parts = kl_parts(mean.numpy(), logvar.double().numpy(), samples=37, progress=lambda done, total: seen.append((done, total)))
    assert parts.total_correlation == pytest.approx(whole.total_correlation, abs=1e-5)
    np.testing.assert_allclose(parts.marginal, whole.marginal, atol=1e-5)
    assert seen == [(10, 37), (20, 37), (30, 37), (37, 37)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["half", "half of torch", "kept from writing", "turned round"])
def test_tables_of_any_kind(kind: str) -> None:
    mean = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float16)
    logvar = np.full_like(mean, -2.0)
    expected = kl_parts(mean.astype(np.float32), logvar.astype(np.float32), samples=64)
    given: Any = torch.from_numpy(mean) if kind == "half of torch" else mean if kind == "half" else mean.astype(np.float32)
    if kind == "kept from writing":
        given.setflags(write=False)
    if kind == "turned round":
        given = given[::-1].copy()[::-1]
    found = kl_parts(given, logvar, samples=64)
    assert (found.information, found.total_correlation) == (expected.information, expected.total_correlation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.array([[np.inf, 0]] * 4, np.float16)}, "mean must hold finite real numbers"),
        ({"mean": torch.zeros(4)}, r"mean must have the shape \(images, latents\), got \(4,\)"),
        ({"logvar": torch.zeros(4, 3)}, r"mean \(4, 2\) and logvar \(4, 3\) must have one shape"),
        ({"mean": torch.zeros(1, 2), "logvar": torch.zeros(1, 2)}, "at least 2 rows: one image has no aggregate"),
        ({"logvar": torch.full((4, 2), math.inf)}, "logvar must hold finite real numbers"),
        ({"logvar": torch.full((4, 2), 90.0)}, "logvar must lie between -85 and 85: no float32 holds other variances"),
        ({"mean": torch.full((4, 2), 1e39, dtype=torch.float64)}, "mean must hold finite real numbers, none beyond float32's"),
        ({"mean": np.array([["a", "b"]] * 4)}, "mean must hold finite real numbers"),
        ({"mean": [[0.0], [0.0, 1.0]]}, r"mean must be an array \(images, latents\), got"),
        ({"logvar": torch.zeros(4, 2).to_sparse()}, "logvar must be an array"),
        ({"samples": 1}, "samples must be a whole number from 2 on, got 1"),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        kl_parts(**{"mean": torch.zeros(4, 2), "logvar": torch.zeros(4, 2), **change})
    assert "\n" not in str(caught.value)
