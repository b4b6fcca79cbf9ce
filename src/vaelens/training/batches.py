"""Batches from images in memory, in an order that depends on the seed and the epoch alone.

A run that resumes at an epoch therefore sees the very batches that an uninterrupted one sees there. One process, no
workers: converting a batch takes far less than training on it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vaelens.data.images import to_float
from vaelens.errors import UsageError

_DIGEST_BYTES = 64 * 2**20


class Images(Protocol):
    """What training needs of a set of images.

    Attributes:
        images: (N, C, H, W), uint8.
        names: N names that a person recognises, such as file names.
    """

    @property
    def images(self) -> Tensor: ...

    @property
    def names(self) -> tuple[str, ...]: ...


class Batch(NamedTuple):
    """Images (B, C, H, W), float32 in [0, 1], and their indices (B,) in the set they came from."""

    images: Tensor
    indices: Tensor


class Batches:
    """All images once per pass, `batch_size` at a time; the last batch holds what remains.

    Args:
        images: (N, C, H, W), uint8, N at least 1.
        batch_size: images per batch.
        seed: shuffles, anew in every epoch; None keeps the order.

    Raises:
        UsageError: the images are not of that type or shape, there are none, or `batch_size` is below 1.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int | None = None) -> None:
        check_images(images)
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Batches per pass."""
        return -(-len(self._images) // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch (from 0) the next pass belongs to."""
        self._epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """Indices (N,) in the order of that epoch."""
        if self._seed is None:
            return torch.arange(len(self._images), device="cpu")
        return torch.randperm(len(self._images), generator=seeded(self._seed, "order", epoch), device="cpu")

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that the order is drawn with the first batch: an iterator may be made before `set_epoch`.
        for indices in torch.split(self.order(self._epoch), self._batch_size):
            yield Batch(to_float(self._images[indices]), indices)

    def another(self, step: int) -> Tensor:
        """A batch (B, C, H, W), float32 in [0, 1], drawn independently of the one of that step."""
        generator = seeded(0 if self._seed is None else self._seed, "another", step)
        indices = torch.randint(len(self._images), (self._batch_size,), generator=generator, device="cpu")
        return to_float(self._images[indices])


def check_images(images: object, shape: Sequence[int] | None = None) -> None:
    """Refuse what cannot be trained on.

    Args:
        images: should be (N, C, H, W), uint8, N at least 1.
        shape: (C, H, W) that the model takes; any where None.

    Raises:
        UsageError: they are not.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        got = f"{tuple(images.shape)}, {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"training takes images as a uint8 tensor (N, C, H, W), got {got}")
    if len(images) == 0:
        raise UsageError("training takes at least one image, got none")
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise UsageError(
            f"the model takes images (C, H, W) of {tuple(shape)}, these are {tuple(images.shape[1:])}: resize them"
        )


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed for one purpose at one step or epoch. Runs of neighbouring seeds share none, as `seed + number` would."""
    digest = hashlib.blake2b(f"{purpose}/{seed}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def seeded(seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator on the CPU, seeded by `derived_seed`."""
    return torch.Generator("cpu").manual_seed(derived_seed(seed, purpose, number))


def fingerprint(images: Tensor) -> str:
    """A short text that differs for different images: shape and checksum; of every k-th image alone beyond 64 MiB."""
    stride = max(1, -(-images.nbytes // _DIGEST_BYTES))
    checksum = zlib.crc32(images[::stride].contiguous().cpu().numpy().tobytes())
    return f"{'x'.join(map(str, images.shape))}-{checksum:08x}"
