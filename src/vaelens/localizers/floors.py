"""Floors: localizers that learn nothing but what normal images look like, or not even that.

A method that finds no more than these has not localized anything, however high its figures. Each map is a mean over channels of
absolute differences, smoothed (Gaussian, sigma 2 pixels); the score is the largest value of the map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.localizers.base import Localization, Localizer, as_batches, mean_image
from vaelens.localizers.smoothing import blurred, smoothed

SMOOTHING = 2.0  # sigma in pixels, of every floor's map
SURROUNDINGS = 4.0  # sigma in pixels of the blur that `floor-contrast` compares with
NEIGHBOURS = 5
_IMAGES = 32  # localized at a time
_NORMAL = 512  # normal images compared with at a time


class FloorLocalizer(Localizer):
    """What the floors have in common.

    Args:
        model: taken as every localizer takes it, and not used.
    """

    def __init__(self, model: nn.Module) -> None:
        self.shape: tuple[int, ...] | None = None

    def fit(self, normal: Tensor) -> Self:
        """Learn from normal images (N, C, H, W), uint8 or float in [0, 1]. Returns itself.

        Raises:
            UsageError: there are none.
        """
        if normal.ndim != 4 or not normal.numel():
            raise UsageError(f"localizer '{self.name}' needs normal images (N, C, H, W), got the shape {tuple(normal.shape)}")
        self.shape = tuple(normal.shape[1:])
        return self

    def localize(self, images: Tensor) -> Localization:
        if self.shape is None:
            raise self.not_fitted()
        if tuple(images.shape[1:]) != self.shape:
            raise UsageError(
                f"localizer '{self.name}' was fitted on images of the shape {self.shape}, got {tuple(images.shape[1:])}; "
                "bring both to one size"
            )
        with torch.no_grad():
            maps = [smoothed(self.difference(batch), SMOOTHING) for batch in torch.split(images, _IMAGES)]
        together = torch.cat(maps)
        return Localization(together, together.amax((1, 2)))

    @abstractmethod
    def difference(self, images: Tensor) -> Tensor:
        """The map (B, H, W) of images (B, C, H, W), not smoothed yet."""


class MeanFloor(FloorLocalizer):
    """Absolute difference from the mean normal image."""

    name: ClassVar[str] = "floor-mean"
    explains: ClassVar[str] = "difference from the mean normal image; learns nothing else"

    def fit(self, normal: Tensor) -> Self:
        super().fit(normal)
        self.mean = mean_image(normal)
        return self

    def difference(self, images: Tensor) -> Tensor:
        return (images - self.mean.to(images)).abs().mean(1)


class NeighboursFloor(FloorLocalizer):
    """Per pixel, the least of the absolute differences from the 5 nearest normal images, nearest in all pixels (Euclidean).

    Keeps the normal images it was fitted on, as they are; 8,192 of 100x100 uint8 pixels are 82 MB.
    """

    name: ClassVar[str] = "floor-neighbours"
    explains: ClassVar[str] = "least difference from the 5 nearest normal images; learns nothing else"

    def fit(self, normal: Tensor) -> Self:
        super().fit(normal)
        self.normal = normal
        self.mean = mean_image(normal)
        self.squares = torch.cat([part.square().sum(1) for part in self._centred(normal)])
        return self

    def difference(self, images: Tensor) -> Tensor:
        queries = (images - self.mean.to(images)).flatten(1)
        # The squared distance but for the image's own square, which ranks nothing. About the mean, so that little cancels.
        products = [queries @ part.to(queries).T for part in self._centred(self.normal)]
        distances = self.squares.to(queries) - 2 * torch.cat(products, 1)
        nearest = distances.topk(min(NEIGHBOURS, len(self.normal)), largest=False).indices.to(self.normal.device)
        least = torch.full_like(images[:, 0], torch.inf)
        for column in nearest.T:
            neighbours = next(as_batches(self.normal[column], len(column)))
            least = torch.minimum(least, (images - neighbours.to(images)).abs().mean(1))
        return least

    def _centred(self, normal: Tensor) -> Iterator[Tensor]:
        """(n, C * H * W) float, so many normal images at a time, less their mean."""
        for batch in as_batches(normal, _NORMAL):
            yield (batch - self.mean.to(batch)).flatten(1)


class ContrastFloor(FloorLocalizer):
    """Absolute difference from a local blur of the image itself (Gaussian, sigma 4 pixels)."""

    name: ClassVar[str] = "floor-contrast"
    explains: ClassVar[str] = "difference from a local blur of the image itself; learns nothing"

    def difference(self, images: Tensor) -> Tensor:
        return (images - blurred(images, SURROUNDINGS)).abs().mean(1)


class MotionFloor(FloorLocalizer):
    """Absolute difference from the frame before, for images that have an odd number of neighbouring frames as channels.

    The middle channel is the frame itself.
    """

    name: ClassVar[str] = "floor-motion"
    explains: ClassVar[str] = "difference from the frame before; learns nothing"

    def fit(self, normal: Tensor) -> Self:
        """Learn nothing from normal images (N, C, H, W). Returns itself.

        Raises:
            UsageError: the images are no neighbouring frames.
        """
        super().fit(normal)
        if normal.shape[1] < 3 or normal.shape[1] % 2 == 0:
            self.shape = None
            raise UsageError(
                f"localizer '{self.name}' needs video with neighbouring frames as channels (--frames 3), "
                f"got images of {normal.shape[1]} channel{'s' * (normal.shape[1] > 1)}"
            )
        return self

    def difference(self, images: Tensor) -> Tensor:
        frame = images.shape[1] // 2
        return (images[:, frame] - images[:, frame - 1]).abs()
