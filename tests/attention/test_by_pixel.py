"""Variant "hirescam": a weight for each pixel, by which the images themselves are explained, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens import LatentAttention
from vaelens.attention import Deviation, MeanSum, NormalDifference, survey
from vaelens.errors import UsageError
from vaelens.models import build

Error = Callable[[Tensor, Tensor], float]


class Flat(nn.Module):
    """Linear layers alone, as many write it: images as vectors, functions between the layers."""

    def __init__(self, bias: bool = True, latents: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * 5 * 4, 12, bias=bias), nn.Linear(12, 2 * latents, bias=bias)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.second(torch.relu(self.first(images.view(len(images), -1)))).chunk(2, dim=1)
        return mean, logvar


def by_input(model: nn.Module, images: Tensor, output: int = 0) -> Tensor:
    """Gradient times input, (B, D, C, H, W), one backward pass per latent."""
    own = images.detach().clone().requires_grad_()
    values = model.encode(own)[output]  # type: ignore[operator]
    rows = [torch.autograd.grad(values[:, i].sum(), own, retain_graph=True)[0] for i in range(values.shape[1])]
    return torch.stack(rows, 1) * images.detach().unsqueeze(1)


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_images_of_a_model_of_linear_layers(method: str, relative_error: Error) -> None:
    model, images = Flat().double().eval(), torch.randn(5, 2, 5, 4, dtype=torch.float64)
    attention = LatentAttention(model, method=method, variant="hirescam")
    maps = attention(images)
    assert (attention.layer, attention.method, maps.layer) == ("images", method, "images")
    expected = by_input(model, images)
    assert relative_error(maps.signed, expected.sum(2)) < 1e-12
    assert torch.equal(maps.per_latent, maps.signed.relu())
    assert maps.weights.shape == (5, 3, 2)
    gradient = by_input(model, torch.ones_like(images)) * 0 + expected / images.unsqueeze(1)
    assert relative_error(maps.weights, gradient.mean((3, 4))) < 1e-10
    posterior = attention.posterior(images)
    spread = by_input(model, images, 1).sum(2) * (model.encode(images)[1] / 2).exp()[..., None, None] / 2
    assert relative_error(posterior.slope, spread) < 1e-12


def test_the_sum_over_pixels_is_the_latent_where_nothing_has_a_bias(relative_error: Error) -> None:
    model, images = Flat(bias=False).double().eval(), torch.randn(6, 2, 5, 4, dtype=torch.float64)
    maps = LatentAttention(model, variant="hirescam")(images)
    assert relative_error(maps.signed.sum((2, 3)), model.encode(images)[0]) < 1e-12


@pytest.mark.parametrize("name", ["mnist", "ucsd", "mvtec", "dsprites"])
def test_images_of_every_network(name: str, relative_error: Error) -> None:
    model = build(name, 3, {"mvtec": (3, 64, 64)}.get(name)).double().eval()
    images = torch.rand(2, *model.input_shape, dtype=torch.float64)
    attention = LatentAttention(model, "images", variant="hirescam")
    assert attention.method == "vjp"
    maps = attention(images)
    assert maps.signed.shape == (2, 3, *model.input_shape[1:])
    assert relative_error(maps.signed, by_input(model, images).sum(2)) < 1e-10


def test_scores_at_the_images(relative_error: Error) -> None:
    model, images = Flat().double().eval(), torch.randn(4, 2, 5, 4, dtype=torch.float64)
    normal = torch.randn(9, 2, 5, 4, dtype=torch.float64)
    attention = LatentAttention(model, variant="hirescam")
    gradient = by_input(model, images) / images.unsqueeze(1)
    away = Deviation.fit(attention, normal, None).maps(attention, images)
    expected = (gradient * (images - normal.mean(0)).unsqueeze(1)).sum(2)
    assert relative_error(away.per_latent, expected.abs()) < 1e-10
    summed = MeanSum.fit(model.encode(normal)[0].detach()).maps(attention, images)
    assert relative_error(summed.signed, by_input(model, images).sum((1, 2))[:, None]) < 1e-12
    eq_4 = NormalDifference.fit(*(each.detach() for each in model.encode(normal))).maps(attention, images)
    assert relative_error(eq_4.mean, -by_input(model, images).sum(2)) < 1e-12


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_the_images_are_left_alone_and_their_graph_kept(method: str, grad: bool, relative_error: Error) -> None:
    """Whoever asks may want the map's own gradient by the images; a model may write into what it is given."""

    class Writes(Flat):
        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return super().encode(images.mul_(2))

    images = torch.randn(3, 2, 5, 4, requires_grad=grad)
    before = images.detach().clone()
    for model in (Flat().eval(), Writes().eval().requires_grad_(False)):
        maps = LatentAttention(model, variant="hirescam", method="auto" if isinstance(model, Writes) else method)(images)
        assert torch.equal(images, before)
        assert maps.signed.requires_grad == (grad or not isinstance(model, Writes))
        if isinstance(model, Writes):
            plain = Flat().eval()
            plain.load_state_dict(model.state_dict())
            expected = by_input(plain, 2 * before).sum(2)
        else:
            expected = by_input(model, before).sum(2)
        assert relative_error(maps.signed.detach(), expected) < 1e-5
    if grad:
        plain = Flat().eval()
        maps = LatentAttention(plain, variant="hirescam", method=method)(images)
        (found,) = torch.autograd.grad(maps.signed[:, 0].square().sum(), images)
        own = before.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(plain.encode(own)[0][:, 0].sum(), own, create_graph=True)
        (expected,) = torch.autograd.grad((gradient * own).sum(1).square().sum(), own)
        assert relative_error(found, expected) < 1e-4


