"""Images in [0, 1] as a model takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vaelens.errors import UsageError


@dataclass(frozen=True)
class Inputs:
    """What becomes of the images on their way into a model: image * scale + shift, one number each or one for each channel."""

    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    @classmethod
    def asked(cls, input_range: Sequence[float] | None, normalize: tuple[Sequence[float], Sequence[float]] | None) -> Inputs:
        """From the arguments of `adapt`.

        Raises:
            UsageError: both, or numbers that cannot be used.
        """
        if input_range is not None and normalize is not None:
            raise UsageError("give input_range or normalize, not both")
        if input_range is not None:
            limits = _numbers("input_range", input_range, "(low, high)")
            if len(limits) != 2 or limits[0] >= limits[1]:
                raise UsageError(f"input_range is (low, high), such as (-1, 1), got {input_range!r}")
            return cls((limits[1] - limits[0],), (limits[0],))
        if normalize is None:
            return cls()
        if not isinstance(normalize, tuple | list) or len(normalize) != 2:
            raise UsageError(f"normalize is (mean, standard deviation), a number for each channel in both, got {normalize!r}")
        mean = _numbers("normalize", normalize[0], "a mean for each channel")
        std = _numbers("normalize", normalize[1], "a standard deviation for each channel")
        if len(mean) != len(std) or min(std) <= 0:
            raise UsageError(f"normalize takes as many standard deviations above 0 as means, got {normalize!r}")
        return cls(tuple(1 / s for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True)))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> as the model takes them.

        Raises:
            UsageError: another number of channels.
        """
        if self == Inputs():
            return images
        channels = len(self.scale)
        if channels > 1 and images.shape[1] != channels:
            raise UsageError(f"normalize has numbers for {channels} channels, the images {tuple(images.shape)} have others")
        return images * _by_channel(self.scale, images) + _by_channel(self.shift, images)

    def undone(self, images: Tensor) -> Tensor:
        """What a decoder gives, in [0, 1] again."""
        if self == Inputs():
            return images
        return (images - _by_channel(self.shift, images)) / _by_channel(self.scale, images)


def _by_channel(numbers: tuple[float, ...], images: Tensor) -> Tensor:
    return images.new_tensor(numbers).view(1, -1, 1, 1)


def _numbers(name: str, given: Sequence[float], what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in given)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{name} takes {what}, numbers, got {given!r}")
    return numbers
