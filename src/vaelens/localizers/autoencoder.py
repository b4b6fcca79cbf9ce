"""Where an image differs from its reconstruction by an autoencoder, as Bergmann et al. 2018 measure it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.errors import whole
from vaelens.localizers.base import Localization, Localizer
from vaelens.objectives.ssim import WINDOW, ssim_residual


class ResidualLocalizer(Localizer):
    """The residual between image and reconstruction. Learns nothing more than the network did.

    The score is the map's maximum: an image is flagged where any of its pixels is. The paper localizes, and names no score of
    whole images.

    Args:
        model: a trained network with encode(images) -> (code, ...) and decode(code); the paper's is "ae".
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def fit(self, normal: Tensor) -> Self:
        return self

    def localize(self, images: Tensor) -> Localization:
        with torch.no_grad():
            code, _ = self.model.encode(images)  # type: ignore[operator]
            maps = self.residual(images, self.model.decode(code))  # type: ignore[operator]
        return Localization(maps, maps.amax((1, 2)))

    @abstractmethod
    def residual(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Images and reconstructions (B, C, H, W) -> maps (B, H, W)."""


class AEL2Localizer(ResidualLocalizer):
    """Squared difference of each pixel, mean over channels, values in [0, 1]."""

    name: ClassVar[str] = "ae-l2"
    explains: ClassVar[str] = "squared difference from the autoencoder's reconstruction (Bergmann et al. 2018)"

    def residual(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Images and reconstructions (B, C, H, W) -> maps (B, H, W)."""
        return (images - reconstruction).square().mean(1)


class AESSIMLocalizer(ResidualLocalizer):
    """Lack of structural similarity around each pixel, (1 - SSIM) / 2, mean over channels, values in [0, 1].

    Args:
        model: a trained network, best with objective "ae-ssim".
        window: side of the window in pixels, odd; the paper's 11.
    """

    name: ClassVar[str] = "ae-ssim"
    explains: ClassVar[str] = "structural dissimilarity from the autoencoder's reconstruction (Bergmann et al. 2018)"

    def __init__(self, model: nn.Module, window: int = WINDOW) -> None:
        super().__init__(model)
        self.window = whole("window", window)

    def residual(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Images and reconstructions (B, C, H, W) -> maps (B, H, W)."""
        return ssim_residual(images, reconstruction, self.window)
