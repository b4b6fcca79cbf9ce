"""What every localizer can do: learn from normal images alone, then say how abnormal an image is and where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vaelens.attention import PosteriorMaps
from vaelens.errors import UsageError


@dataclass(frozen=True)
class Localization:
    """How abnormal a batch of images is, and where.

    Attributes:
        maps: (B, H, W), at the images' size, values >= 0, higher is more abnormal. The unit is the localizer's own.
        score: (B,), one number per image, higher is more abnormal.
        posterior: mean and log variance (B, D) where the localizer encoded the images, so that nobody need do it again.
    """

    maps: Tensor
    score: Tensor
    posterior: tuple[Tensor, Tensor] | None = None


class Localizer(ABC):
    """One method of anomaly localization.

    Attributes:
        name: its name in the registry.
        explains: one line on what the map shows.
        progress: called with work done and work in all, where `fit` takes minutes.
    """

    name: ClassVar[str]
    explains: ClassVar[str]
    progress: Callable[[int, int], None] | None = None

    @abstractmethod
    def fit(self, normal: Tensor) -> Self:
        """Learn from normal images (N, C, H, W), uint8 or float in [0, 1]. Returns itself."""

    def state(self) -> dict[str, Tensor]:
        """What `fit` learned and would take long to learn again, for a run to keep; empty where fitting is quick."""
        return {}

    def restore(self, normal: Tensor, state: dict[str, Tensor]) -> Self:
        """Fitted as the one was that gave `state`. Returns itself.

        Args:
            normal: the normal images (N, C, H, W) of that fit.
            state: what `state()` gave.
        """
        return self.fit(normal)

    @abstractmethod
    def localize(self, images: Tensor) -> Localization:
        """Maps and scores of images (B, C, H, W), float in [0, 1].

        Raises:
            UsageError: called before `fit`.
        """

    def posterior(self, images: Tensor) -> PosteriorMaps:
        """The distribution of the map over the posterior of images (B, C, H, W), float in [0, 1], latent by latent and exact.

        It is at the feature map's size, before maps are enlarged.

        Raises:
            UsageError: called before `fit`, or of a localizer whose map has nothing in it that is drawn from the posterior.
        """
        raise UsageError(f"localizer '{self.name}' has no distribution over the posterior: nothing in its map is drawn from it")

    def anomaly_map(self, images: Tensor) -> Tensor:
        """The maps (B, H, W) of images (B, C, H, W), float in [0, 1]."""
        return self.localize(images).maps

    def not_fitted(self) -> UsageError:
        """The error of a localizer that has seen no normal images."""
        return UsageError(f"localizer '{self.name}' has not been fitted; call fit(normal_images) first")


class LearnsNothing(Localizer):
    """A localizer to which the trained network is enough."""

    def fit(self, normal: Tensor) -> Self:
        return self


def as_floats(images: Tensor) -> Tensor:
    """Images of whatever shape, uint8 or float in [0, 1], as floats."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_batches(images: Tensor, batch_size: int = 128) -> Iterator[Tensor]:
    """Images (N, C, H, W), uint8 or float in [0, 1], as float batches; so many bytes need not become floats at once."""
    return map(as_floats, torch.split(images, batch_size))


def mean_image(normal: Tensor) -> Tensor:
    """(C, H, W), the mean of images (N, C, H, W), in [0, 1]."""
    total = torch.zeros(normal.shape[1:], dtype=torch.float64, device=normal.device)
    for batch in as_batches(normal):
        total += batch.sum(0, dtype=torch.float64)
    return (total / len(normal)).float()
