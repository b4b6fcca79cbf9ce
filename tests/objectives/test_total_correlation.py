"""Total correlation by a discriminator: FactorVAE's network, its losses by hand, and a total correlation that is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from vaelens.errors import UsageError
from vaelens.objectives import Discriminator, discriminator_loss, permute_latents, standardized, total_correlation


def test_the_discriminator_has_the_layers_of_the_appendix() -> None:
    network = Discriminator(10)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(10, 1000), *[(1000, 1000)] * 4, (1000, 2)]
    others = [layer for layer in network.layers if not isinstance(layer, nn.Linear)]
    assert [(type(layer), layer.negative_slope) for layer in others] == [(nn.LeakyReLU, 0.2)] * 5
    assert [type(layer) for layer in network.layers] == [nn.Linear, nn.LeakyReLU] * 5 + [nn.Linear]
    assert network(torch.randn(7, 10)).shape == (7, 2)


def test_the_discriminators_first_weights_are_he_initialised_and_come_from_the_seed() -> None:
    torch.manual_seed(3)
    one = Discriminator(10)
    for layer in one.layers:
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any()
            expected = math.sqrt(2 / (1 + 0.2**2) / layer.in_features)
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.05)
    logits = one(torch.randn(500, 10)).detach()
    assert 0.3 < float(logits.std()) < 3  # the signal neither dies nor explodes on its way
    torch.manual_seed(3)
    other = Discriminator(10)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("latents", [1, 0, 2.5, True, "3"])
def test_fewer_than_two_latents_are_refused(latents: Any) -> None:
    with pytest.raises(UsageError, match=r"total correlation is between latents|latent_dim must be a whole number") as caught:
        Discriminator(latents)
    assert "\n" not in str(caught.value)


def test_total_correlation_of_logits_by_hand() -> None:
    # log-ratios 2 - 0.5 = 1.5, -1 - 1 = -2, 4 - 0 = 4: in the mean 3.5 / 3
    logits = torch.tensor([[2.0, 0.5], [-1.0, 1.0], [4.0, 0.0]], requires_grad=True)
    found = total_correlation(logits)
    assert float(found.detach()) == pytest.approx(3.5 / 3)
    found.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0]] * 3) / 3)


def test_the_loss_by_hand() -> None:
    # p(right) is 3/4 for the code and 9/10 for the permuted one.
    joint, product = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[1.0, 1.0 + math.log(9.0)]])
    expected = -(math.log(3 / 4) + math.log(9 / 10)) / 2
    assert float(discriminator_loss(joint, product)) == pytest.approx(expected)


@given(st.integers(0, 2**31), st.integers(1, 20), st.floats(0, 30))
@settings(max_examples=40, deadline=None)
def test_the_loss_is_torchs_cross_entropy(seed: int, count: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    joint, product = (scale * torch.randn(count, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0] * count + [1] * count)
    expected = functional.cross_entropy(torch.cat([joint, product]), labels)
    assert float(discriminator_loss(joint, product)) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_both_kinds_of_codes_count_the_same_though_one_batch_be_smaller() -> None:
    joint, product = torch.randn(3, 2), torch.randn(9, 2)
    each = [functional.cross_entropy(logits, torch.full((len(logits),), i)) for i, logits in enumerate((joint, product))]
    torch.testing.assert_close(discriminator_loss(joint, product), sum(each) / 2)


def test_zero_logits_are_chance() -> None:
    zero = torch.zeros(5, 2)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(math.log(2))
    assert float(total_correlation(zero)) == 0


def test_large_logits_stay_finite_and_half_precision_is_taken_to_float32() -> None:
    sure = torch.tensor([[500.0, -500.0]])
    assert float(discriminator_loss(sure, -sure)) == 0
    assert float(discriminator_loss(-sure, sure)) == pytest.approx(1000)
    logits = torch.randn(300, 2).bfloat16()
    for found, exact in (
        (total_correlation(logits), total_correlation(logits.float())),
        (discriminator_loss(logits, -logits), discriminator_loss(logits.float(), -logits.float())),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, exact)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_permuting_keeps_what_each_latent_takes_on_and_is_repeatable(seed: int, count: int, latents: int) -> None:
    codes = torch.randn(count, latents, generator=torch.Generator().manual_seed(seed))
    before = codes.clone(), torch.random.get_rng_state()
    found = permute_latents(codes, torch.Generator().manual_seed(seed + 1))
    assert torch.equal(found.sort(0).values, codes.sort(0).values)
    assert torch.equal(found, permute_latents(codes, torch.Generator().manual_seed(seed + 1)))
    assert torch.equal(codes, before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_permuting_breaks_dependence(seed: int) -> None:
    """Each latent by itself: equal columns become independent ones, whose correlation has a spread of 1/sqrt(B)."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(4000, 1, generator=generator).expand(-1, 3)
    assert torch.corrcoef(codes.T).min() > 0.999
    found = torch.corrcoef(permute_latents(codes, generator).T)
    assert float((found - torch.eye(3)).abs().max()) < 6 / math.sqrt(4000)


