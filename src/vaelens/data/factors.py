"""What a data set with known factors of variation offers: images by number, and the factors that each was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@runtime_checkable
class Drawable(Protocol):
    """Images that are made as they are drawn.

    Attributes:
        image_shape: (C, H, W) of each.
        names: a name for each that a person recognises.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers (count,) of images, each drawn independently of the others."""
        ...

    def take(self, indices: Tensor) -> Tensor:
        """Images by their numbers (B,): (B, C, H, W), float32 in [0, 1]."""
        ...


class FactorImages(Drawable, Protocol):
    """Images of every combination of some factors.

    Attributes:
        factor_names: F names.
        factor_sizes: F numbers of values.
    """

    @property
    def factor_names(self) -> tuple[str, ...]: ...

    @property
    def factor_sizes(self) -> tuple[int, ...]: ...

    def factors(self) -> NDArray[np.int16]:
        """The factors of all images in order, (N, F), as whole numbers."""
        ...

    def numbers(self, latent_classes: Tensor | ArrayLike) -> Tensor:
        """Factors (M, F) -> numbers (M,) of the images that have them."""
        ...


@dataclass(frozen=True, eq=False)
class FactorSplit:
    """A data set with known factors: all of it is trained on, and all of it is evaluated on.

    Attributes:
        dataset: its name.
        train: its images.
    """

    dataset: str
    train: FactorImages

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.image_shape

    @property
    def counts(self) -> dict[str, int]:
        """Number of images."""
        return {"train": len(self.train)}
