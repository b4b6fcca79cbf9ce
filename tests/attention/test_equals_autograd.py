"""Both methods equal one backward pass per latent: four networks, every convolution and every activation after one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import VARIANTS, Deviation, LatentAttention, MeanSum, NormalDifference
from vaelens.models import ConvVAE, build

SIZES = {"mnist": (1, 12, 8), "ucsd": (1, 20, 24), "mvtec": (3, 64, 64), "dsprites": (3, 32, 32)}
CLOSED = {"mnist": "encoder.relu2", "ucsd": "encoder.relu3", "mvtec": "encoder.resnet.layer4", "dsprites": "encoder.relu4"}
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", LIMITS, ids=["float32", "float64"])
# MVTec's float64 convolutions are slow: those tests look at these of its 29 layers.
SOME = ("encoder.resnet.layer3.0.conv1", "encoder.resnet.layer3.1.act", "encoder.resnet.layer4.0.downsample.0")
SOME = (*SOME, "encoder.resnet.layer4.0.conv1", "encoder.resnet.layer4.1.conv2", "encoder.resnet.layer4.1.act")

Reference = Callable[..., Any]
Error = Callable[[Tensor, Tensor], float]


def network(name: str, latents: int = 3) -> ConvVAE:
    """A network in eval mode whose batch norms have seen images, as those of a trained one have."""
    torch.manual_seed(1)
    model = build(name, latents, SIZES[name])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average, so that one batch sets the statistics
    with torch.no_grad():
        model.train()(torch.rand(6, *SIZES[name]))
    return model.eval()


@pytest.fixture(scope="module")
def networks() -> dict[tuple[str, torch.dtype], ConvVAE]:
    return {(name, dtype): network(name).to(dtype) for name in SIZES for dtype in LIMITS}


def batch(name: str, dtype: torch.dtype, size: int = 2) -> Tensor:
    return torch.rand(size, *SIZES[name], generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def layers_of(model: ConvVAE) -> list[str]:
    """Every convolution of the encoder and every activation, by name."""
    return [name for name, module in model.encoder.named_modules(prefix="encoder") if isinstance(module, nn.Conv2d | nn.ReLU)]


def test_the_layers_are_those_of_the_tables(networks: Any) -> None:
    counts = {name: layers_of(networks[name, torch.float32]) for name in SIZES}
    named = {name: [n for n in layers if "downsample" not in n] for name, layers in counts.items()}
    assert named["mnist"] == ["encoder.conv1", "encoder.relu1", "encoder.conv2", "encoder.relu2", "encoder.relu"]
    assert sum("conv" in n for n in named["ucsd"]) == 3
    assert sum("conv" in n for n in named["dsprites"]) == 5
    assert sum("conv" in n for n in named["mvtec"]) == 17
    assert len(counts["mvtec"]) - len(named["mvtec"]) == 3  # the 1x1 convolutions of the shortcuts


@DTYPES
@pytest.mark.parametrize("name", SIZES)
def test_every_layer_by_products(
    name: str, dtype: torch.dtype, networks: Any, reference: Reference, relative_error: Error
) -> None:
    model, images = networks[name, dtype], batch(name, dtype)
    layers = [n for n in layers_of(model) if n in LatentAttention(model).layers]
    # MVTec: 20 convolutions and 9 activations (both of a block are one module, and its name means the last call).
    assert len(layers) >= {"mnist": 4, "ucsd": 6, "mvtec": 29, "dsprites": 10}[name]
    if name == "mvtec" and dtype == torch.float64:
        layers = list(SOME)
    truth = reference(model, images, layers)
    for layer in layers:
        attention = LatentAttention(model, layer, method="vjp")
        encoding = attention.encode(images)
        for variant in VARIANTS:
            _, pick = attention.pick(encoding.mean)
            weights, signed = encoding.maps({"mean": pick}, variant)
            assert relative_error(weights, truth.weights(layer, variant)) < LIMITS[dtype], (layer, variant)
            assert relative_error(signed, truth.signed(layer, variant)) < LIMITS[dtype], (layer, variant)


@DTYPES
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SIZES)
def test_closed_form_at_the_last_map(
    name: str, variant: str, dtype: torch.dtype, networks: Any, reference: Reference, relative_error: Error
) -> None:
    model, images = networks[name, dtype], batch(name, dtype)
    attention = LatentAttention(model, method="closed_form", variant=variant)
    assert attention.layer == CLOSED[name]
    truth = reference(model, images, attention.layer)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            maps = attention(images)
        assert maps.method == "closed_form"
        assert relative_error(maps.per_latent, truth.per_latent(attention.layer, variant)) < LIMITS[dtype]
        assert relative_error(maps.weights, truth.weights(attention.layer, variant)) < LIMITS[dtype]
        torch.testing.assert_close(maps.mean, truth.mean)
        torch.testing.assert_close(maps.logvar, truth.logvar)


@pytest.mark.parametrize("name", SIZES)
def test_which_layers_have_a_closed_form(name: str, networks: Any) -> None:
    """The last map, under each of its names, and no other. Maps of one pixel behind it are vectors and have one too."""
    model = networks[name, torch.float32]
    found = {n for n in LatentAttention(model).layers if LatentAttention(model, n).method == "closed_form"}
    last = {
        "mnist": {"encoder.relu2"},
        "ucsd": {"encoder.relu3"},
        "mvtec": {"encoder.resnet.layer4", "encoder.resnet.layer4.1", "encoder.resnet.layer4.1.act"},
        "dsprites": {"encoder.relu4", "encoder.conv5", "encoder.relu5", "encoder"},
    }
    assert found == last[name]


@DTYPES
@pytest.mark.parametrize("name", SIZES)
def test_every_score(name: str, dtype: torch.dtype, networks: Any, reference: Reference, relative_error: Error) -> None:
    model, images = networks[name, dtype], batch(name, dtype)
    normal = batch(name, dtype, 4)[2:]
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=dtype)
    spread = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)
    difference = NormalDifference(torch.zeros(3, dtype=dtype), spread)
    summed = MeanSum(0.0, 1.0)

    # One scalar after the other, as (B, R): three sampled z, three u of eq. 4 with the same noise, the sum of the mean.
    def scalars(mean: Tensor, logvar: Tensor) -> Tensor:
        z = mean + noise * torch.exp(0.5 * logvar)
        u = -mean + noise * torch.sqrt(spread**2 + logvar.exp())
        return torch.cat([z, u, mean.sum(1, keepdim=True), mean], dim=1)

    layers = (
        SOME[-3 if dtype == torch.float32 else -1 :]
        if name == "mvtec"
        else [n for n in layers_of(model) if n in LatentAttention(model).layers]
    )
    truth = reference(model, images, layers, scalars)
    there = reference(model, normal, layers)
    for layer in layers:
        methods = ("closed_form", "vjp") if LatentAttention(model, layer).method == "closed_form" else ("vjp",)
        signed = truth.signed(layer)
        for method in methods:
            attention = LatentAttention(model, layer, method=method)
            generator = torch.Generator().manual_seed(2)
            sampled = attention(images, sample=True, generator=generator)
            posterior = attention.posterior(images)
            from_normal = difference.maps(attention, images)
            affine = posterior.mean + noise[..., None, None] * posterior.slope
            eq4 = from_normal.mean + noise[..., None, None] * from_normal.slope
            ref = there.features[layer].mean(0)
            deviation = torch.einsum("brk,bkhw->brhw", truth.weights(layer)[:, 7:], truth.features[layer] - ref)
            pairs = {
                "sampled": (sampled.signed, signed[:, :3]),
                "posterior": (affine, signed[:, :3]),
                "normal difference": (eq4, signed[:, 3:6]),
                "mean sum": (summed.maps(attention, images).signed, signed[:, 6:7]),
                "deviation": (Deviation.fit(attention, normal, None).maps(attention, images).per_latent, deviation.abs()),
            }
            for what, (found, expected) in pairs.items():
                assert relative_error(found, expected) < LIMITS[dtype], (what, layer, method)


@pytest.mark.parametrize("variant", ["arxiv_v1", "expvae", "hirescam"])
@pytest.mark.parametrize("method", ["closed_form", "vjp"])
@pytest.mark.parametrize("name", ["mnist", "ucsd", "dsprites"])
def test_scores_in_the_other_variants(
    name: str, method: str, variant: str, networks: Any, reference: Reference, relative_error: Error
) -> None:
    model, images = networks[name, torch.float64], batch(name, torch.float64)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def scalars(mean: Tensor, logvar: Tensor) -> Tensor:
        return torch.cat([mean + noise * torch.exp(0.5 * logvar), mean.sum(1, keepdim=True), mean], dim=1)

    attention = LatentAttention(model, method=method, variant=variant)
    truth = reference(model, images, attention.layer, scalars)
    expected = truth.per_latent(attention.layer, variant)
    sampled = attention(images, sample=True, generator=torch.Generator().manual_seed(2))
    assert relative_error(sampled.per_latent, expected[:, :3]) < 1e-12
    assert relative_error(MeanSum(0.0, 1.0).maps(attention, images).per_latent, expected[:, 3:4]) < 1e-12
    features = truth.features[attention.layer]
    ref = torch.rand(features.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    score = Deviation(torch.zeros(2, 3, dtype=torch.float64), ref, attention.layer, None)
    weighted = truth.signed(attention.layer, variant, features - ref.mean(0))[:, 4:]
    assert relative_error(score.maps(attention, images).per_latent, weighted.abs()) < 1e-12
    if variant == "hirescam":  # linear in the gradient: it has a distribution
        affine = attention.posterior(images)
        assert (
            relative_error(affine.mean + noise[..., None, None] * affine.slope, truth.signed(attention.layer, variant)[:, :3])
            < 1e-12
        )


def test_mnist_at_the_size_of_the_table(reference: Reference, relative_error: Error) -> None:
    model = build("mnist", 4).eval()
    images = torch.rand(3, 1, 28, 28)
    truth = reference(model, images, "encoder.relu2")
    for method in ("closed_form", "vjp"):
        assert relative_error(LatentAttention(model, method=method)(images).signed, truth.signed("encoder.relu2")) < 1e-5


@pytest.mark.parametrize("memory", [1, 3000, 20_000, 1 << 30])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", ["trunk.0", "trunk.1"])
def test_pieces_do_not_change_the_maps(
    layer: str, variant: str, memory: int, toy: nn.Module, images: Tensor, reference: Reference, relative_error: Error
) -> None:
    truth = reference(toy, images, layer).per_latent(layer, variant)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            maps = LatentAttention(toy, layer, variant=variant, memory=memory)(images)
        assert relative_error(maps.per_latent, truth) < 1e-5


def test_closed_form_in_many_pieces_of_the_cache(toy: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients the batch is cut so that a piece stays in the cache; an uneven last piece included."""
    images = torch.rand(7, 1, 8, 8)
    attention = LatentAttention(toy, method="closed_form")
    with torch.no_grad():
        whole = attention(images).signed
        monkeypatch.setattr("vaelens.attention.closed_form._CACHE_BYTES", 3 * 4 * 6 * 4)  # three images, 4 rows, 6 units
        cut = attention(images).signed
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-7)
