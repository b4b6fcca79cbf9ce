"""Gaussian smoothing of maps."""

from __future__ import annotations

from torch import Tensor


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) smoothed by a Gaussian of `sigma` pixels, reflected at the edges."""
    from kornia.filters import gaussian_blur2d

    reach = min(round(3 * sigma), min(maps.shape[1:]) - 1)
    if sigma <= 0 or reach < 1:
        return maps
    size = 2 * reach + 1
    blurred: Tensor = gaussian_blur2d(maps[:, None], (size, size), (sigma, sigma))
    return blurred[:, 0]
