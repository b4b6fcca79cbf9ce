"""Which layers of a model can be explained, and which way each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelens.attention.latent_attention import LatentAttention
from vaelens.attention.vjp import can_batch
from vaelens.errors import UsageError

WAYS = {
    "closed_form": "closed form: one matrix product",
    "vjp": "batched vector-Jacobian products",
    "loop": "one backward pass per latent",
    "none": "none",
}


@dataclass(frozen=True)
class LayerWay:
    """A layer whose feature map can be explained.

    Attributes:
        layer: its dotted name.
        shape: (n, h, w) of its feature map.
        way: one of `WAYS`; "none" where the latents do not depend on it, or autograd cannot follow.
        why: why it has no closed form, or none at all; empty where it has one.
        default: whether it is the one that is explained unless another is named.
    """

    layer: str
    shape: tuple[int, int, int]
    way: str
    why: str
    default: bool


def survey(model: nn.Module, images: Tensor, grid: tuple[int, int] | None = None) -> list[LayerWay]:
    """Every layer of `model` that `LatentAttention` can explain for images such as these, in the order of the calls.

    Args:
        model: has encode(images) -> (mean, logvar).
        images: (B, C, H, W), two or so; the ways do not depend on their values.
        grid: (height, width) of tokens, see `LatentAttention`.

    Raises:
        UsageError: the model cannot be explained on these images.
    """
    first = LatentAttention(model, grid=grid)
    first.encode(images)
    return [_way(model, layer, shape, images, grid, layer == first.layer) for layer, shape in first.layers.items()]


def _way(
    model: nn.Module,
    layer: str,
    shape: tuple[int, int, int],
    images: Tensor,
    grid: tuple[int, int] | None,
    default: bool,
) -> LayerWay:
    try:
        attention = LatentAttention(model, layer, grid=grid)
        with torch.no_grad():
            maps = attention(images)
        if maps.method == "closed_form":
            return LayerWay(layer, shape, "closed_form", "", default)
        encoding = attention.encode(images)
        with torch.inference_mode(False), torch.enable_grad():
            together = can_batch(encoding.source, encoding.mean)
        return LayerWay(layer, shape, "vjp" if together else "loop", attention.why_not, default)
    except UsageError as error:
        return LayerWay(layer, shape, "none", str(error), default)
