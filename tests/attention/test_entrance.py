"""The short way into a feature map: weights from the gradient behind the one convolution that takes it in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from vaelens.attention import LatentAttention, vjp
from vaelens.attention.entrance import Entrance, entrance
from vaelens.models import build

Reference = Callable[..., Any]
Error = Callable[[Tensor, Tensor], float]


def test_by_hand() -> None:
    # A 1x1x2x2 map, a 2x2 kernel with padding 1 and stride 2: each of its four outputs sees one pixel, by one tap.
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], requires_grad=True)
    weight = torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]], requires_grad=True)
    behind = functional.conv2d(features, weight, stride=2, padding=1)
    assert behind.tolist() == [[[[40.0, 60.0], [60.0, 40.0]]]]
    found = entrance(features, {"mean": behind.flatten(1)})
    assert found is not None
    # By hand: output (0, 0) sees pixel (0, 0) by tap 40, (0, 1) sees (0, 1) by 30, (1, 0) by 20, (1, 1) by 10.
    gradient = torch.tensor([[[[1.0, 2.0], [5.0, 7.0]]]])
    assert found.weights(gradient).tolist() == [[(1 * 40 + 2 * 30 + 5 * 20 + 7 * 10) / 4]]


@settings(deadline=None, max_examples=80)
@given(
    side=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
def test_equals_autograd_for_any_convolution(
    side: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: int,
    channels: tuple[int, int],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(2, channels[0], *side, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(channels[1], channels[0], *kernel, generator=generator, dtype=torch.float64)
    reach = [dilation * (taps - 1) + 1 for taps in kernel]
    if any(s + 2 * p < r for s, p, r in zip(side, padding, reach, strict=True)):
        return  # there is no output
    behind = functional.conv2d(features, weight, None, stride, padding, dilation)
    found = entrance(features, {"mean": behind.relu().flatten(1)})
    assert found is not None
    gradient = torch.randn(behind.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(behind, features, gradient)
    assert torch.allclose(found.weights(gradient), expected.mean((2, 3)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "shape", "layers"),
    [
        ("mnist", (1, 12, 8), ["encoder.conv1", "encoder.relu1"]),
        ("ucsd", (1, 20, 24), ["encoder.relu1", "encoder.relu2"]),
        ("dsprites", (3, 32, 32), ["encoder.relu1", "encoder.relu2", "encoder.relu3"]),
        ("mvtec", (3, 64, 64), ["encoder.resnet.layer3.1.act", "encoder.resnet.layer4.1.conv1"]),
    ],
)
def test_the_papers_networks(
    network: str, shape: tuple[int, int, int], layers: list[str], monkeypatch: pytest.MonkeyPatch, reference: Reference
) -> None:
    torch.manual_seed(3)
    model = build(network, 6, shape).eval().double()
    images = torch.rand(3, *shape, dtype=torch.float64)
    truth = reference(model, images, layers)
    taken = _taken(monkeypatch)
    for layer in layers:
        taken.clear()
        with torch.no_grad():
            weights = LatentAttention(model, layer, method="vjp")(images).weights
        straight = network != "mvtec" and "relu" in layer  # what else takes in the map, or lies between, goes the whole way
        assert bool(taken) == straight, layer
        expected = truth.weights(layer)
        assert float((weights - expected).abs().max() / expected.abs().max()) < 1e-12, layer


class Skips(nn.Module):
    """A map that a convolution takes in, and a sum beside it that no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.mean = nn.Linear(3 * 64, 5)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(images)
        mean = self.mean((features + self.second(features)).tanh().flatten(1))
        return mean, mean


class Turns(Skips):
    """A hook of the model's own turns the gradient round on its way into the map."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(images)
        behind = self.second(features)
        if behind.grad_fn is not None and behind.requires_grad:
            behind.grad_fn.register_hook(lambda given, gained: tuple(None if one is None else -one for one in given))
        mean = self.mean(behind.tanh().flatten(1))
        return mean, mean


@pytest.mark.parametrize("kind", [Skips, Turns])
def test_another_way_out_of_the_map_is_not_missed(
    kind: type[Skips], images: Tensor, monkeypatch: pytest.MonkeyPatch, reference: Reference, relative_error: Error
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    taken = _taken(monkeypatch)
    with torch.no_grad():
        weights = LatentAttention(model, "first")(images).weights
    assert not taken
    assert relative_error(weights, reference(model, images, "first").weights("first")) < 1e-5


def test_what_needs_the_whole_gradient_gets_it(monkeypatch: pytest.MonkeyPatch, images: Tensor, Toy: Any) -> None:
    torch.manual_seed(0)
    trunk = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()]
    model = Toy(trunk, nn.Linear(64, 5), nn.Linear(64, 5)).eval()
    taken = _taken(monkeypatch)
    with torch.no_grad():
        for variant in ("arxiv_v1", "expvae"):
            LatentAttention(model, "trunk.1", variant=variant)(images)
        LatentAttention(model, "trunk.1", latents=[0, 1])(images)  # too few to be worth it
        assert not taken
        short = LatentAttention(model, "trunk.1")(images).weights
        assert taken
    whole = LatentAttention(model, "trunk.1")(images).weights  # in a graph
    assert torch.allclose(short, whole.detach(), rtol=1e-5, atol=1e-7)
    assert len(taken) == 2  # the two of the call before, the row that it was tried on and all rows


def _taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A note for each time that weights came by the short way and were believed."""
    taken: list[str] = []
    plain, confirmed = Entrance.weights, vjp._confirmed
    state = {"trying": False}

    def weights(self: Entrance, gradient: Tensor) -> Tensor:
        taken.append("tried" if state["trying"] else "used")
        return plain(self, gradient)

    def trying(*args: Any) -> Entrance | None:
        state["trying"] = True
        found = confirmed(*args)
        state["trying"] = False
        if found is None:
            taken.clear()
        return found

    monkeypatch.setattr(Entrance, "weights", weights)
    monkeypatch.setattr(vjp, "_confirmed", trying)
    return taken
