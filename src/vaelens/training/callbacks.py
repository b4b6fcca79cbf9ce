"""What happens between batches and at an epoch's end. Imports Lightning; `fit` imports this when it is called."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import CheckpointIO

from vaelens.training.checkpoint import KEY, RunState, write_checkpoint
from vaelens.training.collapse import CollapseWatch
from vaelens.training.logs import EpochLogs
from vaelens.training.module import VAEModule
from vaelens.training.progress import TrainingProgress


class EpochKeeper(Checkpoint):  # type: ignore[misc]
    """At each epoch's end: the row, the logs, the collapse warning, the checkpoint, the progress line, in this order.

    A `Checkpoint` in Lightning's sense, because those are called last: early stopping has decided by then, and its
    state goes into the checkpoint.

    Args:
        path: the checkpoint.
        state: what goes into it beside the weights; gets the rows.
        stop: called after each batch; raises if the run is to stop.
    """

    def __init__(
        self,
        path: Path,
        state: RunState,
        logs: EpochLogs,
        collapse: CollapseWatch,
        progress: TrainingProgress,
        stop: Callable[[], None],
    ) -> None:
        self._path = path
        self._state = state
        self._logs = logs
        self._collapse = collapse
        self._progress = progress
        self._stop = stop
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: VAEModule) -> None:
        """Starts the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Moves the progress line, and stops if that was asked for."""
        self._progress.batch_done()
        self._stop()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stops if that was asked for."""
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: VAEModule) -> None:
        """Records the epoch."""
        state, settings = self._state, pl_module.settings
        epoch = pl_module.current_epoch + 1
        row = {"epoch": epoch, **pl_module.epoch_row(), "seconds": round(time.perf_counter() - self._started, 3)}
        state.history.append(row)
        state.mean_kl = pl_module.mean_kl().tolist()
        state.stopped_early = bool(trainer.should_stop)
        latents = len(state.mean_kl)
        if latents:  # a model without a posterior has none that could collapse
            self._collapse.check(epoch, int(row["active_latents"]), latents)
        state.collapse_warned = self._collapse.lowest
        self._logs.write(state.history)
        if epoch % settings.checkpoint_every == 0 or epoch == settings.epochs or state.stopped_early:
            state.epochs_saved = epoch
            trainer.save_checkpoint(self._path)
        self._progress.epoch_done(row, latents)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: VAEModule, checkpoint: dict[str, Any]) -> None:
        """Puts the state into the checkpoint."""
        checkpoint[KEY] = self._state.to_dict()


class StopEarly(EarlyStopping):  # type: ignore[misc]
    """Lightning's early stopping on the held-out loss, from the end of the KL warm-up on.

    Before it the weights of the objective still move, and the held-out loss, which has the full KL weight, may rise.
    """

    def __init__(self, patience: int, warmup_epochs: float) -> None:
        super().__init__("val/loss", patience=patience, check_finite=False, check_on_train_epoch_end=True)
        self._warmup_epochs = warmup_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: VAEModule) -> None:
        """Decides whether to stop."""
        if trainer.current_epoch + 1 >= self._warmup_epochs:
            super().on_train_epoch_end(trainer, pl_module)


class WholeFileIO(CheckpointIO):  # type: ignore[misc]
    """Lightning's access to checkpoints, with whole files and no unpickling.

    Args:
        loaded: the content of the checkpoint to resume from, read and checked already.
    """

    def __init__(self, loaded: dict[str, Any] | None) -> None:
        self._loaded = loaded

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it, see `write_checkpoint`."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Hand over what was read, once, so that the memory is free afterwards."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            raise RuntimeError("no checkpoint was read to resume from")
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)
