"""Structural similarity (Wang et al. 2004) as a loss and as a map of what differs."""

from __future__ import annotations

import numpy as np
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
    local_mean = _multiplied if torch.compiler.is_exporting() else _filtered
    mean_one, mean_other = local_mean(one, window), local_mean(other, window)
    variances = local_mean(one.square() + other.square(), window) - mean_one.square() - mean_other.square()
    covariance = local_mean(one * other, window) - mean_one * mean_other
    bright_one, bright_other = mean_one + images_mean, mean_other + others_mean
    brightness = (2 * bright_one * bright_other + _K1) / (bright_one.square() + bright_other.square() + _K1)
    return (1 - brightness * (2 * covariance + _K2) / (variances + _K2)).div(2).clamp(0, 1).mean(1)


def ssim_error(images: Tensor, others: Tensor, window: int = WINDOW) -> Tensor:
    """The loss of each image, the mean of `ssim_residual` over its pixels: (B,), values in [0, 1]."""
    return ssim_residual(images, others, window).mean((1, 2))


def _filtered(values: Tensor, window: int) -> Tensor:
    """Values (B, C, H, W) -> their Gaussian means around each pixel, of the same shape."""
    from kornia.filters import filter2d_separable, get_gaussian_kernel1d  # takes a second to import

    kernel = get_gaussian_kernel1d(window, _SPREAD, device=values.device, dtype=values.dtype)
    with torch.autocast(values.device.type, enabled=False):
        # So many channels of one image are filtered 30 times faster than many images.
        found: Tensor = filter2d_separable(values.reshape(1, -1, *values.shape[2:]), kernel, kernel)
    return found.reshape(values.shape)


def _multiplied(values: Tensor, window: int) -> Tensor:
    """The same by a matrix for each side, in a graph that is to be a file: onnxruntime filters no float64."""
    down, across = (_means(side, window).to(values.dtype) for side in values.shape[2:])
    return down.T @ values @ across


def _means(side: int, window: int) -> Tensor:
    """The Gaussian means along a side as a matrix (pixels, their means), float64."""
    places = np.arange(window) - window // 2
    weights = np.exp(-(places**2) / (2 * _SPREAD**2))
    mirrored = np.pad(np.eye(side), ((0, 0), (window // 2, window // 2)), mode="reflect")
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(mirrored, window, axis=1) @ (weights / weights.sum()))
