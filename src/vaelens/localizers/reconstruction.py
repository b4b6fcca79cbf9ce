"""The difference between an image and its reconstruction: the paper's Vanilla-VAE, and what other residuals share with it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaelens.localizers.base import LearnsNothing, Localization


class ResidualLocalizer(LearnsNothing):
    """The residual between an image and its reconstruction.

    Args:
        model: a trained network with encode(images) -> (mean or code, ...) and decode of it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def localize(self, images: Tensor) -> Localization:
        with torch.no_grad():
            code, _ = self.model.encode(images)  # type: ignore[operator]
            maps = self.residual(images, self.model.decode(code))  # type: ignore[operator]
        return Localization(maps, self.score(maps))

    @abstractmethod
    def residual(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Images and reconstructions (B, C, H, W) -> maps (B, H, W)."""

    @abstractmethod
    def score(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) -> scores (B,)."""


class ReconstructionLocalizer(ResidualLocalizer):
    """Squared difference of each pixel from the reconstruction of the posterior mean. Learns nothing more.

    The map is the mean over channels, values in [0, 1]; the score is its mean over pixels.
    """

    name: ClassVar[str] = "reconstruction"
    explains: ClassVar[str] = "squared difference from the reconstruction"

    def residual(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Images and reconstructions (B, C, H, W) -> maps (B, H, W)."""
        return (images - reconstruction).square().mean(1)

    def score(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) -> their means (B,)."""
        return maps.mean((1, 2))
