"""Whether a map lies where a mask says that something is: the pointing game, and the share of its energy inside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.attention.maps import resize
from vaelens.errors import UsageError, whole
from vaelens.metrics.faithfulness.inputs import check_maps

_TIED = 1e-9  # of a map's range: where one cell is stretched over several pixels, rounding tells them apart


def pointing_game(maps: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """Whether the highest pixel of each map lies in its mask (Zhang et al. 2018): (B,), in [0, 1].

    Where several pixels are highest it is the share of them that do, what choosing one at random would give in the mean; a map
    of one value everywhere so counts as chance, the mask's share of the image.

    Args:
        maps: (B, h, w), resized to the masks.
        masks: (B, H, W), bool.
        tolerance: pixels, in each direction, by which the mask is widened.

    Returns:
        1 where it does, 0 where it does not, NaN where the mask has no pixel.

    Raises:
        UsageError: shapes that do not fit, masks that are not bool, or a tolerance below 0.
    """
    values, inside = _checked(maps, masks)
    reach = whole("tolerance", tolerance, least=0)
    there = inside.flatten(1).any(1)
    if reach:
        inside = F.max_pool2d(inside.double().unsqueeze(1), 2 * reach + 1, 1, reach).squeeze(1) > 0
    flat = values.flatten(1)
    peak, low = flat.amax(1, keepdim=True), flat.amin(1, keepdim=True)
    highest = flat >= peak - _TIED * (peak - low)
    hit = (highest & inside.flatten(1)).sum(1) / highest.sum(1)
    return torch.where(there, hit.double(), torch.nan)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's sum that lies in its mask (Wang et al. 2020, Score-CAM): (B,), in [0, 1].

    A map that is 0 everywhere counts as chance, the mask's share of the image, as one of any other single value does.

    Args:
        maps: (B, h, w), values >= 0, resized to the masks.
        masks: (B, H, W), bool.

    Returns:
        NaN where the mask has no pixel.

    Raises:
        UsageError: shapes that do not fit, masks that are not bool, or maps with values below 0.
    """
    values, inside = _checked(maps, masks)
    if bool((values < 0).any()):
        raise UsageError("energy is of maps with values from 0 on; give the rectified maps")
    flat, inside = values.flatten(1), inside.flatten(1)
    flat = flat / flat.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)  # no sum is beyond what floats hold
    total = flat.sum(1)
    share = torch.where(total > 0, (flat * inside).sum(1) / total, inside.double().mean(1))
    return torch.where(inside.any(1), share, torch.nan)


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.ndim != 3 or 0 in masks.shape:
        got = f"{tuple(masks.shape)}, {masks.dtype}" if isinstance(masks, Tensor) else type(masks).__name__
        raise UsageError(f"masks are a bool tensor (B, H, W), got {got}")
    if not isinstance(maps, Tensor) or maps.ndim != 3:
        of = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise UsageError(f"maps are a tensor (B, h, w), one for each mask, got {of}")
    values = check_maps(maps.unsqueeze(1), len(masks)).squeeze(1)
    return resize(values, (masks.shape[1], masks.shape[2])), masks.cpu()
