"""Which layers of a model can be explained, and which way each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelens.attention.latent_attention import LatentAttention
from vaelens.attention.trace import Images
from vaelens.attention.variants import VARIANTS
from vaelens.attention.vjp import can_batch
from vaelens.errors import UsageError

WAYS = {
    "closed_form": "closed form: one matrix product",
    "vjp": "batched vector-Jacobian products",
    "loop": "one backward pass per latent",
    "none": "none",
}
_BY_PIXEL = "hirescam"


@dataclass(frozen=True)
class LayerWay:
    """A layer whose feature map can be explained.

    Attributes:
        layer: its dotted name.
        shape: (n, h, w) of its feature map.
        way: one of `WAYS`; "none" where the latents do not depend on it, or autograd cannot follow.
        why: why it has no closed form, or none at all; empty where it has one.
        default: whether it is the one that is explained unless another is named.
        by_pixel: whether variant "hirescam" alone explains it, as it does the images themselves.
    """

    layer: str
    shape: tuple[int, int, int]
    way: str
    why: str
    default: bool
    by_pixel: bool = False


def survey(model: nn.Module, images: Tensor, grid: tuple[int, int] | None = None) -> list[LayerWay]:
    """Every layer of `model` that `LatentAttention` can explain for images such as these, in the order of the calls.

    Args:
        model: has encode(images) -> (mean, logvar).
        images: (B, C, H, W), two or so; the ways do not depend on their values.
        grid: (height, width) of tokens, see `LatentAttention`.

    Raises:
        UsageError: the model cannot be explained on these images.
    """
    first = LatentAttention(model, grid=grid, variant=_BY_PIXEL)
    first.encode(images)
    themselves = {Images.NAME} - dict(model.named_modules()).keys()
    return [
        _way(model, layer, shape, images, grid, layer == first.layer, layer in themselves)
        for layer, shape in first.layers.items()
    ]


def _way(
    model: nn.Module,
    layer: str,
    shape: tuple[int, int, int],
    images: Tensor,
    grid: tuple[int, int] | None,
    default: bool,
    by_pixel: bool,
) -> LayerWay:
    try:
        attention = LatentAttention(model, layer, grid=grid, variant=_BY_PIXEL if by_pixel else VARIANTS[0])
        with torch.no_grad():
            maps = attention(images)
        if maps.method == "closed_form":
            return LayerWay(layer, shape, "closed_form", "", default, by_pixel)
        encoding = attention.encode(images)
        with torch.inference_mode(False), torch.enable_grad():
            together = can_batch(encoding.source, encoding.mean)
        return LayerWay(layer, shape, "vjp" if together else "loop", attention.why_not, default, by_pixel)
    except UsageError as error:
        return LayerWay(layer, shape, "none", str(error), default, by_pixel)
