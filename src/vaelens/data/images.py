"""A set of images of one size, held as bytes, with a name for each and a label where there is one."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import UsageError, unknown


def to_float(images: Tensor) -> Tensor:
    """Turn bytes into the values that the networks take.

    Args:
        images: uint8, any shape, values 0 to 255.

    Returns:
        float32 of the same shape, values in [0, 1]: 0 stays 0, 255 becomes 1.

    Raises:
        UsageError: another dtype, whose range would be a guess.
    """
    if images.dtype != torch.uint8:
        raise UsageError(f"to_float takes torch.uint8 images with values 0 to 255, not {images.dtype}")
    return images.to(torch.float32).div_(255.0)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size in a fixed order. Immutable; two sets are equal only if they are the same object.

    Attributes:
        images: uint8, (N, C, H, W), values 0 to 255.
        names: N unique names, for instance "mnist/test/00042" or a path.
        labels: int64, (N,), or None where the classes are not known.

    Raises:
        UsageError: a field of another type, shape, dtype or length, or a name that occurs twice.
    """

    images: Tensor
    names: tuple[str, ...]
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_names(self.names, len(self.images))
        if self.labels is not None:
            _check_labels(self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else f"labels {self.classes}"
        return f"ImageSet({len(self)} images, (C, H, W) = {self.image_shape}, {labels})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels that occur, ascending; empty without labels."""
        return () if self.labels is None else tuple(sorted(set(self.labels.tolist())))

    def subset(self, indices: Sequence[int] | Tensor) -> ImageSet:
        """The images at these positions, in this order.

        Args:
            indices: positions 0 to N - 1, each at most once, or a bool mask (N,).

        Raises:
            UsageError: a position outside the set or given twice, or a mask of another length.
        """
        chosen = self._positions(indices)
        names = tuple(self.names[i] for i in chosen.tolist())
        at = chosen.to(self.images.device)
        labels = None if self.labels is None else self.labels[chosen.to(self.labels.device)]
        return ImageSet(self.images[at], names, labels)

    def with_label(self, label: int) -> ImageSet:
        """The images of one class, in order.

        Raises:
            UsageError: the set has no labels, or none of this value (the message names those there are).
        """
        if self.labels is None:
            raise UsageError("these images have no labels to choose by")
        if label not in self.classes:
            raise unknown("label", label, self.classes)
        return self.subset(self.labels == label)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Go through the images in order.

        Args:
            batch_size: images per batch, at least 1; the last batch holds what is left.

        Returns:
            An iterator of float32 (B, C, H, W), values in [0, 1].

        Raises:
            UsageError: a batch size below 1. Raised by the call itself, not by the first step.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        return (to_float(self.images[at : at + batch_size]) for at in range(0, len(self), batch_size))

    def _positions(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The positions as int64 (K,) on the CPU."""
        if not isinstance(indices, Tensor):
            try:
                indices = torch.tensor([operator.index(i) for i in indices], dtype=torch.int64)
            except TypeError as error:
                raise UsageError(f"positions must be whole numbers: {error}") from None
        chosen = indices.detach().cpu()
        if chosen.dtype == torch.bool:
            if chosen.shape != (len(self),):
                raise UsageError(f"a mask must have shape ({len(self)},), not {tuple(chosen.shape)}")
            return chosen.nonzero().flatten()
        if chosen.ndim != 1 or chosen.is_floating_point() or chosen.is_complex():
            raise UsageError(f"positions must be whole numbers (K,), not {chosen.dtype} {tuple(chosen.shape)}")
        chosen = chosen.to(torch.int64)
        if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(self)):
            worst = int(chosen.min()) if int(chosen.min()) < 0 else int(chosen.max())
            raise UsageError(f"position {worst} is outside a set of {len(self)} images (0 to {len(self) - 1})")
        return chosen


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise UsageError(f"images must be a torch.uint8 tensor (N, C, H, W), not {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise UsageError(f"images must be torch.uint8 with values 0 to 255, not {images.dtype}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise UsageError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")


def _check_names(names: tuple[str, ...], count: int) -> None:
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise UsageError("names must be a tuple of str")
    if len(names) != count:
        raise UsageError(f"{count} images need {count} names, not {len(names)}")
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UsageError(f"names must be unique, {twice!r} occurs more than once")


def _check_labels(labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise UsageError(f"labels must be a torch.int64 tensor (N,), not {kind}")
    if labels.shape != (count,):
        raise UsageError(f"labels must have shape ({count},) like the images, not {tuple(labels.shape)}")
