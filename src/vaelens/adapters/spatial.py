"""A posterior that has places, (B, C, h, w), as a posterior of single latents (B, D)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vaelens.errors import UsageError, whole


@dataclass(frozen=True)
class Spatial:
    """Which numbers of a spatial posterior are the latents; the fields are the arguments of `adapt`."""

    pooled: bool = False
    channel: int | None = None
    position: tuple[int, int] | None = None
    flatten: bool = False

    @classmethod
    def asked(cls, pooled: bool, channel: int | None, position: Sequence[int] | None, flatten: bool) -> Spatial:
        """From the arguments of `adapt`.

        Raises:
            UsageError: they contradict one another, or are no numbers.
        """
        if position is not None:
            if not isinstance(position, tuple | list) or len(position) != 2:
                raise UsageError(f"position is (row, column) of the posterior, got {position!r}")
            position = (whole("row", position[0], least=0), whole("column", position[1], least=0))
        if channel is not None:
            channel = whole("channel", channel, least=0)
        if flatten and (pooled or channel is not None or position is not None):
            raise UsageError("flatten makes a latent of every number; leave out pooled, channel and position")
        if pooled and position is not None:
            raise UsageError("pooled is the mean over all positions; leave out position, or pooled")
        return cls(bool(pooled), channel, position, bool(flatten))

    def __call__(self, name: str, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, D, ...) -> (B, D); a single place, (B, D, 1, 1), needs no choice.

        Raises:
            UsageError: a spatial posterior and no choice, or the other way round; a channel or position that is not there.
        """
        chosen = self != Spatial()
        if mean.ndim <= 2 or mean[0, 0].numel() == 1:
            if chosen:
                raise UsageError(
                    f"{name} gives a posterior {_shape(mean)} without places; leave out pooled, channel, position and flatten"
                )
            return mean.flatten(1), logvar.flatten(1)
        if self.flatten:
            return mean.flatten(1), logvar.flatten(1)
        if not chosen or mean.ndim != 4:
            choices = "pooled=True, channel=..., position=(row, column) or flatten=True" if mean.ndim == 4 else "flatten=True"
            raise UsageError(f"{name} gives a posterior with places, {_shape(mean)}; say what a latent is: {choices}")
        channels, height, width = mean.shape[1:]
        if self.channel is not None:
            if self.channel >= channels:
                raise UsageError(f"channel {self.channel} does not exist; the posterior has {channels}: 0 to {channels - 1}")
            mean, logvar = (t[:, self.channel : self.channel + 1] for t in (mean, logvar))
        if self.position is not None:
            row, column = self.position
            if row >= height or column >= width:
                raise UsageError(
                    f"position {self.position} does not exist; the posterior has {height} x {width}, from (0, 0) on"
                )
            return mean[:, :, row, column], logvar[:, :, row, column]
        if self.pooled:
            # The mean of independent Gaussians: their variances' sum over the square of their number.
            return mean.mean((2, 3)), logvar.flatten(2).logsumexp(2) - 2 * math.log(height * width)
        return mean.flatten(1), logvar.flatten(1)


def _shape(tensor: Tensor) -> str:
    return f"(B, {', '.join(map(str, tensor.shape[1:]))})"
