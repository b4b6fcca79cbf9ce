"""The difference between an image and its reconstruction: the paper's Vanilla-VAE."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.localizers.base import Localization, Localizer


class ReconstructionLocalizer(Localizer):
    """Squared difference of each pixel from the reconstruction of the posterior mean. Learns nothing more.

    The map is the mean over channels, values in [0, 1]; the score is its mean over pixels.
    """

    name: ClassVar[str] = "reconstruction"
    explains: ClassVar[str] = "squared difference from the reconstruction"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def fit(self, normal: Tensor) -> Self:
        return self

    def localize(self, images: Tensor) -> Localization:
        with torch.no_grad():
            mean, _ = self.model.encode(images)  # type: ignore[operator]
            difference = (images - self.model.decode(mean)).square().mean(1)  # type: ignore[operator]
        return Localization(difference, difference.mean((1, 2)))
