"""How a gradient becomes channel weights: as in the paper, as in its first version and as in the authors' code.

============  ===================================================  ==============
variant       channel weight alpha_k from g = d z_i / d A          map
============  ===================================================  ==============
`cvpr`        spatial mean of g_k (eq. 3)                          ReLU (eq. 2)
`arxiv_v1`    spatial mean of ReLU(g_k)                            ReLU
`expvae`      spatial mean of g_k / (RMS(g) + 1e-5), the RMS over  absolute value
              all channels and pixels of one image
============  ===================================================  ==============

The authors' code takes the RMS over the whole batch; over one image it is the same for a batch of one, and the map of an
image does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaelens.errors import unknown

VARIANTS = ("cvpr", "arxiv_v1", "expvae")


def check_variant(variant: str) -> str:
    """Return `variant` if it exists, else raise UsageError with those that do."""
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    return variant


def needs_full_gradient(variant: str) -> bool:
    """Whether the weights need more of the gradient than its spatial mean."""
    return variant != "cvpr"


def channel_weights(gradient: Tensor, variant: str) -> Tensor:
    """Gradient (..., n, h, w) -> channel weights (..., n)."""
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
