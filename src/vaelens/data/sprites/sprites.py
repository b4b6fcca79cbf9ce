"""dSprites as a data set that is indexed by its factors: drawn in three seconds, or read from the official file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vaelens.data.sprites.geometry import FACTORS, SHAPES, SIDE, SIZES, as_integers, check_classes
from vaelens.data.sprites.packed import COUNT, ROW_BYTES, draw_all
from vaelens.errors import UsageError, brief, whole


class Sprites:
    """All 737,280 images of dSprites: every combination of shape, scale, orientation, posX and posY, posY fastest.

    Held as bits, 378 MB. A batch is a gather and a look into a table of 256 bytes, on whatever device the bits are: 64 images
    take well below a millisecond on two cores, and no worker processes.

    Args:
        packed: (737280, 512), uint8, each image's rows as `np.packbits` packs them; None: drawn here, which takes seconds.
    """

    factor_names: ClassVar[tuple[str, ...]] = FACTORS
    factor_sizes: ClassVar[tuple[int, ...]] = SIZES
    image_shape: ClassVar[tuple[int, int, int]] = (1, SIDE, SIDE)

    def __init__(self, packed: Tensor | None = None) -> None:
        self.packed = torch.from_numpy(draw_all()) if packed is None else packed
        if self.packed.shape != (COUNT, SIDE * ROW_BYTES) or self.packed.dtype != torch.uint8:
            raise UsageError(
                f"packed sprites are uint8 ({COUNT}, {SIDE * ROW_BYTES}), got {self.packed.dtype} {tuple(self.packed.shape)}"
            )
        self._pixels = _table(self.packed.device)

    def __len__(self) -> int:
        return COUNT

    def to(self, device: torch.device | str) -> Sprites:
        """The same on another device, so that batches are made there."""
        return Sprites(self.packed.to(device))

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """One image (1, 64, 64), float32, and its factors (5,), int64: for torch's DataLoader; `take` is the fast way."""
        at = range(COUNT)[number]
        return self.take(torch.tensor([at]))[0], torch.from_numpy(self.classes([at])[0])

    def take(self, indices: Tensor | ArrayLike) -> Tensor:
        """Images by their number.

        Args:
            indices: (B,), int64, 0 to 737,279.

        Returns:
            (B, 1, 64, 64), float32, 0 or 1, on the device of the bits.

        Raises:
            UsageError: no whole numbers, or one outside that range.
        """
        if not (isinstance(indices, Tensor) and indices.dtype == torch.int64 and indices.ndim == 1):
            self.classes(indices)  # says what is wrong
            indices = torch.from_numpy(as_integers(indices).astype(np.int64))
        try:
            rows = self.packed.index_select(0, indices.to(self.packed.device))
        except IndexError:
            self.classes(indices)  # likewise
            raise
        return self._pixels.index_select(0, rows.flatten().int()).view(-1, *self.image_shape)

    def classes(self, indices: Tensor | ArrayLike) -> NDArray[np.int64]:
        """Numbers (N,) of images -> their factors (N, 5), as whole numbers.

        Raises:
            UsageError: a number outside 0 to 737,279.
        """
        numbers = as_integers(indices)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise UsageError(f"numbers of sprites are whole numbers (N,), got {brief(indices)}")
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= COUNT):
            raise UsageError(f"sprites are numbered from 0 to {COUNT - 1}, got {numbers.min()} to {numbers.max()}")
        return np.stack(np.unravel_index(numbers, SIZES), axis=1)

    def numbers(self, latent_classes: Tensor | ArrayLike) -> Tensor:
        """Factors (N, 5) -> numbers (N,), int64, of the images that have them.

        Raises:
            UsageError: see `check_classes`.
        """
        return torch.from_numpy(np.ravel_multi_index(tuple(check_classes(latent_classes).T), SIZES))

    def factors(self) -> NDArray[np.int16]:
        """The factors of all images in order, (737280, 5), as whole numbers."""
        return np.stack(np.unravel_index(np.arange(COUNT), SIZES), axis=1).astype(np.int16)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers (count,) of images drawn at random, each independently of the others."""
        return torch.randint(COUNT, (whole("count", count),), generator=generator, device=generator.device)

    @property
    def names(self) -> Sequence[str]:
        """What a person calls each image, such as `heart, scale 5, orientation 0, posX 16, posY 16`."""
        return _Names()


class _Names(Sequence[str]):
    """Made when they are asked for."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return tuple(self[i] for i in range(*number.indices(COUNT)))
        return name_of([int(value) for value in np.unravel_index(range(COUNT)[number], SIZES)])


def name_of(classes: Sequence[int]) -> str:
    """What a person calls the sprite of five classes: `heart, scale 5, orientation 0, posX 16, posY 16`."""
    shape, *others = classes
    return ", ".join([SHAPES[shape], *(f"{name} {value}" for name, value in zip(FACTORS[1:], others, strict=True))])


def _table(device: torch.device) -> Tensor:
    """(256, 8), float32: the pixels that a byte stands for, the highest bit first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return torch.from_numpy(bits).to(device, torch.float32)
