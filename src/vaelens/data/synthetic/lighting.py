"""Another light, another focus: changes of a whole image that are no defect."""

from __future__ import annotations

import torch
from torch import Tensor

from vaelens.data.brightness import normalise
from vaelens.data.synthetic.draws import chance, noise, uniform

_GAMMA = 0.15  # in octaves to the base e, as is the gain
_SHADE = 0.05  # how much brighter one side of the image is than another, at most
_SOFT = 0.4  # share of the images that are a little out of focus
_FOCUS = 0.7  # pixels that these are blurred by


def relit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) in [0, 1] with another gamma, gain, shading and, some of them, focus; in [0, 1]."""
    from kornia.filters import gaussian_blur2d  # takes a second to import

    count, _, height, width = images.shape
    gamma = _wide(uniform(generator, count, -_GAMMA, _GAMMA)).exp()
    gain = _wide(uniform(generator, count, -_GAMMA, _GAMMA)).exp()
    shade = _wide(uniform(generator, count, 0, _SHADE)) * noise(generator, count, height, width, 3)[:, None]
    lit = images.clamp(0, 1) ** gamma * gain * (1 + shade)
    share = _wide(uniform(generator, count) * chance(generator, count, _SOFT))
    radius = [min(2, side - 1) for side in (height, width)]
    soft = gaussian_blur2d(lit, (2 * radius[0] + 1, 2 * radius[1] + 1), (_FOCUS, _FOCUS))
    mixed: Tensor = (1 - share) * lit + share * soft
    return mixed.clamp(0, 1)


def evened(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] at the common brightness and contrast (`vaelens.data.brightness`), in [0, 1]."""
    levels = (images * 255).round().to(torch.uint8)
    return torch.stack([normalise(image) for image in levels]).to(images.dtype) / 255


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
