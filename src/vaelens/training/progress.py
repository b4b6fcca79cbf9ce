"""How far training is, on stderr: one line that changes in place on a terminal, else a line every few epochs."""

from __future__ import annotations

import sys
from typing import Any

from vaelens.training.logs import Row

_LINES = 10


class TrainingProgress:
    """Shows epoch, loss, active latents and the time left.

    Args:
        epochs: epochs of the whole run.
        batches: training batches per epoch.
        enabled: False shows nothing at all.
    """

    def __init__(self, epochs: int, batches: int, enabled: bool = True) -> None:
        self._epochs = epochs
        self._batches = batches
        self._enabled = enabled
        self._bar: Any = None
        self._task: Any = None

    def start(self, epochs_done: int) -> None:
        """Begin after `epochs_done` epochs."""
        if not self._enabled or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            "train",
            total=self._epochs * self._batches,
            completed=epochs_done * self._batches,
            epoch=min(epochs_done + 1, self._epochs),
            epochs=self._epochs,
            figures="",
        )
        self._bar.start()

    def batch_done(self) -> None:
        """Move on by one training batch."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def epoch_done(self, row: Row, latents: int) -> None:
        """Show the figures of an epoch."""
        epoch = int(row["epoch"])
        figures = _figures(row, latents)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=epoch * self._batches,
                epoch=min(epoch + 1, self._epochs),
                figures=figures,
            )
        elif self._enabled and (epoch == self._epochs or epoch % max(1, self._epochs // _LINES) == 0):
            seconds = f"{row['seconds']:.1f} s per epoch"
            print(f"epoch {epoch}/{self._epochs}: {figures}, {seconds}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._enabled:
            print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _figures(row: Row, latents: int) -> str:
    digits = ".2f" if abs(row["train/loss"]) >= 10 else ".4f"  # nats per image are hundreds, structural similarity is below 1
    held_out = f", held-out {row['val/loss']:{digits}}" if "val/loss" in row else ""
    active = f", {int(row['active_latents'])} of {latents} latents active" if latents else ""
    return f"loss {row['train/loss']:{digits}}{held_out}{active}"
