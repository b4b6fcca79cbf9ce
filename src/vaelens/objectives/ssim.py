"""Structural similarity (Wang et al. 2004) as a loss and as a map of what differs."""

from __future__ import annotations

import torch
from torch import Tensor

from vaelens.errors import UsageError

WINDOW = 11
"""Side of the window in pixels, as Bergmann et al. 2018 have it for all their experiments."""
_SPREAD = 1.5  # of the Gaussian, in pixels
_K1, _K2 = 0.01**2, 0.03**2


def ssim_residual(images: Tensor, others: Tensor, window: int = WINDOW) -> Tensor:
    """How little two images resemble each other around each pixel: (1 - SSIM) / 2, mean over channels.

    SSIM compares brightness, contrast and structure within a Gaussian window of spread 1.5 pixels, cut off at `window`
    pixels; its constants are 0.01 and 0.03 (K1, K2) at a range of values of 1. Borders are mirrored. Bergmann et al. 2018
    name the window's side and the constants, and leave its weights open.

    Args:
        images: (B, C, H, W), values in [0, 1], sides above `window // 2`.
        others: of the same shape.
        window: odd.

    Returns:
        (B, H, W), float32 or better, values in [0, 1]: 0 where they are the same.

    Raises:
        UsageError: shapes that differ, images too small for the window, or a window that is no odd number.
    """
    from kornia.filters import filter2d_separable, get_gaussian_kernel1d  # takes a second to import

    if images.shape != others.shape or images.ndim != 4:
        raise UsageError(
            f"images and what they are compared with have one shape (B, C, H, W), got {tuple(images.shape)} and "
            f"{tuple(others.shape)}"
        )
    if window < 1 or window % 2 == 0:
        raise UsageError(f"the window of SSIM is an odd number of pixels, got {window}")
    if min(images.shape[2:]) <= window // 2:
        raise UsageError(f"SSIM with a window of {window} takes images of more than {window // 2} pixels a side")
    # In half precision the variances, differences of large numbers, would be noise.
    images, others = (each.float() if each.dtype in (torch.float16, torch.bfloat16) else each for each in (images, others))
    images_mean, others_mean = (each.mean((2, 3), keepdim=True) for each in (images, others))
    # Variances are differences of squares, which cancel in bright images of little contrast unless these are centred first.
    one, other = images - images_mean, others - others_mean
    kernel = get_gaussian_kernel1d(window, _SPREAD, device=images.device, dtype=images.dtype)

    def local_mean(values: Tensor) -> Tensor:
        # So many channels of one image are filtered 30 times faster than many images. But a filter has as many groups as there
        # are channels, and in a graph for any number of images that number has to be settled.
        flat = (-1, 1) if torch.compiler.is_exporting() else (1, -1)
        with torch.autocast(values.device.type, enabled=False):
            filtered: Tensor = filter2d_separable(values.reshape(*flat, *values.shape[2:]), kernel, kernel)
        return filtered.reshape(values.shape)

    mean_one, mean_other = local_mean(one), local_mean(other)
    variances = local_mean(one.square() + other.square()) - mean_one.square() - mean_other.square()
    covariance = local_mean(one * other) - mean_one * mean_other
    bright_one, bright_other = mean_one + images_mean, mean_other + others_mean
    brightness = (2 * bright_one * bright_other + _K1) / (bright_one.square() + bright_other.square() + _K1)
    return (1 - brightness * (2 * covariance + _K2) / (variances + _K2)).div(2).clamp(0, 1).mean(1)


def ssim_error(images: Tensor, others: Tensor, window: int = WINDOW) -> Tensor:
    """The loss of each image, the mean of `ssim_residual` over its pixels: (B,), values in [0, 1]."""
    return ssim_residual(images, others, window).mean((1, 2))
