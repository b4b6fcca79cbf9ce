"""Where an image differs from its reconstruction by an autoencoder, as Bergmann et al. 2018 measure it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vaelens.errors import whole
from vaelens.localizers.reconstruction import ReconstructionLocalizer, ResidualLocalizer
from vaelens.objectives.ssim import WINDOW, ssim_residual


class AEL2Localizer(ReconstructionLocalizer):
    """Squared difference of each pixel, mean over channels, values in [0, 1].

    The score is the map's maximum: an image is flagged where any of its pixels is. The paper localizes, and names no score of
    whole images.
    """

    name: ClassVar[str] = "ae-l2"
    explains: ClassVar[str] = "squared difference from the autoencoder's reconstruction (Bergmann et al. 2018)"

    def score(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) -> their maxima (B,)."""
        return maps.amax((1, 2))


class AESSIMLocalizer(ResidualLocalizer):
    """Lack of structural similarity around each pixel, (1 - SSIM) / 2, mean over channels, values in [0, 1].

    The score is the map's maximum, as with `AEL2Localizer`.

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
        # In float32 rounding is 1e-4 of it where an image is bright and flat.
        wide = torch.float32 if images.device.type == "mps" else torch.float64
        return ssim_residual(images.to(wide), reconstruction.to(wide), self.window).float()

    def score(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) -> their maxima (B,)."""
        return maps.amax((1, 2))
