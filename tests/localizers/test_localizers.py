"""Every localizer: its shape of answer, the same answer always, and maps equal to ones worked out by plain autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import LatentAttention
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.localizers import LOCALIZERS, Localizer, build_localizer, options_of
from vaelens.localizers.attention import codes
from vaelens.localizers.deviation import DeviationLocalizer
from vaelens.models import ConvVAE, build

NAMES = sorted(set(LOCALIZERS) - {"anogan", "floor-motion", "learned"})  # a generator, frames of a video, minutes: tested apart
LEARN_NOTHING = {"kl", "reconstruction", "ae-l2", "ae-ssim"}
LAYERED = [name for name in NAMES if "layer" in options_of(LOCALIZERS[name])]
LATENTS, SIDE = 5, 12  # a small image keeps the network small


@pytest.fixture(scope="module")
def model() -> ConvVAE:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build("mnist", LATENTS, (1, SIDE, SIDE)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def normal() -> Tensor:
    """40 images of blots, uint8."""
    return blots(40, seed=2)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """6 images of blots and noise, floats."""
    return blots(6, seed=3).float() / 255


def blots(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 5, 5, generator=generator) ** 3
    return (nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).byte()


def layer_and_rest(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last feature map as a leaf that needs gradients, and mean and log variance computed from it."""
    encoder = model.encoder
    with torch.no_grad():
        features = encoder.relu2(encoder.conv2(encoder.relu1(encoder.conv1(images))))
    features = features.requires_grad_()
    at, hidden = False, features
    for name, module in encoder.named_children():
        if at:
            hidden = module(hidden)
        at = at or name == "relu2"
    return features, model.mean(hidden), model.logvar(hidden)


def gradcam(score: Tensor, features: Tensor, reference: Tensor | float = 0.0) -> Tensor:
    """Scores (B,) and feature maps (B, n, h, w) -> signed maps (B, h, w), by one backward pass (eq. 2 and 3)."""
    (gradient,) = torch.autograd.grad(score.sum(), features, retain_graph=True)
    return (gradient.mean((2, 3), keepdim=True) * (features - reference)).sum(1).detach()


def at_image_size(maps: Tensor) -> Tensor:
    return nn.functional.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_as_large_as_the_images_and_nowhere_negative(
    name: str, model: ConvVAE, normal: Tensor, images: Tensor
) -> None:
    localizer = build_localizer(name, model)
    assert localizer.fit(normal) is localizer
    found = localizer.localize(images)
    assert found.maps.shape == (6, SIDE, SIDE)
    assert found.score.shape == (6,)
    assert bool((found.maps >= 0).all())
    assert bool(found.maps.isfinite().all() and found.score.isfinite().all())
    assert float(found.maps.max()) > 0
    assert not found.maps.requires_grad
    assert not found.score.requires_grad
    assert torch.equal(localizer.anomaly_map(images), found.maps)
    assert localizer.name == name
    assert localizer.explains


