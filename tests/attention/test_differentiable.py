"""Losses on the maps train the encoder: their gradients equal double backward's and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import VARIANTS, Deviation, LatentAttention, MeanSum, NormalDifference
from vaelens.models import build

LAST = {"mnist": "encoder.relu2", "ucsd": "encoder.relu3", "mvtec": "encoder.resnet.layer4", "dsprites": "encoder.relu4"}
SIZES = {"mnist": (1, 8, 8), "ucsd": (1, 16, 16), "mvtec": (3, 64, 64), "dsprites": (1, 32, 32)}


def squares(maps: Tensor) -> Tensor:
    return maps.square().sum()


def overlap(maps: Tensor) -> Tensor:
    """Cosine between the maps of all pairs of latents, in the mean over images: what eq. 5 is made of."""
    flat = maps.flatten(2)
    return torch.cosine_similarity(flat[:, :, None], flat[:, None, :], dim=-1, eps=1e-12).mean()


def encoder_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if not name.startswith("decoder")]


def gradients(loss: Tensor, model: nn.Module, images: Tensor) -> list[Tensor]:
    inputs = [images, *encoder_parameters(model)]
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def agree(found: list[Tensor], expected: list[Tensor], limit: float) -> None:
    assert sum(bool(e.any()) for e in expected) >= 3  # the images, and weights on both sides of the layer
    for f, e in zip(found, expected, strict=True):
        assert float((f - e).abs().max()) <= limit * float(e.abs().max())


@pytest.mark.parametrize("loss", [squares, overlap])
@pytest.mark.parametrize("method", ["closed_form", "vjp"])
@pytest.mark.parametrize("name", SIZES)
def test_equals_double_backward(name: str, method: str, loss: Callable[[Tensor], Tensor], reference: Any) -> None:
    model = build(name, 4, SIZES[name]).eval()
    images = torch.rand(2, *SIZES[name], requires_grad=True)
    maps = LatentAttention(model, LAST[name], method=method)(images)
    assert maps.method == method
    truth = reference(model, images, LAST[name], create_graph=True)
    agree(gradients(loss(maps.per_latent), model, images), gradients(loss(truth.per_latent(LAST[name])), model, images), 1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize(
    ("which", "layer", "method"),
    [("toy", "trunk.1", "closed_form"), ("toy", "trunk.1", "vjp"), ("toy", "trunk.0", "vjp"), ("smooth_toy", "trunk.1", "vjp")],
)
def test_variants_and_sampled_latents(
    which: str, layer: str, method: str, sample: bool, variant: str, images: Tensor, reference: Any, request: Any
) -> None:
    model = request.getfixturevalue(which).double()
    images = images.double().requires_grad_()
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    maps = LatentAttention(model, layer, method=method, variant=variant)(
        images, sample=sample, generator=torch.Generator().manual_seed(9)
    )
    truth = reference(model, images, layer, (lambda m, v: m + noise * (v / 2).exp()) if sample else None, create_graph=True)
    for loss in (squares, overlap):
        expected = gradients(loss(truth.per_latent(layer, variant)), model, images)
        agree(gradients(loss(maps.per_latent), model, images), expected, 1e-10)


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_scores(method: str, toy: nn.Module, images: Tensor, reference: Any) -> None:
    """The maps of the three scores and of the posterior can be trained on as well."""
    model = toy.double()
    images = images.double().requires_grad_()
    normal = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    spread = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)

    def scalars(mean: Tensor, logvar: Tensor) -> Tensor:
        return torch.cat([mean.sum(1, keepdim=True), -mean + (spread**2 + logvar.exp()).sqrt(), mean], dim=1)

    attention = LatentAttention(model, "trunk.1", method=method)
    truth = reference(model, images, "trunk.1", scalars, create_graph=True)
    signed = truth.signed("trunk.1")
    eq4 = NormalDifference(spread, spread).maps(attention, images)
    deviation = Deviation.fit(attention, normal, None)
    away = torch.einsum(
        "brk,bkhw->brhw", truth.weights("trunk.1")[:, 5:], truth.features["trunk.1"] - deviation.features.mean(0)
    )
    pairs = [
        (MeanSum(0.0, 1.0).maps(attention, images).signed, signed[:, :1]),
        (eq4.mean + eq4.slope, signed[:, 1:5]),
        (deviation.maps(attention, images).per_latent, away.abs()),
    ]
    for found, expected in pairs:
        agree(gradients(squares(found), model, images), gradients(squares(expected), model, images), 1e-10)


@pytest.mark.parametrize(
    ("which", "layer", "method"),
    [("toy", "trunk.1", "closed_form"), ("toy", "trunk.0", "vjp"), ("smooth_toy", "trunk.1", "vjp")],
)
def test_gradcheck(which: str, layer: str, method: str, images: Tensor, request: Any) -> None:
    model = request.getfixturevalue(which).double()
    attention = LatentAttention(model, layer, method=method)

    def maps(x: Tensor) -> Tensor:
        return attention(x).signed

    # Every fifth pixel of one image, the others fixed: gradcheck costs two evaluations per number.
    fixed = images[:1].double()
    positions = torch.arange(0, 64, 5)

    def of_some(x: Tensor) -> Tensor:
        return maps(fixed.flatten().index_copy(0, positions, x).view(1, 1, 8, 8))

    assert torch.autograd.gradcheck(of_some, fixed.flatten()[positions].clone().requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize(
    ("which", "layer", "method"),
    [("toy", "trunk.1", "closed_form"), ("toy", "trunk.1", "vjp"), ("smooth_toy", "trunk.0", "vjp")],
)
def test_finite_differences_by_the_weights(
    which: str, layer: str, method: str, sample: bool, images: Tensor, request: Any
) -> None:
    model = request.getfixturevalue(which).double()
    attention = LatentAttention(model, layer, method=method)

    def loss() -> Tensor:
        return squares(attention(images.double(), sample=sample, generator=torch.Generator().manual_seed(1)).per_latent)

    parameters = encoder_parameters(model)
    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    step = 1e-6
    seen = 0
    for parameter, grad in zip(parameters, grads, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(step * direction)
            above = loss().item()
            parameter.sub_(2 * step * direction)
            below = loss().item()
            parameter.add_(step * direction)
        slope = (above - below) / (2 * step)
        expected = 0.0 if grad is None else float((grad * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7)
        seen += slope != 0
    assert seen >= 3


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_training_on_the_maps_lowers_their_overlap(method: str, toy: nn.Module, images: Tensor) -> None:
    toy.train()
    optimizer = torch.optim.Adam(toy.parameters(), 1e-2)
    attention = LatentAttention(toy, "trunk.1", method=method, latents=[0, 1])
    losses = []
    for _ in range(100):
        loss = overlap(attention(images).signed)  # rectified maps may die on the way
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_dead_latent_gives_gradients_that_are_numbers(method: str, variant: str, toy: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        toy.trunk[3].bias.fill_(-100)  # no unit of the hidden layer is active: every gradient is 0
        toy.trunk[3].bias[0] = 100
        toy.mean.weight[1] = 0  # and one latent depends on nothing at all
    maps = LatentAttention(toy, "trunk.1", method=method, variant=variant)(images)
    assert not maps.per_latent[:, 1].any()
    assert maps.per_latent[:, 0].any()
    for grad in torch.autograd.grad(squares(maps.signed), encoder_parameters(toy), allow_unused=True):
        assert grad is None or bool(grad.isfinite().all())


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_where_there_is_a_graph(method: str, toy: nn.Module, images: Tensor) -> None:
    attention = LatentAttention(toy, "trunk.1", method=method)
    normal = Deviation.fit(attention, images, 1)

    def tensors(x: Tensor) -> list[Tensor]:
        maps, posterior = attention(x), attention.posterior(x)
        away, drawn = normal.maps(attention, x), attention(x, sample=True)
        return [maps.signed, maps.weights, maps.mean, maps.logvar, posterior.slope, away.signed, drawn.signed]

    assert not normal.codes.requires_grad
    assert not normal.features.requires_grad
    assert all(t.requires_grad for t in tensors(images))
    with torch.no_grad():
        assert not any(t.requires_grad for t in tensors(images))
    detached = attention(images).detach()
    assert not any(t.requires_grad for t in (detached.signed, detached.weights, detached.mean, detached.logvar))
    toy.requires_grad_(False)
    assert not any(t.requires_grad for t in tensors(images))
    assert all(t.requires_grad for t in tensors(images.clone().requires_grad_())[:1])


def test_a_frozen_trunk_leaves_the_head_trainable(toy: nn.Module, images: Tensor, reference: Any) -> None:
    toy.double().trunk[0].requires_grad_(False)
    for method in ("closed_form", "vjp"):
        maps = LatentAttention(toy, "trunk.1", method=method)(images.double())
        truth = reference(toy, images.double(), "trunk.1", create_graph=True)
        trainable = [toy.trunk[3].weight, toy.mean.weight]
        found = torch.autograd.grad(squares(maps.per_latent), trainable)
        expected = torch.autograd.grad(squares(truth.per_latent("trunk.1")), trainable)
        agree([*found, *found], [*expected, *expected], 1e-10)
