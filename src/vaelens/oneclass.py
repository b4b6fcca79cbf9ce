"""The main job: data set -> one-class VAE -> calibrated run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaelens.data import load_one_class
from vaelens.data.one_class import OneClassSplit
from vaelens.errors import RunError, UsageError, unknown
from vaelens.localizers import LOCALIZERS, Calibration, build_localizer
from vaelens.localizers.attention import codes
from vaelens.models import ConvVAE, build
from vaelens.output import writing
from vaelens.runs import CONFIG, METRICS, Run, RunConfig, load_run, save_run

if TYPE_CHECKING:
    from vaelens.data.download import Progress
    from vaelens.training import TrainSettings
    from vaelens.training.result import FitResult

NETWORK_OF = {"digits": "mnist", "mnist": "mnist"}
HELD_OUT_OF = {"digits": 0.25, "mnist": 0.1}  # of the 1,797 digits, a tenth of one class is too few to calibrate on
OBJECTIVES = ("vae", "beta")
REFERENCES = 8192  # normal images that a run keeps to compare with; more add little and cost memory


def train_run(
    out: str | Path,
    dataset: str,
    *,
    normal: int = 1,
    root: Path | None = None,
    held_out: float | None = None,
    latent_dim: int = 32,
    layer: str | None = None,
    objective: str = "vae",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    downloading: Progress | None = None,
    **settings: Any,
) -> Run:
    """Train a VAE on one class of a data set, calibrate it on held-out images of that class and save the run.

    Args:
        out: folder of the run.
        dataset: "digits" or "mnist".
        normal: label of the normal class.
        root: folder of the data set's files; None: embedded, or the cache with a download into it.
        held_out: share of the normal training images kept for calibration; None: the data set's default.
        latent_dim: number of latents D.
        layer: dotted name of the layer to explain; None for the last feature map.
        objective: "vae", or "beta", a VAE whose `kl_weight` is beta.
        resume: go on with a run that was stopped, with the settings in its folder; those given here are ignored but for
            `epochs`, which may be raised.
        overwrite: replace a run that is there.
        progress: show the progress on stderr.
        downloading: called during a download, see `data.download`.
        settings: of `vaelens.training.TrainSettings`, over the network's defaults.

    Raises:
        UsageError: a setting that cannot be used, a folder that is not free, an unknown data set, class or layer.
        DataError, RunError, TrainingError, TrainingInterrupted: see `load_one_class`, `load_run` and `fit`.
    """
    from vaelens.training import TrainSettings

    out = Path(out)
    if resume:
        config = _resumed(out, settings)
        if (out / METRICS).is_file() and not _more_epochs(out, config):
            return load_run(out)
    else:
        if dataset not in NETWORK_OF:
            raise unknown("data set", dataset, NETWORK_OF)
        if objective not in OBJECTIVES:
            raise unknown("objective", objective, OBJECTIVES)
        network = NETWORK_OF[dataset]
        chosen = TrainSettings.for_network(network, **{k: v for k, v in settings.items() if v is not None})
        if objective == "vae" and chosen.kl_weight != 1:
            raise UsageError("objective 'vae' has a KL weight of 1; use objective 'beta' for another")
        config = RunConfig(
            dataset={
                "name": dataset,
                "root": None if root is None else str(Path(root).resolve()),
                "normal": normal,
                "held_out": HELD_OUT_OF[dataset] if held_out is None else held_out,
                "seed": chosen.seed,
            },
            network={"name": network, "input_shape": [1, 28, 28], "latent_dim": latent_dim},
            training=chosen.to_dict(),
            explain={"layer": layer},
            objective=objective,
        )
    # All that can be refused is refused before anything is written.
    chosen = TrainSettings.from_dict(config.training)
    split = load_split(config, downloading=downloading)
    model = _initial_model(config, chosen.seed)
    _check_layer(model, config)
    if not resume:
        _claim(out, overwrite)
    with _alone(out):
        config.save(out)
        return _train(out, config, split, model, chosen, resume, progress)


def load_split(config: RunConfig, root: Path | None = None, downloading: Progress | None = None) -> OneClassSplit:
    """The run's data, split as it was for training; `root` where the files have moved."""
    data = config.dataset
    return load_one_class(
        data["name"],
        normal=data["normal"],
        root=root or (None if data["root"] is None else Path(data["root"])),
        held_out=data["held_out"],
        seed=data["seed"],
        progress=downloading,
    )


