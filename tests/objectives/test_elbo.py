"""The evidence lower bound against values worked out by hand and against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal, kl_divergence

from vaelens.errors import UsageError
from vaelens.objectives import (
    active_latents,
    elbo,
    kl_per_latent,
    kl_warmup,
    reconstruction_error,
    reparameterize,
)
from vaelens.objectives.elbo import LIKELIHOODS

moderate = st.floats(-6, 6, width=32)


def test_bernoulli_error_by_hand() -> None:
    logits = torch.tensor([[[[0.0, math.log(3.0)]]], [[[100.0, -100.0]]]])
    images = torch.tensor([[[[0.25, 1.0]]], [[[1.0, 0.0]]]])
    # sigmoid(log 3) = 3/4; a probability of one half costs log 2 whatever the pixel; certainty that is right costs nothing.
    expected = torch.tensor([math.log(2) - math.log(0.75), 0.0])
    torch.testing.assert_close(reconstruction_error(logits, images), expected)


def test_gaussian_error_by_hand() -> None:
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])
    images = torch.tensor([[[[1.0, 0.25]]]])
    expected = torch.tensor([0.5 * (0.5**2 + 0.5**2)])
    torch.testing.assert_close(reconstruction_error(logits, images, "gaussian"), expected)


def test_errors_are_log_likelihoods() -> None:
    logits, images = torch.randn(5, 3, 4, 6), torch.randint(0, 2, (5, 3, 4, 6)).float()
    bernoulli = -Bernoulli(logits=logits).log_prob(images).flatten(1).sum(1)
    torch.testing.assert_close(reconstruction_error(logits, images), bernoulli)
    gaussian = -Normal(torch.sigmoid(logits), 1.0).log_prob(images).flatten(1).sum(1)
    constant = 3 * 4 * 6 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(reconstruction_error(logits, images, "gaussian") + constant, gaussian)


def test_the_optimal_gaussian_is_the_likeliest_one() -> None:
    """The best of many variances, by trying; and the gradient is that of the squared error over it."""
    logits, images = torch.randn(5, 1, 6, 7, requires_grad=True), torch.rand(5, 1, 6, 7)
    error = reconstruction_error(logits, images, "optimal-gaussian")
    residual = torch.sigmoid(logits) - images
    constant = 6 * 7 * math.log(2 * math.pi) / 2
    tried = [
        float(-Normal(torch.sigmoid(logits), scale).log_prob(images).sum().detach() / 5 - constant)
        for scale in torch.linspace(0.05, 1, 2000).tolist()
    ]
    assert float(error.mean().detach()) == pytest.approx(min(tried), abs=1e-3)
    (gradient,) = torch.autograd.grad(error.sum(), logits)
    (expected,) = torch.autograd.grad(residual.square().sum() / (2 * residual.square().mean().detach()), logits)
    torch.testing.assert_close(gradient, expected)


def test_a_perfect_reconstruction_has_a_finite_error() -> None:
    images = torch.full((2, 1, 4, 4), 0.5)
    error = reconstruction_error(torch.zeros(2, 1, 4, 4), images, "optimal-gaussian")
    assert error.tolist() == pytest.approx([8 * math.log(1 / (12 * 255**2))] * 2)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_an_image_does_not_change_the_error_of_another(likelihood: str) -> None:
    logits, images = torch.randn(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    together = reconstruction_error(logits, images, likelihood)
    alone = torch.cat([reconstruction_error(logits[i : i + 1], images[i : i + 1], likelihood) for i in range(4)])
    torch.testing.assert_close(together, alone)


def test_unknown_likelihood_names_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown likelihood 'laplace'; there are: bernoulli, gaussian, optimal-gaussian"):
        reconstruction_error(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), "laplace")


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(1, 1, 2, 2\).*\(1, 1, 2, 3\)"):
        reconstruction_error(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
    with pytest.raises(UsageError, match=r"\(2, 3\).*\(2, 4\)"):
        kl_per_latent(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(UsageError, match=r"\(2, 3\).*\(1, 3\)"):
        reparameterize(torch.zeros(2, 3), torch.zeros(1, 3))


@given(st.lists(st.tuples(moderate, moderate), min_size=1, max_size=8))
def test_kl_equals_that_of_torch_distributions(posterior: list[tuple[float, float]]) -> None:
    mean, logvar = torch.tensor(posterior).double().T
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * logvar)), Normal(0.0, 1.0))
    kl = kl_per_latent(mean[None], logvar[None])
    torch.testing.assert_close(kl, expected[None], rtol=1e-9, atol=1e-12)
    assert (kl > -1e-12).all()


def test_kl_is_zero_at_the_prior_and_exact_near_it() -> None:
    assert kl_per_latent(torch.zeros(1, 2), torch.zeros(1, 2)).eq(0).all()
    # Second order: v^2 / 4. exp(v) - 1 - v in float32 would give 0 or several times too much.
    small = torch.tensor([[1e-3]])
    torch.testing.assert_close(kl_per_latent(torch.zeros(1, 1), small), small.square() / 4, rtol=1e-3, atol=0)


def test_kl_by_hand() -> None:
    kl = kl_per_latent(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]]))
    torch.testing.assert_close(kl, torch.tensor([[2.0, 0.5 * (4 - 1 - math.log(4.0))]]))


def test_reparameterize_has_the_posterior_moments() -> None:
    mean, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(0.25)]])
    sample = reparameterize(mean.expand(40_000, 2), logvar.expand(40_000, 2), torch.Generator().manual_seed(1))
    torch.testing.assert_close(sample.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(sample.std(0), torch.tensor([1.0, 0.5]), atol=0.02, rtol=0)


def test_reparameterize_gradients_by_hand() -> None:
    mean = torch.tensor([[0.5, -1.0]], requires_grad=True)
    logvar = torch.tensor([[0.2, -3.0]], requires_grad=True)
    sample = reparameterize(mean, logvar, torch.Generator().manual_seed(3))
    noise = torch.randn(1, 2, generator=torch.Generator().manual_seed(3))
    sample.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(1, 2))
    torch.testing.assert_close(logvar.grad, 0.5 * torch.exp(0.5 * logvar.detach()) * noise)


def test_a_generator_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    reparameterize(torch.zeros(2, 3), torch.zeros(2, 3), torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    reparameterize(torch.zeros(2, 3), torch.zeros(2, 3))
    assert not torch.equal(torch.random.get_rng_state(), before)


@given(st.floats(0, 10), st.sampled_from(LIKELIHOODS))
def test_elbo_is_the_weighted_sum_of_its_parts(weight: float, likelihood: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, images = (torch.rand(3, 1, 4, 4, generator=generator) for _ in range(2))
    mean, logvar = (torch.randn(3, 5, generator=generator) for _ in range(2))
    terms = elbo(logits, images, mean, logvar, likelihood, weight)
    assert terms.reconstruction.shape == (3,)
    assert terms.kl.shape == (3, 5)
    torch.testing.assert_close(terms.reconstruction, reconstruction_error(logits, images, likelihood))
    torch.testing.assert_close(terms.kl, kl_per_latent(mean, logvar))
    expected = terms.reconstruction.mean() + weight * terms.kl.sum() / 3
    torch.testing.assert_close(terms.loss, expected)


def test_each_latent_may_have_a_kl_weight_of_its_own() -> None:
    """Latents with means 1 and 2 and unit variance: KL divergences of 1/2 and 2 nats; a pixel of even odds costs log 2."""
    mean, logvar = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    terms = elbo(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), mean, logvar, kl_weight=torch.tensor([3.0, 0.25]))
    assert float(terms.loss) == pytest.approx(math.log(2) + 3 * 0.5 + 0.25 * 2)
    assert terms.kl.tolist() == [[0.5, 2.0]]  # themselves, without the weights
    with pytest.raises(UsageError, match=r"a KL weight for each latent is \(2,\), got \(1,\)"):
        elbo(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), mean, logvar, kl_weight=torch.ones(1))


def test_half_precision_is_computed_in_float32() -> None:
    logits, images = torch.randn(2, 1, 28, 28).bfloat16(), torch.rand(2, 1, 28, 28)
    mean, logvar = torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16()
    terms = elbo(logits, images, mean, logvar)
    exact = elbo(logits.float(), images, mean.float(), logvar.float())
    assert terms.loss.dtype == torch.float32
    assert torch.equal(terms.loss, exact.loss)
    assert reparameterize(mean, logvar).dtype == torch.float32


@given(st.integers(0, 200), st.integers(1, 100))
def test_warmup_rises_in_a_line_to_one(step: int, steps: int) -> None:
    weight = kl_warmup(step, steps)
    assert weight == (1.0 if step >= steps else pytest.approx(step / steps))
    assert kl_warmup(step + 1, steps) >= weight


def test_warmup_ends_and_errors() -> None:
    assert kl_warmup(0, 0) == 1.0
    assert kl_warmup(0, 10) == 0.0
    with pytest.raises(UsageError, match="-1"):
        kl_warmup(-1, 10)


def test_active_latents() -> None:
    mean_kl = torch.tensor([0.0, 0.05, 0.0501, 3.0, math.nan])
    assert active_latents(mean_kl).tolist() == [False, False, True, True, False]
    assert active_latents(mean_kl, threshold=1.0).tolist() == [False, False, False, True, False]
    with pytest.raises(UsageError, match=r"\(2, 3\)"):
        active_latents(torch.zeros(2, 3))
