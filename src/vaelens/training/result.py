"""What a training run came to, also when it was stopped."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from vaelens.errors import VaelensError
from vaelens.objectives import ACTIVE_NATS
from vaelens.training.interrupt import called
from vaelens.training.logs import Row
from vaelens.training.settings import TrainSettings


@dataclass(frozen=True)
class FitResult:
    """What a training run came to; losses in nats per image.

    Attributes:
        history: one row per epoch, also of those before a resumption: epoch; train/loss, train/reconstruction,
            train/kl; with held-out images val/loss, val/reconstruction, val/kl; active_latents, kl_weight, seconds.
        mean_kl: D values, nats: each latent's KL divergence, in the mean over the held-out images, at the last epoch. Empty
            where the model has no posterior; its rows then lack the KL divergence, the active latents and the KL weight.
        interrupted: stopped by a signal before its time.
        stopped_early: ended because the held-out loss had stopped falling.
        checkpoint: the checkpoint, None where none was written yet.
    """

    history: tuple[Row, ...]
    mean_kl: tuple[float, ...]
    interrupted: bool = False
    stopped_early: bool = False
    checkpoint: Path | None = None

    @property
    def active(self) -> tuple[bool, ...]:
        """D values: whether each latent is active, its mean KL divergence above 0.05 nats."""
        return tuple(kl > ACTIVE_NATS for kl in self.mean_kl)

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Time that the epochs took, in all parts of the run together."""
        return sum(row["seconds"] for row in self.history)

    @property
    def last_loss(self) -> float:
        """Held-out loss of the last epoch, or the training loss where there were no held-out images."""
        return self._losses()[-1]

    @property
    def best_loss(self) -> float:
        """The lowest such loss of all epochs. The weights are the last epoch's, not this one's."""
        return min(self._losses())

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, of `best_loss`."""
        return self._losses().index(self.best_loss) + 1

    def _losses(self) -> list[float]:
        return [row.get("val/loss", row["train/loss"]) for row in self.history]


class TrainingInterrupted(VaelensError):
    """Training stopped by Ctrl-C or a termination signal, between two batches; it can be resumed.

    Attributes:
        result: what there is so far.
        exit_code: 128 plus the signal's number, as shells have it: 130 for Ctrl-C, 143 for a termination.
    """

    def __init__(self, message: str, result: FitResult, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = 128 + signal_number


def interrupted(result: FitResult, saved: int, settings: TrainSettings, signal_number: int) -> TrainingInterrupted:
    """The error for a run that a signal stopped; `saved` is the number of epochs in its checkpoint."""
    mend = (
        f"{result.checkpoint} holds the first {saved} of {settings.epochs} epochs: resume to go on from there"
        if saved
        else "there is no checkpoint yet: resuming begins with the first epoch"
    )
    return TrainingInterrupted(
        f"training was stopped by {called(signal_number)} in epoch {min(result.epochs + 1, settings.epochs)}; {mend}",
        result,
        signal_number,
    )
