"""Synthetic defects on normal images: what settings are chosen by and learned heads are trained on, so that no test image is.

Six kinds: a patch from elsewhere in the image, a patch of another normal image (turned and scaled), a stroke, a blob of another
brightness and texture, blur, and a warp. All randomness comes from one generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.errors import UsageError, unknown

_LEAST_CHANGE = 0.03  # a pixel whose neighbourhood changed by less is no part of the mask
_AT_STRUCTURE = 0.7  # share of the defects that lie where the image has structure, the others anywhere


def with_defects(
    images: Tensor,
    others: Tensor,
    generator: torch.Generator,
    clean: float = 0.25,
    kinds: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw defects on normal images: one on each, a second on a third of them, none on a share `clean`.

    Args:
        images: normal, (B, C, H, W), float in [0, 1]; not changed.
        others: normal images (M, C, H, W) that patches are taken from.
        generator: on the CPU.
        clean: share of images left as they are, in [0, 1].
        kinds: which of `KINDS`; None for all.

    Returns:
        (images, masks): (B, C, H, W) in [0, 1], and bool (B, H, W), True where a defect changed the image visibly.

    Raises:
        UsageError: an unknown kind, a share outside [0, 1], or images of another shape or type.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise unknown("kind of synthetic defect", kind, KINDS)
    if not 0 <= clean <= 1:
        raise UsageError(f"clean is a share between 0 and 1, got {clean}")
    if images.ndim != 4 or not images.is_floating_point() or others.shape[1:] != images.shape[1:] or not len(others):
        got = f"{images.dtype} {tuple(images.shape)} and {tuple(others.shape)}"
        raise UsageError(f"synthetic defects take float images (B, C, H, W) and others of their shape, got {got}")
    chosen = list(kinds or KINDS)
    drawn, masks = _one(images, others, generator, chosen)
    again, more = _one(drawn, others, generator, chosen)
    second = _uniform(generator, len(images)) < 0.35
    drawn, masks = _where(second, again, drawn), torch.where(second[:, None, None], masks | more, masks)
    untouched = _uniform(generator, len(images)) < clean
    return _where(untouched, images, drawn), masks & ~untouched[:, None, None]


def _one(images: Tensor, others: Tensor, generator: torch.Generator, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
    """One defect on each image."""
    count, _, height, width = images.shape
    centres = _centres(images, generator)
    kind_of = torch.randint(len(kinds), (count,), generator=generator)
    drawn, masks = images.clone(), torch.zeros(count, height, width, dtype=torch.bool)
    for position, kind in enumerate(kinds):
        at = (kind_of == position).nonzero().flatten()
        if not len(at):
            continue
        before = images[at]
        cover = (_stroke if kind == "stroke" else _blob)(generator, centres[at], height, width)[:, None]
        after = KINDS[kind](before, others, cover, generator).clamp(0, 1)
        if kind != "warp":  # which moves pixels within its cover by itself
            after = before * (1 - cover) + after * cover
        change = functional.avg_pool2d((after - before).abs().amax(1, keepdim=True), 3, stride=1, padding=1)
        drawn[at] = after
        masks[at] = ((change > _LEAST_CHANGE) & (cover > 0.3))[:, 0]
    return drawn, masks


def _patch(images: Tensor, others: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """The image itself, shifted, slightly turned and scaled."""
    count = len(images)
    angle = _uniform(generator, count, -0.7, 0.7)
    towards, far = _uniform(generator, count, 0, 2 * math.pi), _uniform(generator, count, 0.1, 0.7)
    shift = torch.stack([towards.cos() * far, towards.sin() * far], 1)
    return _blended(images, _moved(images, angle, shift, generator), generator)


def _other(images: Tensor, others: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """Another normal image, turned, shifted and scaled."""
    count = len(images)
    source = others[torch.randint(len(others), (count,), generator=generator)]
    angle = _uniform(generator, count, -math.pi, math.pi)
    shift = _uniform(generator, 2 * count, -0.6, 0.6).view(count, 2)
    return _blended(images, _moved(source, angle, shift, generator), generator)


def _drawn(images: Tensor, others: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """Brighter or darker along the stroke, unevenly."""
    count, _, height, width = images.shape
    amount = _uniform(generator, count, 0.08, 0.5) * _sign(generator, count)
    return images + _wide(amount) * (1 + 0.3 * _noise(generator, count, height, width, 24)[:, None])


def _spot(images: Tensor, others: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """Brighter or darker, with more or less of what was there, and a texture of its own."""
    count, _, height, width = images.shape
    amount = _uniform(generator, count, 0.06, 0.4) * _sign(generator, count)
    rough = _uniform(generator, count, 0, 0.15)
    kept = _wide(_uniform(generator, count))
    level = (images * cover).sum((2, 3), keepdim=True) / cover.sum((2, 3), keepdim=True).clamp_min(1)
    texture = _noise(generator, count, height, width, max(2, min(height, width) // 3))[:, None]
    return kept * images + (1 - kept) * level + _wide(amount) + _wide(rough) * texture


def _blurred(images: Tensor, others: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    from kornia.filters import gaussian_blur2d

    blurred: Tensor = gaussian_blur2d(images, (13, 13), (2.5, 2.5))
    return blurred


def _warped(images: Tensor, others: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels shifted smoothly by a few hundredths of the side."""
    count, _, height, width = images.shape
    amount = min(height, width) * _uniform(generator, count, 0.01, 0.05)
    flow = torch.stack([_noise(generator, count, height, width, 8) for _ in range(2)], -1)
    flow = flow * _wide(amount) * cover[:, 0, :, :, None] * 2 / torch.tensor([width - 1, height - 1])
    same = torch.eye(2, 3).expand(count, 2, 3)
    grid = functional.affine_grid(same, [count, 1, height, width], align_corners=True) + flow
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


