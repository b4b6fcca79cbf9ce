"""What a fitted deviation keeps of the weights serves while they are as they were, and no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention
from vaelens.attention.closed_form import Means
from vaelens.models import ConvVAE, build


@pytest.fixture
def vae() -> ConvVAE:
    torch.manual_seed(0)
    return build("mnist", latent_dim=4).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def entry(attention: LatentAttention) -> nn.Linear:
    head = attention.plan.head
    assert head is not None
    layer = head.stages[head.entry].module
    assert isinstance(layer, nn.Linear)
    return layer


@pytest.mark.parametrize("grad", [False, True])
def test_maps_are_the_same_to_the_bit(vae: ConvVAE, images: Tensor, grad: bool) -> None:
    attention = LatentAttention(vae)
    score = Deviation.fit(attention, images, neighbours=2)
    assert score.entry is not None
    assert score.entry.values.shape == (entry(attention).out_features, score.features.shape[1])
    with torch.set_grad_enabled(grad):
        kept, anew = (one.maps(attention, images).signed for one in (score, replace(score, entry=None)))
    assert torch.equal(kept, anew)
    assert kept.requires_grad == grad


def test_they_are_used(vae: ConvVAE, images: Tensor) -> None:
    attention = LatentAttention(vae)
    score = Deviation.fit(attention, images, neighbours=2)
    assert score.entry is not None
    doubled = replace(score, entry=replace(score.entry, values=2 * score.entry.values))
    with torch.no_grad():
        assert torch.allclose(doubled.maps(attention, images).signed, 2 * score.maps(attention, images).signed)


@pytest.mark.parametrize("how", ["in place", "another tensor", "loaded"])
def test_weights_that_were_written_to_are_read_again(vae: ConvVAE, images: Tensor, how: str) -> None:
    attention = LatentAttention(vae)
    score = Deviation.fit(attention, images, neighbours=2)
    layer = entry(attention)
    with torch.no_grad():
        if how == "in place":
            layer.weight.mul_(3)
        elif how == "another tensor":
            layer.weight.data = 3 * layer.weight.data
        else:
            layer.load_state_dict({**layer.state_dict(), "weight": 3 * layer.weight})
        assert score.entry is not None
        assert not score.entry.hold(layer.weight)
        kept, anew = (one.maps(attention, images).signed for one in (score, replace(score, entry=None)))
    assert torch.equal(kept, anew)


def test_gradients_reach_the_weights(vae: ConvVAE, images: Tensor) -> None:
    attention = LatentAttention(vae)
    score = Deviation.fit(attention, images, neighbours=2)
    gradients = []
    for one in (score, replace(score, entry=None)):
        vae.zero_grad()
        one.maps(attention, images).signed.square().mean().backward()
        gradients.append(entry(attention).weight.grad)
    assert gradients[0] is not None
    assert float(gradients[0].abs().max()) > 0
    assert torch.equal(gradients[0], gradients[1])


def test_nothing_is_kept_where_no_linear_layer_takes_in_the_map(images: Tensor) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU())
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(self.features(images)).chunk(2, dim=1)

    attention = LatentAttention(Pooled().eval())
    score = Deviation.fit(attention, images, neighbours=2)
    assert attention.method == "closed_form"
    assert score.entry is None
    assert attention.plan.head is not None
    assert Means.of(attention.plan.head) is None
