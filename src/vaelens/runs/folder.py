"""The folder of a run: its place, and its files beside the configuration, which are read without unpickling."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError
from vaelens.models import ConvVAE
from vaelens.models.stored import gist, with_weights
from vaelens.output import check_folder, holds_something, write_bytes, write_json, writing
from vaelens.runs.config import CONFIG, RunConfig, first_line, train_command
from vaelens.runs.localizers import forget
from vaelens.runs.objective import family_of, localizers_of

MODEL, CALIBRATION, METRICS = "model.safetensors", "calibration.safetensors", "metrics.json"
_LOCK = ".lock"


def check_place(out: Path, overwrite: bool) -> None:
    """Refuse a place for a new run that is taken."""
    check_folder(out)
    if not holds_something(out, besides=_LOCK):
        return
    if not (out / CONFIG).is_file():
        raise UsageError(f"{shown(out)} is not empty and no run; choose another --out")
    if not overwrite:
        raise UsageError(f"{shown(out)} holds a run already; choose another --out, or pass --resume or --overwrite")
    # Many a project has a config.yaml: only what names itself a run of ours is ever removed.
    try:
        ours = "vaelens" in RunConfig.read(out)
    except RunError:
        ours = False
    if not ours:
        raise UsageError(f"{shown(out)} has a {CONFIG} that is not a run's and is left alone; choose another --out")


def clear(out: Path, overwrite: bool) -> None:
    """Remove the run that is there, but for the lock that this process holds on its folder."""
    check_place(out, overwrite)  # once more: it may have come since
    with writing(out):
        for entry in out.iterdir():
            if entry.name == _LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the run's folder, so that a second process does not write into it; the system lets go with the process."""
    from filelock import FileLock, Timeout

    with ExitStack() as held:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(out / _LOCK, timeout=0))
            except Timeout:
                raise RunError(
                    f"{shown(out)} is being trained by another process; wait for it, or choose another --out"
                ) from None
        yield


def report_of(folder: Path, synthetic: bool = False) -> Path:
    """Where in a run's folder the report of an evaluation lies, or of one on synthetic defects."""
    return folder / ("report-synthetic" if synthetic else "report")


def faithfulness_report_of(folder: Path) -> Path:
    """Where in a run's folder the report lies on how far its maps can be trusted."""
    return folder / "report-faithfulness"


def save_run(folder: Path, model: ConvVAE, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
    """Complete a run folder that has its `config.yaml`: weights, calibration and, last, the metrics."""
    with writing(folder / METRICS):  # of a run that was trained further: without it no half of the old is taken for whole
        (folder / METRICS).unlink(missing_ok=True)
    forget(folder)
    for name, content in ((MODEL, model.state_dict()), (CALIBRATION, tensors)):
        write_bytes(folder / name, save({k: v.detach().cpu().contiguous() for k, v in content.items()}), durable=True)
    write_json(folder / METRICS, metrics, durable=True)


def read_metrics(folder: Path, config: RunConfig) -> dict[str, Any]:
    """What `metrics.json` holds.

    Raises:
        RunError: it is missing, which means that training did not end, or damaged.
    """
    path = folder / METRICS
    if not path.is_file():
        raise RunError(
            f"{shown(folder)} is incomplete: training did not end; go on with: "
            f"{train_command(config.dataset['name'], folder, '--resume')}"
        )
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        int(metrics["epochs"]), float(metrics["seconds"]), int(metrics["active_latents"]), bool(metrics["stopped_early"])
        int(metrics.get("held_out_clips", 0))
        latents = config.network["latent_dim"] if family_of(config).posterior else 0
        float(metrics["losses"]["train/loss"]), dict(metrics["images"])
        [float(loss) for loss in metrics["losses"].values()]
        if len([float(kl) for kl in metrics["mean_kl"]]) != latents:
            raise ValueError("mean_kl is not one number per latent")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise RunError(f"{shown(path)} is damaged ({what}); train the run again") from error
    return dict(metrics)


def read_model(folder: Path, config: RunConfig) -> ConvVAE:
    """The network with the weights of `model.safetensors`, in eval mode, without gradients and with the channels last.

    Raises:
        RunError: they are missing, damaged, or another network's.
    """
    network = config.network
    weights = _read(folder / MODEL)
    try:
        model: ConvVAE = with_weights(network["name"], network["latent_dim"], network["input_shape"], weights)
    except RecursionError:  # nothing that is wrong with the file
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise RunError(f"{shown(folder / MODEL)} does not fit {CONFIG} ({gist(error)}); train the run again") from error
    return model


def read_calibration(folder: Path, model: ConvVAE, config: RunConfig) -> dict[str, Tensor]:
    """What `calibration.safetensors` holds.

    Raises:
        RunError: it is missing, damaged, or another network's.
    """
    tensors = _read(folder / CALIBRATION)
    wrong = _misfit(tensors, model, config)
    if wrong:
        raise RunError(f"{shown(folder / CALIBRATION)} does not fit the run: {wrong}; train the run again")
    return tensors


def _misfit(tensors: Mapping[str, Tensor], model: ConvVAE, config: RunConfig) -> str:
    """What is wrong with a run's calibration, in a few words; nothing where it fits."""
    images = ("normal.images", "held_out.images")
    posterior = ("held_out.mean", "held_out.logvar") if family_of(config).posterior else ()
    needed = [*images, *posterior, *(f"{k}.{n}" for n in localizers_of(config) for k in ("score", "peak"))]
    missing = [name for name in needed if name not in tensors]
    if missing:
        return f"it lacks {', '.join(missing)}"
    held_out = len(tensors["held_out.images"]) if tensors["held_out.images"].ndim else 0
    for name in needed:
        tensor = tensors[name]
        if name in images:
            fits = tensor.dtype == torch.uint8 and tensor.shape[1:] == model.input_shape and len(tensor) > 1
        else:
            shape = (held_out, model.latent_dim) if name in posterior else (held_out,)
            fits = held_out > 1 and tensor.shape == shape and tensor.dtype == torch.float32 and bool(tensor.isfinite().all())
        if not fits:
            return f"{name} is {tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}, or not finite"
    return ""


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise RunError(f"{shown(path.parent)} is incomplete: it has no {path.name}; train the run again")
    try:
        return dict(load(path.read_bytes()))  # by its content: the library takes no file whose name is no UTF-8
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise RunError(f"{shown(path)} is damaged ({first_line(error)}); train the run again") from error
