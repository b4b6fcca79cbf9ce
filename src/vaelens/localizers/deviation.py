"""Deviation attention: what in the image moves the latents away from where its normal neighbours have them."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention, LatentMaps
from vaelens.attention.maps import resize
from vaelens.errors import whole
from vaelens.localizers.base import Localization, Localizer, as_batches

_MEASURED = 512  # normal images that the usual level of each latent's deviation is measured on


class DeviationLocalizer(Localizer):
    """Each latent's weighted feature map less that of the nearest normal images, in units of what normal images show.

    Latents differ in scale by orders of magnitude, so each latent's deviation is divided by its level: the root mean square
    over pixels that normal images usually have, each compared with its own neighbours, itself left out. The map is the mean
    over latents; the score is the geometric mean over latents of the root mean square over pixels. 1 is usual for a normal
    image.

    Args:
        model: the trained network.
        layer: whose feature map; None for the last.
        neighbours: how many normal images the reference is the mean of; None for all of them (a fixed camera).
        ridge: the mean is weighted so that the neighbours' codes meet the image's; None for equal weights.
    """

    name: ClassVar[str] = "deviation"
    explains: ClassVar[str] = "attention of each latent's deviation from the nearest normal images"

    def __init__(
        self, model: nn.Module, layer: str | None = None, neighbours: int | None = 20, ridge: float | None = 0.3
    ) -> None:
        self.attention = LatentAttention(model, layer)
        self.neighbours = None if neighbours is None else whole("neighbours", neighbours)
        self.ridge = ridge
        self.fitted: Deviation | None = None
        self.level: Tensor | None = None

    def fit(self, normal: Tensor) -> Self:
        neighbours = None if self.neighbours is None else min(self.neighbours, len(normal))
        self.fitted = Deviation.fit(self.attention, normal, neighbours, ridge=self.ridge)
        step = max(1, len(normal) // _MEASURED)
        with torch.no_grad():
            levels = [_rms(self._maps(batch, own=True).signed) for batch in as_batches(normal[::step])]
        self.level = _geometric_mean(torch.cat(levels), dim=0)
        return self

    def localize(self, images: Tensor) -> Localization:
        if self.level is None:
            raise self.not_fitted()
        with torch.no_grad():
            found = self._maps(images)
            deviation = found.signed / self.level[:, None, None]
            maps = resize(deviation.abs().mean(1), (images.shape[2], images.shape[3]))
        return Localization(maps, _geometric_mean(_rms(deviation), dim=1), (found.mean, found.logvar))

    def _maps(self, images: Tensor, own: bool = False) -> LatentMaps:
        """(B, D, h, w); `own` where the images are among the normal ones that this was fitted on."""
        assert self.fitted is not None
        return self.fitted.maps(self.attention, images, leave_out_self=own)


def _geometric_mean(values: Tensor, dim: int) -> Tensor:
    return values.clamp_min(1e-12).log().mean(dim).exp()


def _rms(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, D), root mean square over pixels."""
    return maps.square().mean((2, 3)).sqrt()
