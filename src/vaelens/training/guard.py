"""Stops training at the first loss or gradient that is no finite number, and says which images were in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaelens.errors import TrainingError
from vaelens.training.settings import TrainSettings

_NAMED = 3


class _Seen(NamedTuple):
    value: Tensor
    what: str
    epoch: int
    batch: int
    indices: Tensor


class FiniteGuard:
    """Looks at the loss and the gradient norm of every batch.

    Args:
        names: the names of all images of the set, for the message.
        settings: the settings in use, for the message.
        every: numbers to collect before looking at them. 1 on the CPU; more elsewhere, where looking waits.
    """

    def __init__(self, names: Sequence[str], settings: TrainSettings, every: int = 1) -> None:
        self._names = names
        self._settings = settings
        self._every = every
        self._seen: list[_Seen] = []

    def check(self, value: Tensor, what: str, epoch: int, batch: int, indices: Tensor) -> None:
        """Note a number, and look at all that were noted once there are `every`.

        Args:
            value: scalar.
            what: what it is, for the message: "loss".
            epoch: from 0.
            batch: from 0, in that epoch.
            indices: (B,), which images the batch held.

        Raises:
            TrainingError: one of them is no finite number; the message names the first such batch.
        """
        self._seen.append(_Seen(value.detach(), what, epoch, batch, indices))
        if len(self._seen) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Look at all that were noted.

        Raises:
            TrainingError: one of them is no finite number; the message names the first such batch.
        """
        if not self._seen:
            return
        seen, self._seen = self._seen, []
        finite = torch.stack([each.value for each in seen]).isfinite().tolist()
        if not all(finite):
            raise TrainingError(self._message(seen[finite.index(False)]))

    def _message(self, seen: _Seen) -> str:
        indices = seen.indices.tolist()
        images = ", ".join(self._names[i] if i < len(self._names) else f"image {i}" for i in indices[:_NAMED])
        if len(indices) > _NAMED:
            images += f" and {len(indices) - _NAMED} more"
        precision = "" if self._settings.precision == "32" else "set precision to 32, "
        return (
            f"the {seen.what} is {seen.value.item():g} at epoch {seen.epoch + 1}, batch {seen.batch + 1} ({images}): "
            f"lower learning_rate (now {self._settings.learning_rate:g}), {precision}or check those images; "
            + ("a checkpoint saved before it is kept" if seen.epoch else "no epoch was done")
        )
