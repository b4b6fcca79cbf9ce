"""The maps are the same whatever switches, modes, number types and memory layouts they are computed under."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.attention import VARIANTS, Deviation, LatentAttention
from vaelens.errors import UsageError
from vaelens.models import build

METHODS = ["closed_form", "vjp"]
NETWORKS = {"mnist": (1, 12, 8), "ucsd": (3, 16, 20), "mvtec": (1, 64, 64), "dsprites": (1, 32, 16)}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: build(name, 3, shape).eval() for name, shape in NETWORKS.items()}


def batch(name: str, size: int = 3) -> Tensor:
    return torch.rand(size, *NETWORKS[name], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_switches_and_memory_layouts(name: str, method: str, networks: Any, relative_error: Any) -> None:
    model, images = networks[name], batch(name)
    attention = LatentAttention(model, method=method)
    expected = attention(images).signed.detach()
    last = dict(zip("bchw", images.shape, strict=True))
    layouts = {
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "turned": images.transpose(2, 3).contiguous().transpose(2, 3),
        "every second": images.repeat_interleave(2, 0)[::2],
        "part of a larger one": F.pad(images, (3, 2, 1, 4))[:, :, 1 : 1 + last["h"], 3 : 3 + last["w"]],
        "batch behind": images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "expanded": images[:1].expand(3, -1, -1, -1),
    }
    for what, other in layouts.items():
        found = attention(other)
        assert found.method == method, what
        same = expected[:1].expand_as(expected) if what == "expanded" else expected
        assert relative_error(found.signed, same) < 2e-5, what
    with torch.no_grad():
        assert relative_error(attention(images).signed, expected) < 2e-5
    with torch.inference_mode():
        inside = attention(images)
        fresh = LatentAttention(model, method=method)
        made_inside = images.clone()
        assert relative_error(fresh(made_inside).signed, expected) < 2e-5
        assert relative_error(attention.posterior(made_inside).mean, expected) < 2e-5
        away = Deviation.fit(attention, made_inside, 1)
    assert inside.method == method
    assert relative_error(inside.signed, expected) < 2e-5
    # Images made in inference mode, explained outside of it with gradients on, and normal features fitted inside.
    outside = attention(made_inside)
    assert outside.signed.requires_grad
    assert relative_error(outside.signed, expected) < 2e-5
    assert not away.maps(attention, made_inside).per_latent.any()  # each image is its own nearest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_one_image_is_explained_as_in_a_batch(name: str, method: str, networks: Any, relative_error: Any) -> None:
    attention, images = LatentAttention(networks[name], method=method), batch(name)
    together = attention(images).signed
    for i in range(3):
        assert relative_error(attention(images[i : i + 1]).signed, together[i : i + 1]) < 2e-5
        alone = LatentAttention(networks[name], method=method)
        assert relative_error(alone(images[i : i + 1]).signed, together[i : i + 1]) < 2e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_channels_last_model(name: str, method: str, relative_error: Any) -> None:
    model, images = build(name, 3, NETWORKS[name]).eval(), batch(name)
    expected = LatentAttention(model, method=method)(images).signed
    model.to(memory_format=torch.channels_last)
    for other in (images, images.contiguous(memory_format=torch.channels_last)):
        attention = LatentAttention(model, method=method)
        maps = attention(other)
        assert maps.method == method
        assert relative_error(maps.signed, expected) < 2e-5
        for variant in ("arxiv_v1", "expvae"):
            maps = LatentAttention(model, method=method, variant=variant)(other)
            assert bool(maps.per_latent.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_autocast(name: str, method: str, networks: Any, relative_error: Any) -> None:
    """Near the maps in float32: 8 bits of mantissa leave some percent after a few layers, and more after ResNet's 18."""
    model, images = networks[name], batch(name)
    attention = LatentAttention(model, method=method)
    expected = attention(images).per_latent
    for grad in (True, False):
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
            for tried in (attention, LatentAttention(model, method=method)):
                maps = tried(images)
                assert maps.method == method
                assert bool(maps.per_latent.isfinite().all())
                assert relative_error(maps.per_latent.float(), expected.float()) < (0.2 if name == "mvtec" else 0.1)
                posterior = tried.posterior(images)
                assert bool((posterior.rectified_mean.isfinite() & posterior.std.isfinite()).all())


