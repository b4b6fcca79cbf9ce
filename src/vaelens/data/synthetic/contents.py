"""What a synthetic defect shows: new values for a whole image, of which those under the defect's cover are used.

Strengths are in units of the image's own spread, so that a defect is as strong on a faint texture as on a black-and-white one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.data.brightness import middle_and_spread
from vaelens.data.synthetic.draws import TURN, chance, log_uniform, noise, sign, uniform

_LEAST_SPREAD = 0.02


@dataclass(frozen=True)
class Place:
    """Images and where a defect is to lie on each, with what contents are drawn from.

    Args:
        images: (B, C, H, W), in [0, 1].
        cover: (B, 1, H, W), in [0, 1], the defects' shapes.
        others: normal images (M, C, H, W).
        generator: on the CPU.
    """

    images: Tensor
    cover: Tensor
    others: Tensor
    generator: torch.Generator

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.images.shape[2:])

    @cached_property
    def spread(self) -> Tensor:
        """Robust standard deviation of each image's brightness, (B, 1, 1, 1)."""
        return spread(self.images)

    @cached_property
    def level(self) -> Tensor:
        """Mean of each image under its cover, (B, C, 1, 1)."""
        return self.mean(self.images)

    def mean(self, images: Tensor) -> Tensor:
        """Mean of given images (B, C, H, W) under the covers, (B, C, 1, 1)."""
        return (images * self.cover).sum((2, 3), keepdim=True) / self.cover.sum((2, 3), keepdim=True).clamp_min(1e-3)

    def uniform(self, low: float, high: float) -> Tensor:
        """A number for each image, (B, 1, 1, 1)."""
        return _wide(uniform(self.generator, len(self.images), low, high))

    def strength(self, low: float, high: float) -> Tensor:
        """A positive number for each image, log-uniform, (B, 1, 1, 1)."""
        return _wide(log_uniform(self.generator, len(self.images), low, high))

    def shift(self, strength: Tensor) -> Tensor:
        """A change of brightness of so many spreads, up or down, (B, 1, 1, 1)."""
        return _wide(sign(self.generator, len(self.images))) * strength * self.spread

    def half(self) -> Tensor:
        """True for about half of the images, (B, 1, 1, 1)."""
        return _wide(chance(self.generator, len(self.images), 0.5))

    def noise(self, cells: int) -> Tensor:
        """Smooth noise of unit standard deviation, (B, 1, H, W)."""
        count, _, height, width = self.images.shape
        return noise(self.generator, count, height, width, cells)[:, None]


def other(place: Place) -> Tensor:
    """Another normal image, shifted, turned and scaled."""
    chosen = torch.randint(len(place.others), (len(place.images),), generator=place.generator)
    return _moved(place, place.others[chosen])


def itself(place: Place) -> Tensor:
    """The image itself, shifted, turned and scaled."""
    return _moved(place, place.images)


def shade(place: Place) -> Tensor:
    """The image, brighter or darker."""
    return place.images + place.shift(place.strength(0.25, 3))


def step(place: Place) -> Tensor:
    """The image with more or less contrast, and brighter or darker."""
    contrast = place.strength(0.3, 3)
    return place.level + contrast * (place.images - place.level) + place.shift(place.uniform(0, 1))


def fill(place: Place) -> Tensor:
    """One brightness, with little of what was there and a little grain."""
    kept = place.uniform(0, 0.5) * (place.images - place.level)
    grain = place.uniform(0, 0.3) * place.spread * place.noise(place.side // 3)
    return place.level + kept + place.shift(place.strength(0.4, 5)) + grain


def texture(place: Place) -> Tensor:
    """Noise, fine or coarse, over more or less of what was there."""
    grains = torch.stack([place.noise(place.side // cell) for cell in (2, 4, 8)])
    count = len(place.images)
    grain = grains[torch.randint(len(grains), (count,), generator=place.generator), torch.arange(count)]
    kept = place.uniform(0, 1) * (place.images - place.level)
    return place.level + kept + place.strength(0.3, 3) * place.spread * grain + place.shift(place.uniform(0, 1.5))


def blur(place: Place) -> Tensor:
    """The image, blurred slightly or strongly."""
    wide = torch.where(place.half(), torch.tensor(1.2), torch.tensor(3.0))
    return _blurred(place.images, wide) + place.shift(place.uniform(0, 0.5))


def sharp(place: Place) -> Tensor:
    """The image with its fine structure made stronger."""
    coarse = _blurred(place.images, torch.full((len(place.images), 1, 1, 1), 1.5))
    return coarse + place.uniform(1.7, 3.5) * (place.images - coarse) + place.shift(place.uniform(0, 0.5))


def warp(place: Place) -> Tensor:
    """The image, pixels under the cover shifted smoothly by a few hundredths of the side; the others are as they were."""
    count, _, height, width = place.images.shape
    flow = place.side * place.uniform(0.01, 0.06) * place.cover * torch.cat([place.noise(8), place.noise(8)], 1)
    same = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, height, width], align_corners=True)
    grid = same + flow.permute(0, 2, 3, 1) * 2 / torch.tensor([width - 1, height - 1])
    return functional.grid_sample(place.images, grid, padding_mode="reflection", align_corners=True)


CONTENTS: dict[str, Callable[[Place], Tensor]] = {
    "other": other,
    "self": itself,
    "shade": shade,
    "step": step,
    "fill": fill,
    "texture": texture,
    "blur": blur,
    "sharp": sharp,
    "warp": warp,
}
"""The contents. Each gives images (B, C, H, W), to be clamped to [0, 1] and blended in under the cover."""


def spread(images: Tensor) -> Tensor:
    """Robust standard deviation of each image's brightness, from its deciles and at least 0.02: (B, 1, 1, 1)."""
    return _wide(middle_and_spread(images.mean(1).flatten(1), _LEAST_SPREAD)[1])


def _moved(place: Place, source: Tensor) -> Tensor:
    """Source images (B, C, H, W) moved and blended with the place's own; half of them keep the place's brightness."""
    count, generator = len(source), place.generator
    turned = chance(generator, count, 0.5)
    angle = torch.where(turned, uniform(generator, count, 0, TURN), uniform(generator, count, -0.3, 0.3))
    scale = uniform(generator, count, -0.6, 0.6).exp()
    towards, far = uniform(generator, count, 0, TURN), uniform(generator, count, 0.1, 0.8)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([cos, -sin, towards.cos() * far, sin, cos, towards.sin() * far], 1).view(count, 2, 3)
    grid = functional.affine_grid(rows, list(source.shape), align_corners=False)
    moved = functional.grid_sample(source, grid, padding_mode="reflection", align_corners=False)
    moved = torch.where(place.half(), moved + place.level - place.mean(moved), moved)
    share = place.uniform(0.5, 1)
    return share * moved + (1 - share) * place.images


def _blurred(images: Tensor, wide: Tensor) -> Tensor:
    """Images blurred by Gaussians of standard deviations `wide`, (B, 1, 1, 1) in pixels."""
    from kornia.filters import gaussian_blur2d

    reach = int(3 * float(wide.max()) + 0.5)
    rows, columns = (2 * min(reach, (side - 1) // 2) + 1 for side in images.shape[2:])
    blurred: Tensor = gaussian_blur2d(images, (rows, columns), wide.view(-1, 1).expand(-1, 2))
    return blurred


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
