"""Distributions of maps: against 10,000 sampled maps, each by a backward pass of autograd's own, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention, LatentMaps, MeanSum, NormalDifference, PosteriorMaps
from vaelens.errors import UsageError

SAMPLES = 10_000
NORMAL_STD = torch.tensor([0.7, 1.1, 0.4, 0.9], dtype=torch.float64)
Scalars = Callable[[Tensor, Tensor, Tensor], Tensor]


def difference(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """u of eq. 4 where normal images have the mean 0."""
    return -mean + noise * (NORMAL_STD.square() + logvar.exp()).sqrt()


SCALARS: dict[str, Scalars] = {
    "latents": lambda mean, logvar, noise: mean + noise * torch.exp(logvar / 2),
    "mean sum": lambda mean, logvar, noise: (mean + noise * torch.exp(logvar / 2)).sum(1, keepdim=True),
    "normal difference": difference,
    "deviation": lambda mean, logvar, noise: mean + noise * torch.exp(logvar / 2),
}


def of(score: str, attention: LatentAttention, image: Tensor, reference: Tensor) -> PosteriorMaps:
    if score == "latents":
        return attention.posterior(image)
    if score == "mean sum":
        return MeanSum(0.0, 1.0).posterior(attention, image)
    if score == "normal difference":
        return NormalDifference(torch.zeros(4, dtype=torch.float64), NORMAL_STD).posterior(attention, image)
    fitted = Deviation(torch.zeros(2, 4, dtype=torch.float64), reference.expand(2, -1, -1, -1), "trunk.1", None)
    return fitted.posterior(attention, image)


def sampled(model: nn.Module, image: Tensor, scalars: Scalars, reference: Tensor, generator: torch.Generator) -> Tensor:
    """Signed maps (SAMPLES, R, h, w), each of one draw of e, by backward passes over copies of the image."""
    kept: list[Tensor] = []
    handle = model.trunk[1].register_forward_hook(lambda module, args, output: kept.append(output))  # type: ignore[index]
    with handle, torch.enable_grad():
        mean, logvar = model.encode(image.expand(SAMPLES, -1, -1, -1).clone().requires_grad_())  # type: ignore[operator]
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        values, features = scalars(mean, logvar, noise), kept[0]
        rows = []
        for r in range(values.shape[1]):
            (gradient,) = torch.autograd.grad(values[:, r].sum(), features, retain_graph=True)
            rows.append((gradient.mean((2, 3), keepdim=True) * (features.detach() - reference)).sum(1))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("smooth", [False, True], ids=["closed_form", "vjp"])
@pytest.mark.parametrize("score", SCALARS)
def test_equals_ten_thousand_samples(score: str, smooth: bool, toy: Any, smooth_toy: Any) -> None:
    model = (smooth_toy if smooth else toy).double()
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.logvar.bias += 1.0
        model.logvar.weight *= 6  # the weights of a toy move it little: a spread as large as the mean tells more
    attention = LatentAttention(model, "trunk.1")
    reference = (
        0.3 * torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64) if score == "deviation" else torch.zeros(1)
    )
    found = of(score, attention, image, reference).detach()
    assert found.maps.method == ("vjp" if smooth else "closed_form")
    signed = sampled(model, image, SCALARS[score], reference, generator)
    maps = signed.abs() if score == "deviation" else signed.clamp(min=0)
    if score == "latents":
        positive = (signed > 0).double().mean(0)
        assert bool(((positive > 0.05) & (positive < 0.95)).any())  # some pixels change sides
    level = float(maps.quantile(0.6))

    for values, mean, std in ((signed, found.mean, found.std), (maps, found.rectified_mean, found.rectified_std)):
        assert mean.shape == std.shape == values[:1].shape
        rare = 1e-4 * float(std.max())  # what 10,000 samples may miss altogether
        error = std[0] / math.sqrt(SAMPLES)
        assert bool(((values.mean(0) - mean[0]).abs() <= 5 * error + rare).all())
        # Of the standard deviation, whose own standard error comes from the fourth moment of what is sampled.
        fourth = (values - values.mean(0)).pow(4).mean(0)
        error = (fourth - std[0].pow(4)).clamp(min=0).sqrt() / (2 * std[0].clamp(min=1e-12)) / math.sqrt(SAMPLES)
        assert bool(((values.std(0) - std[0]).abs() <= 5 * error + 0.01 * std[0] + rare).all())
    for above in (0.0, level):
        share, probability = (maps > above).double().mean(0), found.probability(above)[0]
        error = (probability * (1 - probability) / SAMPLES).sqrt()
        assert bool(((share - probability).abs() <= 5 * error + 2 / SAMPLES).all())
    overall = maps.mean(1)
    assert bool(((overall.mean(0) - found.overall_mean()[0]).abs() <= 5 * found.overall_std()[0] / math.sqrt(SAMPLES)).all())
    torch.testing.assert_close(overall.std(0), found.overall_std()[0], rtol=0.06, atol=1e-9)


def test_a_sample_of_the_sum_moves_all_latents_together(toy: Any, images: Tensor) -> None:
    posterior = MeanSum(0.0, 1.0).posterior(LatentAttention(toy, "trunk.1"), images)
    assert posterior.slope.shape == (3, 4, 4, 4)
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    drawn = posterior.sample(torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        drawn.signed, posterior.mean + torch.einsum("br,brhw->bhw", noise, posterior.slope).unsqueeze(1), rtol=1e-5, atol=1e-6
    )
    assert len(posterior) == 3


def of_pixels(mean: list[float], std: list[float], rectifier: str, dtype: torch.dtype = torch.float64) -> PosteriorMaps:
    """One pixel for each mean and standard deviation."""
    signed = torch.tensor(mean, dtype=dtype).view(1, -1, 1, 1)
    nothing = torch.zeros(1, signed.shape[1], dtype=dtype)
    maps = LatentMaps(signed, nothing[..., None], nothing, nothing, torch.arange(signed.shape[1]), "layer", "vjp")
    return PosteriorMaps(torch.tensor(std, dtype=dtype).view_as(signed), replace(maps, rectifier=rectifier))


def numerically(mean: float, std: float, rectifier: str) -> tuple[float, float]:
    """Mean and standard deviation of a rectified Gaussian by a sum over a fine grid of e."""
    e = torch.linspace(-12, 12, 480_001, dtype=torch.float64)
    density = torch.exp(-e.square() / 2)
    density /= density.sum()
    value = mean + std * e
    value = value.abs() if rectifier == "abs" else value.clamp(min=0)
    first = (value * density).sum()
    return float(first), float(((value - first).square() * density).sum().sqrt())


@pytest.mark.parametrize("rectifier", ["relu", "abs"])
def test_moments_equal_those_of_numerical_integration(rectifier: str) -> None:
    ratios = [-8.0, -3.0, -1.0, -0.2, 0.0, 0.4, 1.0, 2.5, 9.0]
    found = of_pixels([0.3 * r for r in ratios], [0.3] * len(ratios), rectifier)
    for k, ratio in enumerate(ratios):
        mean, std = numerically(0.3 * ratio, 0.3, rectifier)
        assert float(found.rectified_mean[0, k]) == pytest.approx(mean, rel=1e-6, abs=1e-12)
        assert float(found.rectified_std[0, k]) == pytest.approx(std, rel=1e-5, abs=1e-9)


@given(
    mean=st.floats(-(2.0**60), 2.0**60, width=32),
    std=st.one_of(st.just(0.0), st.floats(2.0**-100, 2.0**60, width=32)),
    above=st.floats(-10, 1e6),
    rectifier=st.sampled_from(["relu", "abs"]),
)
@settings(max_examples=200, deadline=None)
def test_moments_are_those_of_something(mean: float, std: float, above: float, rectifier: str) -> None:
    """In single precision, wherever mean and spread lie: no map is below 0, or spread wider than before it was rectified."""
    found = of_pixels([mean], [std], rectifier, torch.float32)
    values = [found.rectified_mean, found.rectified_std, found.probability(above), found.overall_mean(), found.overall_std()]
    assert all(bool(v.isfinite().all()) for v in values)
    rectified = abs(mean) if rectifier == "abs" else max(mean, 0.0)
    assert float(found.rectified_mean) >= rectified * (1 - 1e-5) - 1e-12  # Jensen
    assert 0 <= float(found.rectified_std) <= std * (1 + 1e-5)
    assert 0 <= float(found.probability(above)) <= 1 + 1e-6
    if std == 0:
        assert float(found.rectified_std) == 0
        assert float(found.rectified_mean) == pytest.approx(rectified)


@pytest.mark.parametrize("variant", ["arxiv_v1", "expvae"])
def test_other_variants_have_no_exact_distribution(variant: str, toy: Any, images: Tensor) -> None:
    attention = LatentAttention(toy, "trunk.1", variant=variant)
    deviation = Deviation.fit(LatentAttention(toy, "trunk.1"), images, 1)
    for asked in (MeanSum(0.0, 1.0).posterior, deviation.posterior):
        with pytest.raises(UsageError, match="exact for variants 'cvpr' and 'hirescam', not for"):
            asked(attention, images)


def test_distributions_of_scores_can_be_trained_on(toy: Any, images: Tensor) -> None:
    attention = LatentAttention(toy, "trunk.1")
    deviation = Deviation.fit(attention, torch.rand(5, 1, 8, 8), 2)
    for found in (MeanSum(0.0, 1.0).posterior(attention, images), deviation.posterior(attention, images)):
        (found.rectified_std.sum() + found.rectified_mean.sum() + found.overall_std().sum()).backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in toy.parameters())
        assert bool(toy.trunk[0].weight.grad.any())
        assert not found.detach().cpu().std.requires_grad
        toy.zero_grad()


def test_deviation_takes_the_latents_asked_for(toy: Any, images: Tensor) -> None:
    normal = torch.rand(6, 1, 8, 8)
    whole = Deviation.fit(LatentAttention(toy, "trunk.1"), normal, 2)
    every = whole.posterior(LatentAttention(toy, "trunk.1"), images, leave_out_self=True)
    some = whole.posterior(LatentAttention(toy, "trunk.1", latents=[2, 0]), images, leave_out_self=True)
    torch.testing.assert_close(some.mean, every.mean[:, [2, 0]])
    torch.testing.assert_close(some.slope, every.slope[:, [2, 0]])
    torch.testing.assert_close(every.maps.per_latent, whole.maps(LatentAttention(toy, "trunk.1"), images, True).per_latent)
