"""Batches drawn at random from images that are too many to go through: for runs that are measured in steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vaelens.data.factors import Drawable
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.training.batches import Batch, Batches, Images, check_images, fingerprint, seeded
from vaelens.training.settings import STEPS_PER_EPOCH, TrainSettings


def batches_of(images: Images | Drawable, settings: TrainSettings) -> Batches | DrawnBatches:
    """The training batches of images: all of them once per epoch, or so many steps of drawn ones."""
    if not isinstance(images, Drawable):
        return Batches(images.images, settings.batch_size, seed=settings.seed)
    return DrawnBatches(images, settings.batch_size, settings.steps_per_epoch or STEPS_PER_EPOCH, settings.seed)


def check_trainable(images: Images | Drawable, settings: TrainSettings, shape: Sequence[int] | None) -> None:
    """Refuse what cannot be trained on.

    Args:
        images: to train on.
        settings: how.
        shape: (C, H, W) that the model takes; any where None.

    Raises:
        UsageError: images of another shape or type, or a number of steps for images of which an epoch takes each once.
    """
    if isinstance(images, Drawable):
        if len(images) == 0:
            raise UsageError("training takes at least one image, got none")
        if shape is not None and images.image_shape != tuple(shape):
            raise UsageError(f"the model takes images (C, H, W) of {tuple(shape)}, these are {images.image_shape}")
        return
    check_images(images.images, shape)
    if settings.steps_per_epoch is not None:
        raise UsageError("steps_per_epoch is for images that are drawn at random; here an epoch takes every image once")


def first_images(images: Images | Drawable) -> Tensor:
    """A batch of at most two to look at a model with, (B, C, H, W), float32 in [0, 1]."""
    return images.take(torch.arange(min(2, len(images)))) if isinstance(images, Drawable) else to_float(images.images[:2])


def digest_of(images: Images | Drawable) -> str:
    """A short text that differs for different images."""
    if isinstance(images, Drawable):
        some = torch.arange(0, len(images), max(1, len(images) // 1000))
        return f"{len(images)} drawn, {fingerprint(images.take(some))}"
    return fingerprint(images.images)


class DrawnBatches:
    """`steps` batches a pass, every image of them drawn anew; which depends on the seed and the pass alone.

    Args:
        images: what to draw from.
        batch_size: images per batch.
        steps: batches per pass.
        seed: of the draws.
    """

    def __init__(self, images: Drawable, batch_size: int, steps: int, seed: int) -> None:
        self._images = images
        self._batch_size = batch_size
        self._steps = steps
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Batches per pass."""
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Which pass (from 0) the next one is."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        generator = seeded(self._seed, "order", self._epoch)
        for _ in range(self._steps):
            indices = self._images.draw(self._batch_size, generator)
            yield Batch(self._images.take(indices), indices)

    def another(self, step: int) -> Tensor:
        """A batch (B, C, H, W) drawn independently of the one of that step."""
        return self._images.take(self._images.draw(self._batch_size, seeded(self._seed, "another", step)))
