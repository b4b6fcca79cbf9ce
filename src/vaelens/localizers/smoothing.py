"""Gaussian smoothing of images and maps."""

from __future__ import annotations

from torch import Tensor


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images (B, C, H, W) under a Gaussian of `sigma` pixels out to 3 sigma, mirrored at the borders, in the images' type.

    On images that are smaller than that, the Gaussian is cut so that it fits.
    """
    from kornia.filters import gaussian_blur2d  # takes a second to import

    radius = [min(round(3 * sigma), side - 1) for side in images.shape[2:]]
    return gaussian_blur2d(images, (2 * radius[0] + 1, 2 * radius[1] + 1), (sigma, sigma), border_type="reflect")


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) likewise."""
    return blurred(maps[:, None], sigma)[:, 0]