@pytest.mark.parametrize("method", METHODS)
def test_autocast_keeps_the_gradients(method: str, toy: nn.Module, images: Tensor) -> None:
    """A look at the model without gradients in the same autocast block must not leave casts without a graph behind."""
    with torch.autocast("cpu", torch.bfloat16):
        maps = LatentAttention(toy, method=method)(images)
        mean, _ = toy.encode(images)
    (maps.per_latent.float().sum() + maps.mean.float().sum() + mean.float().sum()).backward()
    for name in ("trunk.0.weight", "trunk.3.weight", "trunk.3.bias", "mean.weight", "mean.bias"):
        assert bool(toy.get_parameter(name).grad.any()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_number_types(dtype: torch.dtype, method: str, toy: nn.Module, images: Tensor, relative_error: Any) -> None:
    expected = LatentAttention(toy, method=method)(images).per_latent
    for variant in VARIANTS:
        maps = LatentAttention(toy.to(dtype), method=method, variant=variant)(images.to(dtype))
        assert maps.method == method
        assert maps.signed.dtype == maps.weights.dtype == maps.mean.dtype == dtype
        if variant == "cvpr":
            assert relative_error(maps.per_latent.float(), expected) < (0.1 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_parameters(name: str, method: str, relative_error: Any) -> None:
    model, images = build(name, 3, NETWORKS[name]).eval(), batch(name)
    attention = LatentAttention(model, method=method)
    expected = attention(images).signed.detach()
    model.requires_grad_(False)
    maps = attention(images)
    assert not maps.signed.requires_grad
    assert torch.equal(maps.signed, expected) or relative_error(maps.signed, expected) < 1e-5
    by_images = attention(images.clone().requires_grad_()).signed
    assert by_images.requires_grad
    assert relative_error(by_images, expected) < 1e-5


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("behind", [True, False])
def test_in_place_activations_around_the_layer(
    before: bool, behind: bool, method: str, grad: bool, Toy: Any, images: Tensor, reference: Any, relative_error: Any
) -> None:
    trunk = [nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU(inplace=before), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=behind)]
    trunk += [nn.Flatten(), nn.Linear(48, 6), nn.ReLU(inplace=behind)]
    model = Toy(trunk, nn.Linear(6, 4), nn.Linear(6, 4)).eval()
    for layer in ("trunk.0", "trunk.1", "trunk.2", "trunk.3"):
        if method == "closed_form" and layer != "trunk.3":
            continue
        truth = reference(model, images, layer)
        with torch.set_grad_enabled(grad):
            for variant in VARIANTS:
                maps = LatentAttention(model, layer, method=method, variant=variant)(images)
                assert relative_error(maps.per_latent, truth.per_latent(layer, variant)) < 1e-5


@pytest.mark.parametrize("kind", ["dropout", "batch norm", "dropout on the map"])
def test_training_mode_in_the_head(kind: str, Toy: Any, images: Tensor, reference: Any, relative_error: Any) -> None:
    """auto takes products, which follow the mode; the closed form is refused and says what to do; eval brings it back."""
    parts: dict[str, list[nn.Module]] = {
        "dropout": [nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Dropout(0.5)],
        "batch norm": [nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6, momentum=0.0), nn.ReLU()],
        "dropout on the map": [nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(48, 6), nn.ReLU()],
    }
    model = Toy([nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU(), *parts[kind]], nn.Linear(6, 4), nn.Linear(6, 4)).train()
    attention = LatentAttention(model, "trunk.1")
    torch.manual_seed(5)
    maps = attention(images)
    assert (maps.method, attention.method) == ("vjp", "vjp")
    torch.manual_seed(5)
    truth = reference(model, images, "trunk.1").signed("trunk.1")
    assert relative_error(maps.signed, truth) < 1e-5
    strict = LatentAttention(model, "trunk.1", method="closed_form")
    with pytest.raises(UsageError, match=r"training mode; call model\.eval\(\)") as caught:
        strict(images)
    assert "\n" not in str(caught.value)
    model.eval()
    for tried in (attention, strict):
        assert tried(images).method == tried.method == "closed_form"
        assert relative_error(tried(images).signed, reference(model, images, "trunk.1").signed("trunk.1")) < 1e-5


class Masked(nn.Module):
    """Dropout by function, only in training mode: the modules alone do not show it. Always drops the same units."""

    where = "hidden"
    inplace = False

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU()
        self.linear, self.act = nn.Linear(48, 6), nn.ReLU()
        self.mean, self.logvar = nn.Linear(6, 4), nn.Linear(6, 4)

    def drop(self, x: Tensor, where: str) -> Tensor:
        if where != self.where or not self.training:
            return x
        mask = (torch.arange(x[0].numel()).view(x.shape[1:]) % 3 > 0).to(x.dtype) * 1.5
        return x.mul_(mask) if self.inplace else x * mask

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.drop(self.relu(self.conv(x)), "map")
        h = self.drop(self.act(self.drop(self.linear(a.flatten(1)), "between")), "hidden")
        return self.drop(self.mean(h), "mean"), self.drop(self.logvar(h), "logvar")