@pytest.mark.parametrize("name", NAMES)
def test_the_same_images_give_the_same_answer(name: str, model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    first, second = (build_localizer(name, model).fit(normal).localize(images) for _ in range(2))
    assert torch.equal(first.maps, second.maps)
    assert torch.equal(first.score, second.score)
    floats = build_localizer(name, model).fit(normal.float() / 255).localize(images)
    assert torch.equal(first.maps, floats.maps)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(name: str, model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    localizer = build_localizer(name, model).fit(normal)
    together = localizer.localize(images)
    alone = [localizer.localize(image[None]) for image in images]
    assert torch.allclose(together.score, torch.cat([one.score for one in alone]), rtol=1e-4)
    assert close(together.maps, torch.cat([one.maps for one in alone]))
    turned = localizer.localize(images.flip(0))
    assert torch.allclose(together.score.flip(0), turned.score, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_stays_as_it_was(name: str, model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.enable_grad():
        build_localizer(name, model).fit(normal).localize(images)
    assert not model.training
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(NAMES) - LEARN_NOTHING))
def test_one_that_learns_must_be_fitted_first(name: str, model: ConvVAE, images: Tensor) -> None:
    with pytest.raises(UsageError, match=r"has not been fitted; call fit\(normal_images\) first") as error:
        build_localizer(name, model).localize(images)
    assert name in str(error.value)


def test_those_that_look_at_a_layer_say_so() -> None:
    assert {"mean-sum", "normal-difference", "attention", "deviation", "matching", "kl"} < set(LAYERED)


@pytest.mark.parametrize("name", LAYERED)
def test_another_layer_can_be_explained(name: str, model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    earlier = build_localizer(name, model, layer="encoder.relu1").fit(normal).localize(images)
    last = build_localizer(name, model, layer="encoder.relu2").fit(normal).localize(images)
    assert earlier.maps.shape == last.maps.shape
    assert not torch.allclose(earlier.maps, last.maps)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_another_size_are_an_error(name: str, model: ConvVAE, normal: Tensor) -> None:
    with pytest.raises(UsageError, match="12"):
        build_localizer(name, model).fit(normal).localize(torch.zeros(2, 1, 32, 32))


def test_an_unknown_name_is_an_error_with_the_names(model: ConvVAE) -> None:
    with pytest.raises(UsageError) as error:
        build_localizer("guess", model)
    assert all(name in str(error.value) for name in LOCALIZERS)


@pytest.mark.parametrize("name", ["anogan", "floor-motion"])
def test_one_that_needs_something_else_says_what(name: str, model: ConvVAE, normal: Tensor) -> None:
    with pytest.raises(UsageError, match={"anogan": "objective 'anogan'", "floor-motion": "--frames 3"}[name]) as error:
        build_localizer(name, model).fit(normal)
    assert f"localizer '{name}'" in str(error.value)


def test_mean_sum_by_autograd(model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    features, mean, _ = layer_and_rest(model, images)
    found = build_localizer("mean-sum", model).fit(normal).localize(images)
    assert close(found.maps, at_image_size(gradcam(mean.sum(1), features).relu()))
    sums = model.encode(normal.float() / 255)[0].sum(1)
    assert torch.allclose(found.score, (mean.detach().sum(1) - sums.mean()).abs() / sums.std(), rtol=1e-4)


def test_kl_by_autograd(model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    features, mean, logvar = layer_and_rest(model, images)
    divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)
    found = build_localizer("kl", model).fit(normal).localize(images)
    assert close(found.maps, at_image_size(gradcam(divergence, features).relu()))
    assert torch.allclose(found.score, divergence.detach(), rtol=1e-4)


def test_normal_difference_by_many_samples(model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    features, mean, logvar = layer_and_rest(model, images)
    normal_mean, normal_logvar = codes(model, normal)
    centre = normal_mean.mean(0)
    variance = normal_mean.var(0) + normal_logvar.exp().mean(0)
    spread = (variance + logvar.exp()).sqrt()
    found = build_localizer("normal-difference", model).fit(normal).localize(images)
    expected = ((centre - mean).square() / spread.square()).mean(1).sqrt().detach()
    assert torch.allclose(found.score, expected, rtol=1e-4)
    # u_i = (mean_x - mean_y) + sqrt(var_x + var_y) e (eq. 4). Its map is affine in e: two maps give all of them.
    drawn = torch.zeros(len(images), 3, 3)
    e = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for i in range(LATENTS):
        at_0 = gradcam((centre - mean)[:, i], features)
        per_e = gradcam(spread[:, i], features)
        drawn += torch.stack([(a + e[:, None, None] * b).relu().mean(0) for a, b in zip(at_0, per_e, strict=True)]) / LATENTS
    drawn = at_image_size(drawn)
    assert float((found.maps - drawn).abs().max()) < 0.03 * float(drawn.max())


def test_reconstruction_by_hand(model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    found = build_localizer("reconstruction", model).fit(normal).localize(images)
    expected = (images - model.decode(model.encode(images)[0])).square()[:, 0]
    assert torch.allclose(found.maps, expected, atol=1e-6)
    assert torch.allclose(found.score, expected.flatten(1).mean(1), atol=1e-6)


def by_hand(model: ConvVAE, normal: Tensor, images: Tensor, neighbours: int | None) -> tuple[Tensor, Tensor]:
    """Maps and scores of the deviation with equally weighted neighbours, one image and one latent at a time."""
    bank, bank_mean, _ = layer_and_rest(model, normal.float() / 255)
    bank, bank_mean = bank.detach(), bank_mean.detach()

    def deviations(x: Tensor, own: bool) -> Tensor:
        rows = []
        for image in x:
            features, mean, _ = layer_and_rest(model, image[None])
            order = (bank_mean - mean.detach()).square().sum(1).argsort()
            order = order[1:] if own else order
            reference = bank[order[:neighbours]].mean(0)
            rows.append(torch.cat([gradcam(mean[:, i], features, reference) for i in range(LATENTS)]))
        return torch.stack(rows)

    def rms(maps: Tensor) -> Tensor:
        return maps.square().mean((2, 3)).sqrt()

    level = rms(deviations(normal.float() / 255, own=True)).log().mean(0).exp()
    found = deviations(images, own=False) / level[:, None, None]
    return at_image_size(found.abs().mean(1)), rms(found).log().mean(1).exp()


@pytest.mark.parametrize("neighbours", [1, 3, None])
def test_deviation_by_hand(model: ConvVAE, normal: Tensor, images: Tensor, neighbours: int | None) -> None:
    maps, score = by_hand(model, normal, images, neighbours)
    found = DeviationLocalizer(model, neighbours=neighbours, ridge=None).fit(normal).localize(images)
    assert close(found.maps, maps)
    assert torch.allclose(found.score, score, rtol=1e-3)


@pytest.mark.parametrize(
    "layer", ["encoder.relu1+encoder.relu2", " encoder.relu2 + encoder.relu1 ", ["encoder.relu1", "encoder.relu2"], "all"]
)
def test_deviation_of_several_layers_is_their_mean(layer: Any, model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    each = [DeviationLocalizer(model, layer=f"encoder.relu{i}").fit(normal).localize(images) for i in (1, 2)]
    both = DeviationLocalizer(model, layer=layer).fit(normal).localize(images)
    assert close(both.maps, (each[0].maps + each[1].maps) / 2)
    assert torch.allclose(both.score, (each[0].score * each[1].score).sqrt(), rtol=1e-4)
    assert both.posterior is not None
    assert torch.allclose(both.posterior[0], model.encode(images)[0], atol=1e-5)


def test_deviation_of_large_feature_maps_compares_with_fewer_normal_images(
    model: ConvVAE, normal: Tensor, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_third = DeviationLocalizer(model, neighbours=3).fit(normal[::3]).localize(images)
    one = LatentAttention(model).encode(images[:1]).features
    monkeypatch.setattr("vaelens.localizers.deviation._MEMORY", len(normal) * one.nbytes // 2 - 1)
    assert torch.equal(DeviationLocalizer(model, neighbours=3).fit(normal).localize(images).maps, every_third.maps)


def test_more_neighbours_than_normal_images_are_all_of_them(model: ConvVAE, normal: Tensor, images: Tensor) -> None:
    few = normal[:4]
    many = DeviationLocalizer(model, neighbours=50, ridge=None).fit(few).localize(images)
    exact = DeviationLocalizer(model, neighbours=4, ridge=None).fit(few).localize(images)
    assert torch.equal(many.maps, exact.maps)
    assert bool(DeviationLocalizer(model).fit(normal[:2]).localize(images).maps.isfinite().all())


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"neighbours": -1}, {"ridge": 0.0}, {"ridge": -1.0}])
def test_neighbours_and_ridge_that_cannot_be_are_an_error(model: ConvVAE, normal: Tensor, options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        DeviationLocalizer(model, **options).fit(normal)  # type: ignore[arg-type]


def test_images_like_the_normal_ones_deviate_about_once_as_much_as_these(model: ConvVAE, normal: Tensor) -> None:
    localizer: Localizer = DeviationLocalizer(model).fit(normal)
    alike = localizer.localize(blots(60, seed=9).float() / 255).score
    other = localizer.localize(torch.rand(20, 1, SIDE, SIDE)).score
    assert 0.7 < float(alike.median()) < 1.5
    assert float(other.min()) > float(alike.median())


def test_localizers_have_the_distribution_of_their_map(tiny_run: Path) -> None:
    """Its expectation, or that at the posterior mean, is the map itself; what has none says so."""
    from vaelens.attention.maps import resize
    from vaelens.runs import load_run

    run = load_run(tiny_run)
    images = to_float(run.held_out_images[:3])

    def at_size(maps: Tensor) -> Tensor:
        return resize(maps, (28, 28))

    for name, whole in (
        ("normal-difference", lambda found: found.overall_mean()),
        ("mean-sum", lambda found: found.maps.overall()),
        ("deviation", lambda found: found.maps.overall()),
        ("attention:score=overall", lambda found: found.maps.overall()),
        ("attention:score=mean-sum", lambda found: found.maps.overall()),
    ):
        found = run.posterior(images, localizer=name)
        torch.testing.assert_close(at_size(whole(found)), run.localize(images, name).maps, rtol=1e-4, atol=1e-6)
        assert bool((found.std > 0).any()), name
        sampled = torch.stack([found.sample(torch.Generator().manual_seed(i)).overall() for i in range(2000)])
        error = found.overall_std() / 2000**0.5
        assert bool(((sampled.mean(0) - found.overall_mean()).abs() <= 5 * error + 1e-6).all()), name
    for name in ("kl", "reconstruction", "matching", "floor-mean"):
        with pytest.raises(UsageError, match=f"localizer '{name}' has no distribution over the posterior"):
            run.posterior(images, localizer=name)
    with pytest.raises(UsageError, match="one layer at a time"):
        run.posterior(images, localizer="deviation:layer=all")
    with pytest.raises(UsageError, match="one or the other"):
        run.posterior(images, run.attention, "kl")
    for name in ("mean-sum", "normal-difference", "attention", "deviation"):
        with pytest.raises(UsageError, match="has not been fitted"):
            build_localizer(name, run.model).posterior(images)
