"""What a step of training minimises, in parts, and their means over an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """A loss and what it is made of.

    Attributes:
        loss: scalar, nats per image.
        reconstruction: (B,), nats per image, or in the objective's own unit.
        kl: (B, D), nats per image and latent; (B, 0) without a posterior.
        others: scalars by name, such as the overlap of attention maps; means over the batch.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    others: Mapping[str, Tensor]


class EpochMeans:
    """Means over the images of an epoch, whatever the sizes of its batches."""

    def __init__(self) -> None:
        self._images = 0
        self._loss: Any = 0.0
        self._reconstruction: Any = 0.0
        self._kl: Any = 0.0
        self._others: dict[str, Any] = {}

    def add(self, terms: Terms) -> None:
        """Add a batch; stays on the device, so that nothing waits for it."""
        wide = torch.float32 if terms.loss.device.type == "mps" else torch.float64  # MPS has no float64
        size = len(terms.reconstruction)
        self._images += size
        self._loss = self._loss + terms.loss.detach().to(wide) * size
        self._reconstruction = self._reconstruction + terms.reconstruction.detach().sum(dtype=wide)
        self._kl = self._kl + terms.kl.detach().sum(0, dtype=wide)
        for name, value in terms.others.items():
            self._others[name] = self._others.get(name, 0.0) + value.detach().to(wide) * size

    def kl(self) -> Tensor:
        """(D,), nats per latent, on the CPU."""
        kl: Tensor = self._kl / self._images
        return kl.cpu()

    def row(self, prefix: str) -> dict[str, float]:
        """Loss, reconstruction and KL divergence in nats per image, and what else there was, under `prefix/`."""
        return {
            f"{prefix}/loss": float(self._loss) / self._images,
            f"{prefix}/reconstruction": float(self._reconstruction) / self._images,
            f"{prefix}/kl": float(self.kl().sum()),
            **{f"{prefix}/{name}": float(value) / self._images for name, value in self._others.items()},
        }
