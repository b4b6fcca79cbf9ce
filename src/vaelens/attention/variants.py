"""What becomes of a gradient: as in the paper, as in its first version, as in the authors' code, and pixel by pixel.

============  ===================================================  ==============
variant       channel weight alpha_k from g = d z_i / d A          map
============  ===================================================  ==============
`cvpr`        spatial mean of g_k (eq. 3)                          ReLU (eq. 2)
`arxiv_v1`    spatial mean of ReLU(g_k)                            ReLU
`expvae`      spatial mean of g_k / (RMS(g) + 1e-5), the RMS over  absolute value
              all channels and pixels of one image
`hirescam`    g_k itself, each pixel with a weight of its own      ReLU
============  ===================================================  ==============

The authors' code takes the RMS over the whole batch; over one image it is the same for a batch of one, and the map of an
image does not depend on its neighbours in the batch.

`hirescam` is HiResCAM (Draelos and Carin 2020) of a latent in place of a class: the signed map is sum_k g_k A_k, pixel by
pixel. It needs no feature map whose channels mean one thing everywhere, and so explains the images themselves, too, of which it
is gradient times input. Behind a map from which the rest of the encoder is piecewise linear, its sum over pixels is the latent,
less what biases bring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import unknown

VARIANTS = ("cvpr", "arxiv_v1", "expvae", "hirescam")


def check_variant(variant: str) -> str:
    """Return `variant` if it exists, else raise UsageError with those that do."""
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    return variant


def is_linear(variant: str) -> bool:
    """Whether a signed map is linear in the gradient, so that less than 0 means what lowers the latent."""
    return variant in ("cvpr", "hirescam")


def by_pixel(variant: str) -> bool:
    """Whether each pixel has a weight of its own, and not each channel one for all of its pixels."""
    return variant == "hirescam"


def channel_weights(gradient: Tensor, variant: str) -> Tensor:
    """Gradient (..., n, h, w) -> channel weights (..., n); of a variant that has them by pixel, their spatial means."""
    if variant == "arxiv_v1":
        return gradient.relu().mean((-2, -1))
    weights = gradient.mean((-2, -1))
    if variant == "expvae":
        # In float32, since squares of half-precision gradients fall below its smallest numbers.
        square = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square().mean((-3, -2, -1))
        # The root has no slope at 0, where a latent does not depend on the image; without care it is NaN in training.
        rms = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
        weights = (weights / (rms + 1e-5).unsqueeze(-1)).to(gradient.dtype)
    return weights


def rectifier(variant: str) -> str:
    """What makes a signed map a map: "relu" (eq. 2) or "abs"."""
    return "abs" if variant == "expvae" else "relu"


@dataclass(frozen=True)
class Kept:
    """What is kept of a gradient, chunk by chunk, since all of it can be larger than memory.

    Attributes:
        variant: whose channel weights.
        features: (B, n, h, w), to also keep the sum over channels of the gradient times it, pixel by pixel: signed maps.
    """

    variant: str
    features: Tensor | None = None

    @property
    def means_do(self) -> bool:
        """Whether the channel weights come from the gradient's spatial means."""
        return is_linear(self.variant)

    @property
    def means_alone(self) -> bool:
        """Whether those means are all that is needed of the gradient."""
        return self.means_do and self.features is None

    def of(self, gradient: Tensor, features: Tensor | None) -> Tensor:
        """Gradient (..., n, h, w) -> channel weights (..., n); with `features`, as large, (..., n + h w): a map behind them."""
        weights = channel_weights(gradient, self.variant)
        if features is None:
            return weights
        return torch.cat([weights, (gradient * features).sum(-3).flatten(-2).to(weights.dtype)], -1)

    def none(self, features: Tensor, rows: int) -> Tensor:
        """What is kept of `rows` gradients (B, n, h, w) by `features` that are 0."""
        _, n, h, w = features.shape
        return features.new_zeros(len(features), rows, n if self.features is None else n + h * w)

    def apart(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, n + h w) -> channel weights (B, R, n), signed maps (B, R, h, w)."""
        assert self.features is not None
        weights, maps = kept.tensor_split([self.features.shape[1]], -1)
        return weights, maps.view(*maps.shape[:2], *self.features.shape[2:])