def calibrate(model: ConvVAE, train: Tensor, held_out: Tensor, layer: str | None, seed: int) -> dict[str, Tensor]:
    """What a run keeps of its normal images.

    Args:
        model: the trained network, in eval mode.
        train: normal training images (N, C, H, W), uint8; at most 8,192 are kept, chosen by `seed`.
        held_out: normal images (M, C, H, W), uint8, that the training never saw.
        layer: whose feature map.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    kept = train[order[:REFERENCES].sort().values]
    mean, logvar = codes(model, held_out)
    tensors = {"normal.images": kept, "held_out.mean": mean, "held_out.logvar": logvar}
    for name in LOCALIZERS:
        options = {} if name == "reconstruction" else {"layer": layer}
        measured = Calibration.measure(build_localizer(name, model, **options).fit(kept), held_out)
        tensors[f"score.{name}"] = measured.scores
        tensors[f"peak.{name}"] = measured.peaks
    return tensors


def _train(
    out: Path, config: RunConfig, split: OneClassSplit, model: ConvVAE, settings: TrainSettings, resume: bool, progress: bool
) -> Run:
    from vaelens.training.fit import fit

    started = time.monotonic()
    result = fit(model, split.train, split.calibration, settings, out, resume=resume, progress=progress)
    layer = config.explain["layer"]
    tensors = calibrate(model, split.train.images, split.calibration.images, layer, settings.seed)
    save_run(out, model, tensors, _metrics(result, split, time.monotonic() - started))
    return load_run(out)


def _metrics(result: FitResult, split: OneClassSplit, seconds: float) -> dict[str, Any]:
    last = result.history[-1]
    return {
        "images": split.counts,
        "epochs": result.epochs,
        "stopped_early": result.stopped_early,
        "seconds": round(seconds, 1),
        "losses": {name: last[name] for name in last if "/" in name},
        "active_latents": sum(result.active),
        "mean_kl": list(result.mean_kl),
    }


def _initial_model(config: RunConfig, seed: int) -> ConvVAE:
    """The network with weights drawn from `seed`, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config.network["name"], config.network["latent_dim"], config.network["input_shape"])


def _check_layer(model: ConvVAE, config: RunConfig) -> None:
    if config.explain["layer"] is not None:
        from vaelens.attention import LatentAttention

        LatentAttention(model, config.explain["layer"])


def _claim(out: Path, overwrite: bool) -> None:
    """Make the folder of a new run; with `overwrite` a run that is there goes away."""
    if out.is_dir() and any(out.iterdir()):
        if not (out / CONFIG).is_file():
            raise UsageError(f"{out} is not empty and no run; choose another --out")
        if not overwrite:
            raise UsageError(f"{out} holds a run already; choose another --out, or pass --resume or --overwrite")
        import shutil

        with writing(out):
            shutil.rmtree(out)
    elif out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the run's folder, so that a second process does not write into it; the system lets go with the process."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise RunError(f"{out} is being trained by another process; wait for it, or choose another --out") from None


def _resumed(out: Path, settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run to go on with; `epochs` may be raised."""
    from dataclasses import replace

    config = RunConfig.load(out)
    epochs = settings.get("epochs")
    if epochs is None:
        return config
    if epochs < config.training["epochs"]:
        raise UsageError(f"{out} was to train for {config.training['epochs']} epochs; --epochs can only be raised on resuming")
    return replace(config, training={**config.training, "epochs": epochs})


def _more_epochs(out: Path, config: RunConfig) -> bool:
    import json

    try:
        done = json.loads((out / METRICS).read_text(encoding="utf-8"))
        return not done["stopped_early"] and int(done["epochs"]) < int(config.training["epochs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{out / METRICS} is damaged; train the run again") from error
