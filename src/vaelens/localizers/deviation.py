"""Deviation attention: what in the image moves the latents away from where its normal neighbours have them."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention
from vaelens.localizers.base import Localization, Localizer


class DeviationLocalizer(Localizer):
    """Each latent's weighted feature map less that of the nearest normal images; the mean over latents is the map.

    Args:
        model: the trained network.
        layer: whose feature map; None for the last.
        neighbours: how many normal images the reference is the mean of; None for all of them (a fixed camera).
    """

    name: ClassVar[str] = "deviation"
    explains: ClassVar[str] = "attention of each latent's deviation from the nearest normal images"

    def __init__(self, model: nn.Module, layer: str | None = None, neighbours: int | None = 5) -> None:
        self.attention = LatentAttention(model, layer)
        self.neighbours = neighbours
        self.fitted: Deviation | None = None

    def fit(self, normal: Tensor) -> Self:
        neighbours = None if self.neighbours is None else min(self.neighbours, len(normal))
        self.fitted = Deviation.fit(self.attention, normal, neighbours)
        return self

    def localize(self, images: Tensor) -> Localization:
        if self.fitted is None:
            raise self.not_fitted()
        with torch.no_grad():
            deviation = self.fitted.maps(self.attention, images)
            maps = deviation.overall()
            at_image = deviation.resize((images.shape[2], images.shape[3])).overall()
        return Localization(at_image, maps.mean((1, 2)))