def test_a_module_called_images_is_that_module() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.images, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2 * 4 * 4, 4)

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = self.head(self.images(images).flatten(1)).chunk(2, dim=1)
            return mean, logvar

    model, images = Named().eval(), torch.rand(2, 1, 6, 6)
    for variant in ("cvpr", "hirescam"):
        maps = LatentAttention(model, "images", variant=variant)(images)
        assert maps.per_latent.shape == (2, 2, 4, 4)
    assert [(way.layer, way.by_pixel) for way in survey(model, images)] == [("images", False)]


def test_where_the_images_are_no_layer(toy: nn.Module, images: Tensor) -> None:
    for variant in ("cvpr", "arxiv_v1", "expvae"):
        with pytest.raises(UsageError, match=r"no channels to weigh: .* variant='hirescam'"):
            LatentAttention(toy, "images", variant=variant)(images)
    with pytest.raises(UsageError, match=r"linear layers alone keep no places; variant='hirescam' explains the pixels"):
        LatentAttention(Flat().eval())(torch.rand(2, 2, 5, 4))
    assert "images" not in LatentAttention(build("dsprites", 3)).layers
    by_pixel = LatentAttention(build("dsprites", 3), variant="hirescam")
    assert by_pixel.layers["images"] == (1, 64, 64)
    assert by_pixel.layer == LatentAttention(build("dsprites", 3)).layer  # the last feature map stays the default


def test_survey_has_the_images_and_how(toy: nn.Module, images: Tensor) -> None:
    ways = survey(toy, images)
    assert [(way.layer, way.way, way.by_pixel, way.default) for way in ways if way.by_pixel] == [("images", "vjp", True, False)]
    (only,) = survey(Flat().eval(), torch.rand(2, 2, 5, 4))
    assert (only.layer, only.shape, only.way, only.default) == ("images", (2, 5, 4), "closed_form", True)


def test_latents_that_do_not_depend_on_the_images() -> None:
    class Constant(Flat):
        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = super().encode(images)
            return mean.detach(), logvar

    with pytest.raises(UsageError):
        LatentAttention(Constant().eval(), variant="hirescam")(torch.rand(2, 2, 5, 4))