def test_every_order_is_as_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(3.0)[:, None].repeat(1, 2000)
    found = permute_latents(codes, generator).long()
    _, counts = (found[0] * 9 + found[1] * 3 + found[2]).unique(return_counts=True)
    assert len(counts) == 6
    assert int(counts.min()) > 240  # of 333 expected, spread 17
    assert int(counts.max()) < 430


def test_without_a_generator_it_draws_from_torchs_own() -> None:
    codes = torch.randn(50, 4)
    torch.manual_seed(1)
    first = permute_latents(codes)
    assert not torch.equal(permute_latents(codes), first)
    torch.manual_seed(1)
    assert torch.equal(permute_latents(codes), first)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_a_known_total_correlation_is_found(correlation: float) -> None:
    """Of Gaussians it is -log det R / 2: here -log(1 - r^2) / 2 for two of three latents, the third is by itself."""
    known = -0.5 * math.log(1 - correlation**2)
    factor = torch.linalg.cholesky(torch.tensor([[1.0, correlation, 0.0], [correlation, 1.0, 0.0], [0.0, 0.0, 1.0]]))

    def codes(count: int) -> Tensor:
        return torch.randn(count, 3) @ factor.T

    network = Discriminator(3, units=48)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, betas=(0.5, 0.9))
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, 300)
    for _ in range(300):
        loss = discriminator_loss(network(codes(512)), network(permute_latents(codes(512))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    with torch.no_grad():
        found = float(total_correlation(network(codes(20_000))))
    assert found == pytest.approx(known, rel=0.2, abs=0.03)


def test_a_batch_of_one_is_not_standardized() -> None:
    """It has no variance; such a batch may be left over at the end of an epoch."""
    one = torch.tensor([[3.0, -1.0]], requires_grad=True)
    assert torch.equal(standardized(one), one)


def test_standardized_codes_by_hand() -> None:
    # Of 1 and 3 the mean is 2 and the deviation 1; of 10, 10 nothing is left, and nothing is divided by nothing.
    found = standardized(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), atol=1e-3, rtol=0)
    assert standardized(torch.randn(8, 3, dtype=torch.bfloat16)).dtype == torch.float32  # whose eighth bit is what is judged
    assert standardized(torch.randn(8, 3, dtype=torch.float64)).dtype == torch.float64


@given(st.integers(2, 40), st.integers(2, 6), st.floats(0.1, 100), st.floats(-10, 10), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_nothing_is_won_by_scaling_or_shifting_what_is_standardized(
    batch: int, latents: int, scale: float, shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # No latent is the same throughout a batch.
    codes = torch.randn(batch, latents, dtype=torch.float64, generator=generator) + torch.arange(batch)[:, None]
    variance = codes.var(0, correction=0)
    leaf = codes.clone().requires_grad_()
    weighted = (standardized(leaf) * torch.randn(batch, latents, generator=generator)).sum()
    (slope,) = torch.autograd.grad(weighted, leaf)

    found = standardized(codes)
    torch.testing.assert_close(found.mean(0), torch.zeros(latents, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.var(0, correction=0), variance / (variance + 1e-5))  # which is added to the variance
    limit = 2e-5 / min(1.0, scale) ** 2 / float(variance.min())
    most = float(found.abs().max())
    assert float((standardized(codes * scale + shift) - found).abs().max()) <= limit * most
    # Whatever is made of them, its gradient has no part along a shift or a common scale of a latent.
    assert float(slope.sum(0).abs().max()) <= 1e-9
    assert float((slope * (codes - codes.mean(0))).sum(0).abs().max()) <= 4e-5 / float(variance.min()) * batch * most