@pytest.mark.parametrize("switch", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("where", ["map", "between", "hidden", "mean", "logvar"])
def test_functional_dropout_in_training_mode(
    where: str, inplace: bool, switch: Any, images: Tensor, reference: Any, relative_error: Any
) -> None:
    """The plan is made in eval mode, where it is not to be seen; each encoding has to find out by itself."""
    if where == "hidden" and inplace:
        pytest.skip("autograd itself refuses to overwrite what ReLU gave out")
    model = Masked()
    model.where, model.inplace = where, inplace
    attention = LatentAttention(model, "relu")
    strict = LatentAttention(model, "relu", method="closed_form")
    products = LatentAttention(model, "relu", method="vjp")
    for mode in (False, True, False, True):
        model.train(mode)
        truth = reference(model, images, "relu")
        both = reference(model, images, "relu", lambda m, v: m + (v / 2).exp())
        with switch():
            maps = attention(images)
            assert relative_error(maps.signed, truth.signed("relu")) < 1e-5
            assert relative_error(products(images).signed, truth.signed("relu")) < 1e-5
            posterior = attention.posterior(images)
            assert relative_error(posterior.mean + posterior.slope, both.signed("relu")) < 1e-5
            if mode:
                assert maps.method == "vjp" or (where == "logvar" and not inplace)
                with pytest.raises(UsageError, match="no closed form at layer 'relu'"):
                    strict.posterior(images)
            else:
                assert maps.method == "closed_form"
                strict.posterior(images)


@pytest.mark.parametrize("outer", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_backbone_without_gradients(outer: Any, images: Tensor, reference: Any, relative_error: Any, smooth_toy: Any) -> None:
    """`encode` has a no_grad block of its own around a frozen part, and the layer lies in it."""
    whole = type(smooth_toy)

    class Frozen(whole):  # type: ignore[misc, valid-type]
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                features = self.trunk[:2](x)
            hidden = self.trunk[2:](features)
            return self.mean(hidden), self.logvar(hidden)

    truth = reference(smooth_toy, images, "trunk.1").signed("trunk.1")
    model = Frozen(smooth_toy.trunk, smooth_toy.mean, smooth_toy.logvar)
    with outer():
        before = torch.is_grad_enabled()
        maps = LatentAttention(model, "trunk.1")(images)
        assert torch.is_grad_enabled() == before
    assert relative_error(maps.signed, truth) < 1e-5


def test_encode_without_gradients_at_its_end(toy: nn.Module, images: Tensor) -> None:
    class Cut(type(toy)):  # type: ignore[misc]
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = super().encode(x)
            return mean.detach().clone(), logvar

    for switch in (torch.enable_grad, torch.no_grad):
        with switch(), pytest.raises(UsageError, match="mean without a graph"):
            LatentAttention(Cut(toy.trunk, toy.mean, toy.logvar), "trunk.1")(images)


def test_a_layer_called_several_times(images: Tensor, reference: Any, relative_error: Any) -> None:
    """Its last call is explained, by each method and with gradients on and off."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.again, self.act = nn.Conv2d(1, 3, 4, 2, 1), nn.Conv2d(3, 3, 3, padding=1), nn.LeakyReLU(0.1)
            self.head = nn.Linear(48, 8)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a = self.conv(x)
            for _ in range(3):
                a = self.act(self.again(a))
            mean, logvar = self.head(a.flatten(1)).chunk(2, 1)
            return mean, logvar

    model = Twice().eval()
    for layer, method, grad in itertools.product(("again", "act"), ("auto", "vjp"), (True, False)):
        with torch.set_grad_enabled(grad):
            maps = LatentAttention(model, layer, method=method)(images)
        assert maps.method == ("closed_form" if (layer, method) == ("act", "auto") else "vjp")
        assert relative_error(maps.signed, reference(model, images, layer).signed(layer)) < 1e-5


def test_a_model_that_does_not_allow_batched_products(
    toy: nn.Module, images: Tensor, reference: Any, relative_error: Any
) -> None:
    """A custom autograd function without a rule for vmap: one backward pass per latent does it."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            assert grad.sum().item() is not None  # data-dependent: not possible in a batched product
            return 2 * x * grad

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Square.apply(x)

    toy.trunk.append(Own())
    truth = reference(toy, images, "trunk.1").signed("trunk.1")
    assert relative_error(LatentAttention(toy, "trunk.1")(images).signed, truth) < 1e-5


def test_default_device_and_inference_mode_at_construction() -> None:
    model = build("mnist", 3, (1, 8, 8)).eval()
    with torch.device("meta"):
        assert LatentAttention(model).method == "closed_form"
    with torch.inference_mode():
        attention = LatentAttention(model)
    assert attention(torch.rand(2, 1, 8, 8)).signed.requires_grad


def test_torch_export_takes_the_closed_form(relative_error: Any) -> None:
    model = build("mnist", 3, (1, 8, 8)).eval()
    attention, images = LatentAttention(model, method="closed_form"), torch.rand(2, 1, 8, 8)

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return attention(x).per_latent

    with torch.no_grad():
        expected = attention(images).per_latent
        exported = torch.export.export(Maps(), (images,), strict=False).module()
        assert relative_error(exported(images), expected) < 1e-6
        other = torch.rand(2, 1, 8, 8)
        assert relative_error(exported(other), attention(other).per_latent) < 1e-6