def test_a_chunk_of_gradients_at_a_time(toy: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All gradients of all latents at once would be channels times as large as the maps."""
    from vaelens.attention import closed_form
    from vaelens.attention.variants import Kept

    seen: list[int] = []
    of, pull_back = Kept.of, closed_form._pull_back

    def watched(self: Any, gradient: Tensor, features: Tensor | None) -> Tensor:
        seen.append(gradient.numel() * gradient.element_size())
        return of(self, gradient, features)

    def pulled(rows: Tensor, gains: Any, entry: Any, slice_: slice) -> Tensor:
        seen.append(entry.numbers * (slice_.stop - slice_.start) * rows.element_size())
        return pull_back(rows, gains, entry, slice_)

    monkeypatch.setattr(Kept, "of", watched)
    monkeypatch.setattr(closed_form, "_pull_back", pulled)
    images = images.repeat(9, 1, 1, 1)
    for method, layer in (("closed_form", "trunk.1"), ("vjp", "trunk.1"), ("vjp", "images")):
        attention = LatentAttention(toy, layer, method=method, variant="hirescam", memory=8_000)
        whole = LatentAttention(toy, layer, method=method, variant="hirescam")(images)
        attention(images)  # proves its form
        seen.clear()
        assert torch.allclose(attention(images).signed, whole.signed, atol=1e-6)
        assert len(seen) > 1
        assert 0 < max(seen) <= 8_000


@pytest.mark.parametrize("latents", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize("kind", ["linear", "convolution", "pooling", "one pixel", "alone"])
def test_every_entrance(kind: str, channels: int, latents: int, relative_error: Error, reference: Any) -> None:
    """Few channels or latents take the gradient, more the way that makes none; means and maps are autograd's by both."""
    n, side = channels, 1 if kind == "one pixel" else 4
    entrance: dict[str, list[nn.Module]] = {
        "linear": [nn.Flatten(), nn.Linear(n * side**2, 6), nn.ReLU()],
        "convolution": [nn.Conv2d(n, 6, 4), nn.LeakyReLU(0.1), nn.Flatten()],
        "pooling": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 6), nn.ReLU()],
        "one pixel": [nn.Flatten(), nn.Linear(n, 6), nn.ReLU()],
        "alone": [nn.Flatten()],
    }

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, n, 4, 4 if side == 4 else 16)
            self.head = nn.Sequential(*entrance[kind])
            self.last = nn.Linear(n * side**2 if kind == "alone" else 6, 2 * latents)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = self.last(self.head(self.conv(x))).chunk(2, dim=1)
            return mean, logvar

    model, images = Model().double().eval(), torch.randn(5, 1, 16, 16, dtype=torch.float64)
    truth = reference(model, images, "conv")
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            maps = LatentAttention(model, "conv", method="closed_form", variant="hirescam")(images)
        assert relative_error(maps.signed, truth.signed("conv", "hirescam")) < 1e-12
        assert relative_error(maps.weights, truth.weights("conv", "hirescam")) < 1e-12
        away = truth.features["conv"] - truth.features["conv"].mean(0)
        attention = LatentAttention(model, "conv", method="closed_form", variant="hirescam")
        score = Deviation.fit(attention, images, None)
        assert relative_error(score.maps(attention, images).signed, truth.signed("conv", "hirescam", away)) < 1e-12


def shapes(maps: Any) -> Sequence[tuple[int, ...]]:
    return [tuple(each.shape) for each in (maps.per_latent, maps.weights)]


def test_shapes_of_parts(toy: nn.Module, images: Tensor) -> None:
    maps = LatentAttention(toy, "trunk.1", variant="hirescam")(images)
    assert shapes(maps.first(2)) == [(3, 2, 4, 4), (3, 2, 3)]
    assert maps.overall().shape == (3, 4, 4)
    assert maps.resize((8, 8)).per_latent.shape == (3, 4, 8, 8)
