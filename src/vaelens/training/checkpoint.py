"""Checkpoints that are whole or absent, that load without unpickling objects, and that say what they belong to."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import RunError, UsageError
from vaelens.training.logs import Row, cannot_write
from vaelens.training.settings import TrainSettings

KEY = "vaelens"
FORMAT = 1

# These change what is written, or how long it goes on, and no number of the epochs done.
_MAY_CHANGE = ("epochs", "checkpoint_every", "logger")


@dataclass
class RunState:
    """What a run knows beside the weights and the optimiser's state, as plain values.

    Attributes:
        settings: of `TrainSettings.to_dict`.
        data: fingerprints of the training and held-out images.
        history: one row per epoch done.
        mean_kl: D values, nats, of the last epoch.
        collapse_warned: the number of active latents that was last warned about.
        stopped_early: the held-out loss had stopped falling.
        epochs_saved: epochs that the newest checkpoint holds.
    """

    settings: dict[str, Any]
    data: dict[str, str | None]
    history: list[Row] = field(default_factory=list)
    mean_kl: list[float] = field(default_factory=list)
    collapse_warned: int | None = None
    stopped_early: bool = False
    epochs_saved: int = 0

    @property
    def epochs_done(self) -> int:
        """Epochs in the history."""
        return len(self.history)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the version of this format."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunState:
        """What `to_dict` gave."""
        return cls(**{name: value for name, value in values.items() if name != "format"})


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint beside `path` and move it there once it is on the disk, so that `path` is never half a file.

    Raises:
        RunError: it cannot be written, for instance because the disk is full; what was at `path` stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports some failed writes as RuntimeError
        partial.unlink(missing_ok=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # it came during torch's write, which made another error of it
            raise KeyboardInterrupt from error
        raise cannot_write(path, error) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Any], RunState]:
    """Read a checkpoint: its content, tensors on the CPU, and the state in it.

    Raises:
        RunError: the file cannot be read, is damaged or truncated, holds anything but tensors and plain values, or is
            of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not look at the checksums, and would load changed weights
        if broken is not None:
            raise zipfile.BadZipFile(broken)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"cannot read checkpoint {path} ({error.strerror}): check that it exists and its rights") from error
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, end of file, key, type
        raise RunError(
            f"checkpoint {path} is damaged or no checkpoint ({type(error).__name__}): "
            "put back a copy of it, or delete it and train from the start"
        ) from error
    values = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise RunError(
            f"checkpoint {path} is not of this version of vaelens (format {found}, this one reads {FORMAT}): "
            "resume with the version that wrote it, or train from the start"
        )
    try:
        state = RunState.from_dict(values)
    except TypeError as error:
        raise RunError(f"checkpoint {path} lacks part of its state ({error}): train from the start") from error
    return content, state


def check_resumable(
    path: Path,
    state: RunState,
    weights: Mapping[str, Tensor],
    settings: TrainSettings,
    data: Mapping[str, str | None],
    model_weights: Mapping[str, Tensor],
) -> None:
    """Refuse to go on with other settings, images or weights than the checkpoint's: it would not be the same run.

    Raises:
        UsageError: names the setting that differs, the images or the weight.
    """
    defaults = TrainSettings().to_dict()  # a setting that is younger than the checkpoint had its default
    for name, now in settings.to_dict().items():
        then = state.settings.get(name, defaults[name])
        if name not in _MAY_CHANGE and now != then:
            raise UsageError(
                f"{name} is {now!r}, but the run in {path} was started with {then!r}: resume with {name} {then!r}, "
                "or train into another folder"
            )
    if settings.epochs < state.epochs_done:
        raise UsageError(f"epochs is {settings.epochs}, but {path} has {state.epochs_done} epochs behind it already")
    for name, found in data.items():
        if found != state.data.get(name):
            raise UsageError(
                f"the {name} images ({found or 'none'}) are not those that {path} was trained with "
                f"({state.data.get(name) or 'none'}): resume with the same images, or train into another folder"
            )
    for name in sorted({*weights, *model_weights}):
        shapes = [tuple(found[name].shape) if name in found else None for found in (weights, model_weights)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"the model is not the one in {path}: {name} is {shapes[1] or 'missing'} here and "
                f"{shapes[0] or 'missing'} there; build the same network with the same latent_dim"
            )
