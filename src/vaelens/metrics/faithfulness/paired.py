"""A difference of two methods on the same images, and what may be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a difference over images, with its 95 % interval (Student's t over images).

    Attributes:
        mean: above 0 where the first is better; NaN without images.
        low, high: the interval's ends; NaN with fewer than two images.
        images: over how many.
    """

    mean: float
    low: float
    high: float
    images: int

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval lies above or below 0, "no better" where it holds 0, or "too few images"."""
        if self.low != self.low:
            return "too few images"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no better"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "images": self.images, "verdict": self.verdict}


def paired_difference(differences: Tensor, least_spread: float = 0.0) -> PairedDifference:
    """From one difference for each image, (B,); those that are NaN are left out.

    The interval is that of images drawn independently: frames of one clip are not, and make it too narrow.

    Args:
        differences: (B,).
        least_spread: what their standard deviation is at least, where that is known: of rare hits there may be none among a few
            images, which says nothing of how often there are some.

    Raises:
        UsageError: another shape.
    """
    if not isinstance(differences, Tensor) or differences.ndim != 1:
        got = tuple(differences.shape) if isinstance(differences, Tensor) else type(differences).__name__
        raise UsageError(f"differences are a tensor (B,), one for each image, got {got}")
    values = differences.detach().cpu().double()
    values = values[~values.isnan()]
    count = len(values)
    mean = float(values.mean()) if count else torch.nan
    if count < 2:
        return PairedDifference(mean, torch.nan, torch.nan, count)
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * max(float(values.std()), least_spread) / count**0.5
    return PairedDifference(mean, mean - half, mean + half, count)
