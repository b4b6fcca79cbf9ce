"""One brightness and one contrast for all images, whatever the lamp and the exposure were.

With the median m of all values of an image (all channels together) and its spread s = (95th - 5th percentile) / 3.29, which
is the standard deviation where values are normally distributed:

    x  ->  clip(round(128 + (x - m) * gain), 0, 255),    gain = min(TARGET / s, MOST_GAIN)

Neither m nor s depends on what up to 5% of the pixels are, so that a small defect, however bright, changes nothing elsewhere.
An inner percentile range such as the quartiles would not do: on an object before a plain ground it sees the ground's noise
alone. The bound on the gain keeps noise noise: an image of one value becomes 128 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaelens.errors import UsageError

MIDDLE = 128
TARGET = 28.0  # so that 4.5 spreads on either side still fit: a dark object before a light ground is not cut off
MOST_GAIN = 4.0
PERCENTILES = (5, 50, 95)
_WIDTH = 3.29  # the distance of the percentiles 5 and 95 of a normal distribution, in standard deviations,
_DECILES = 2.56  # and of 10 and 90


def normalise(image: Tensor) -> Tensor:
    """Bring one image to the common brightness and contrast.

    Args:
        image: uint8, (C, H, W) or any other shape, values 0 to 255.

    Returns:
        uint8 of the same shape.

    Raises:
        UsageError: another dtype, or no values.
    """
    if image.dtype != torch.uint8 or image.numel() == 0:
        raise UsageError(f"brightness is normalised on torch.uint8 images, not {image.dtype} {tuple(image.shape)}")
    return table(image)[image.to(torch.int64)]


def table(image: Tensor) -> Tensor:
    """What each of the 256 values becomes in this image: uint8, (256,). The same on every machine."""
    below = torch.bincount(image.flatten(), minlength=256).cumsum(0)
    total = image.numel()
    # the smallest value that at least this share of the values does not exceed: whole numbers, no rounding
    low, median, high = (int((below * 100 >= total * percent).nonzero()[0]) for percent in PERCENTILES)
    return evened(torch.arange(256) - median, high - low)


def evened(offsets: Tensor, width: int) -> Tensor:
    """What values become.

    Args:
        offsets: whole numbers, by how much they exceed the median of the image's values.
        width: the distance of the percentiles 5 and 95 of the image's values.

    Returns:
        uint8, of the shape of `offsets`.
    """
    spread = width / _WIDTH
    gain = MOST_GAIN if spread * MOST_GAIN <= TARGET else TARGET / spread
    values = MIDDLE + offsets.to(torch.float64) * gain
    return values.round().clamp(0, 255).to(torch.uint8)


def quantiles(values: Tensor, shares: Sequence[float]) -> list[Tensor]:
    """Rows of values (B, N) -> for each of `shares` the value (B,) that at least this share of the row does not exceed."""
    # Not torch.quantile, which takes 16 million numbers at most.
    count = values.shape[1]
    return [values.kthvalue(min(count, max(1, round(share * count))), dim=1).values for share in shares]


def middle_and_spread(values: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Rows of values (B, N) -> their medians and robust spreads (B,), at least `least`.

    The spread is a normal distribution's standard deviation from its deciles.
    """
    low, middle, high = quantiles(values, (0.1, 0.5, 0.9))
    return middle, ((high - low) / _DECILES).clamp_min(least)
