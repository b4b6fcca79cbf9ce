"""Train a VAE: `fit(model, train, held_out, settings, out)`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vaelens.data.factors import Drawable
from vaelens.errors import UsageError
from vaelens.training.batches import Images, check_images
from vaelens.training.checkpoint import RunState, check_resumable, read_checkpoint
from vaelens.training.collapse import CollapseWatch
from vaelens.training.device import pick_accelerator, pick_precision
from vaelens.training.drawn import check_trainable, digest_of
from vaelens.training.interrupt import StopRequests
from vaelens.training.logs import EpochLogs
from vaelens.training.process import plain_warnings, quiet, unchanged_globals
from vaelens.training.progress import TrainingProgress
from vaelens.training.result import FitResult, TrainingInterrupted, interrupted
from vaelens.training.settings import TrainSettings

if TYPE_CHECKING:
    from vaelens.training.callbacks import EpochKeeper, WholeFileIO
    from vaelens.training.module import VAEModule

__all__ = ["CHECKPOINT", "FitResult", "TrainingInterrupted", "fit"]

CHECKPOINT = Path("checkpoints") / "last.ckpt"
"""Where in the output folder the checkpoint lies."""


def fit(
    model: nn.Module,
    train: Images | Drawable,
    held_out: Images | None,
    settings: TrainSettings,
    out: Path,
    resume: bool = False,
    progress: bool = True,
    module: Callable[[nn.Module, TrainSettings, Images | Drawable, Images | None], VAEModule] | None = None,
) -> FitResult:
    """Train `model` in place, with a checkpoint after each epoch (or every few, see the settings).

    On one machine with one number of threads a run is a function of the model's first weights, the images and the
    settings: killed at any moment and resumed, it gives the same losses and weights to the last bit. All randomness
    comes from generators derived from `settings.seed`, the epoch and the step; torch's global generator is seeded anew
    for each step, for layers such as dropout, and put back at the end.

    Args:
        model: `encode(images) -> (mean, logvar)` and `decode_logits(latents) -> logits`, as `vaelens.models.build`
            makes it. Left on the CPU, in eval mode, with the last epoch's weights and without gradients.
        train: images (N, C, H, W), uint8, and their names; or what images are drawn from (see `drawn.Drawable`).
        held_out: the same for images to measure on; None measures the active latents on the training images.
        settings: how to train.
        out: folder for `checkpoints/last.ckpt` and `logs/`; made if need be.
        resume: go on from the checkpoint in `out`, or start anew where the run was stopped before its first.
        progress: show the progress on stderr.
        module: makes the Lightning module of a family of objectives; None: `VAEModule`, or `FactorModule` where settings have
            a gamma.

    Raises:
        UsageError: images, model or settings that cannot be used or are not those of the checkpoint; a patience without
            held-out images; a checkpoint in `out` when not resuming.
        RunError: a damaged checkpoint, or a folder that cannot be written.
        TrainingError: a loss or gradient that is no finite number.
        TrainingInterrupted: Ctrl-C, or a termination signal.

    Warns:
        LatentCollapseWarning: after the warm-up fewer than a tenth of the latents, or none, are active.
    """
    out = Path(out)
    path = out / CHECKPOINT
    if settings.patience is not None and held_out is None:
        raise UsageError("patience watches the held-out loss, and there are no held-out images: give some, or no patience")
    check_trainable(train, settings, getattr(model, "input_shape", None))
    if held_out is not None:
        check_images(held_out.images, getattr(model, "input_shape", None))
    if path.exists() and not resume:
        raise UsageError(f"{path} exists: resume that run, or choose another output folder")
    accelerator = pick_accelerator(settings.accelerator)
    with ExitStack() as stack:
        requests = stack.enter_context(StopRequests())
        data = {
            "training": digest_of(train),
            "held-out": None if held_out is None else digest_of(held_out),
        }
        state = RunState(settings.to_dict(), data)

        def result(stopped: bool = False) -> FitResult:
            saved = path if path.exists() else None
            return FitResult(tuple(state.history), tuple(state.mean_kl), stopped, state.stopped_early, saved)

        def stop() -> None:
            if requests.signal is not None:
                raise interrupted(result(stopped=True), state.epochs_saved, settings, requests.signal)

        try:
            with plain_warnings():
                from vaelens.training.callbacks import EpochKeeper, WholeFileIO  # takes seconds: imports Lightning
                from vaelens.training.factor import FactorModule
                from vaelens.training.module import VAEModule

            family = module or (VAEModule if settings.gamma is None else FactorModule)
            lightning_module = family(model, settings, train, held_out)
            loaded = None
            if resume and path.exists():
                loaded, old = read_checkpoint(path)
                check_resumable(path, old, loaded["state_dict"], settings, data, lightning_module.state_dict())
                old.settings = settings.to_dict()
                state = old
            show = TrainingProgress(settings.epochs, len(lightning_module.batches), enabled=progress)
            if resume and loaded is None:
                show.note(f"no checkpoint in {out} yet: starting at epoch 1")
            logs = EpochLogs(out / "logs", settings.logger != "csv", state.epochs_done)
            stack.callback(logs.close)
            if state.history:
                logs.write(state.history, new=False)
            stop()
            if loaded is not None and (state.stopped_early or state.epochs_done == settings.epochs):
                lightning_module.load_state_dict(loaded["state_dict"])
            else:
                show.start(state.epochs_done)
                stack.callback(show.stop)
                stack.enter_context(unchanged_globals(accelerator))
                access, resuming = WholeFileIO(loaded), loaded is not None
                loaded = None  # it is as large as the model and its optimiser: Lightning drops it once it is restored
                collapse = CollapseWatch(settings.warmup, state.collapse_warned)
                keeper = EpochKeeper(path, state, logs, collapse, show, stop)
                _train(lightning_module, out, path if resuming else None, access, keeper, accelerator)
            stop()  # a wish that came in the last epoch's writing is no less a wish
        except (KeyboardInterrupt, SystemExit):  # the second Ctrl-C; Lightning makes an exit of it
            if requests.signal is None:
                raise
            stop()
        finally:
            model.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            model.eval().zero_grad(set_to_none=True)
    return result()


def _train(
    module: VAEModule, out: Path, resume_from: Path | None, access: WholeFileIO, keeper: EpochKeeper, accelerator: str
) -> None:
    """The part that Lightning does."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.plugins.environments import LightningEnvironment

    from vaelens.training.callbacks import StopEarly

    settings = module.settings
    callbacks: list[Any] = [keeper]
    if settings.patience is not None:
        callbacks.append(StopEarly(settings.patience, settings.warmup))
    with quiet():
        trainer = Trainer(
            max_epochs=settings.epochs,
            accelerator=accelerator,
            devices=1,
            precision=pick_precision(settings.precision, accelerator),
            # The environment is named so that a cluster's variables do not start a second process.
            plugins=[access, LightningEnvironment()],
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            benchmark=False,
            default_root_dir=out,
        )
        module.train()
        trainer.fit(
            module, module.batches, module.held_out_batches, ckpt_path=None if resume_from is None else str(resume_from)
        )