KINDS: dict[str, Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]] = {
    "patch": _patch,
    "other": _other,
    "stroke": _drawn,
    "blob": _spot,
    "blur": _blurred,
    "warp": _warped,
}
"""The kinds of defects. Each takes images, other images, the cover (B, 1, H, W) in [0, 1] and the generator."""


def _centres(images: Tensor, generator: torch.Generator) -> Tensor:
    """Where defects go, (B, 2) as shares of height and width."""
    count, _, height, width = images.shape
    grey = images.mean(1)
    structure = (grey - grey.flatten(1).median(1).values[:, None, None]).abs()
    weights = functional.avg_pool2d(structure[:, None], 5, stride=1, padding=2).flatten(1) + 1e-6
    at = torch.multinomial(weights, 1, generator=generator).flatten()
    there = torch.stack([(at // width + 0.5) / height, (at % width + 0.5) / width], 1)
    anywhere = _uniform(generator, 2 * count).view(count, 2)
    return torch.where((_uniform(generator, count) < _AT_STRUCTURE)[:, None], there, anywhere)


def _blob(generator: torch.Generator, centres: Tensor, height: int, width: int) -> Tensor:
    """Irregular ellipses with soft edges, radius 2 to 13 hundredths of the side: (B, H, W), values in [0, 1]."""
    count, side = len(centres), min(height, width)
    down, right = _offsets(centres, height, width)
    radius = 0.02 * side * 6.5 ** _uniform(generator, count)
    stretch = torch.exp(_uniform(generator, count, -0.45, 0.45))
    angle = _uniform(generator, count, 0, math.pi)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = (cos * right + sin * down) / (radius * stretch)[:, None, None]
    across = (cos * down - sin * right) / (radius / stretch)[:, None, None]
    squared = along.square() + across.square()
    distance = squared.sqrt() + 0.35 * _noise(generator, count, height, width, 12)
    soft = _uniform(generator, count, 0.03, 0.25)[:, None, None]
    return torch.sigmoid((1 - distance) / soft) * (squared < 9)


def _stroke(generator: torch.Generator, centres: Tensor, height: int, width: int) -> Tensor:
    """Bent lines, 4 to 32 hundredths of the side long and up to 3 wide: (B, H, W), values in [0, 1]."""
    count, side = len(centres), min(height, width)
    length = 0.04 * side * 8 ** _uniform(generator, count)
    angle = _uniform(generator, count, 0, 2 * math.pi)
    bend = length * _uniform(generator, count, -0.4, 0.4)
    thick = 0.004 * side * 8 ** _uniform(generator, count)
    down, right = _offsets(centres, height, width)
    nearest = torch.full((count, height, width), torch.inf)
    for step in torch.linspace(-1, 1, 25).tolist():
        along, aside = length * step / 2, bend * (1 - step * step)
        y = along * angle.sin() + aside * angle.cos()
        x = along * angle.cos() - aside * angle.sin()
        nearest = torch.minimum(nearest, (down - y[:, None, None]).square() + (right - x[:, None, None]).square())
    return torch.sigmoid((thick[:, None, None] - nearest.sqrt()) / 0.5)


def _offsets(centres: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixels down and right of each centre, (B, H, 1) and (B, 1, W)."""
    down = torch.arange(height)[None, :, None] - (centres[:, 0] * height)[:, None, None]
    right = torch.arange(width)[None, None, :] - (centres[:, 1] * width)[:, None, None]
    return down, right


def _moved(images: Tensor, angle: Tensor, shift: Tensor, generator: torch.Generator) -> Tensor:
    scale = torch.exp(_uniform(generator, len(images), -0.5, 0.5))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _blended(images: Tensor, new: Tensor, generator: torch.Generator) -> Tensor:
    share = _wide(_uniform(generator, len(images), 0.5, 1))
    return share * new + (1 - share) * images


def _noise(generator: torch.Generator, count: int, height: int, width: int, cells: int) -> Tensor:
    """Smooth noise of unit variance, about `cells` bumps a side: (count, H, W)."""
    coarse = torch.randn(count, 1, cells, cells, generator=generator)
    fine = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[:, 0]
    return fine / fine.flatten(1).std(1)[:, None, None].clamp_min(1e-6)


def _uniform(generator: torch.Generator, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _sign(generator: torch.Generator, count: int) -> Tensor:
    return torch.randint(0, 2, (count,), generator=generator) * 2 - 1


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(_wide(chosen), one, other)
