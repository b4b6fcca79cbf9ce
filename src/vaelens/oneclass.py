"""The main job: data set -> one-class VAE -> calibrated run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaelens.data import load_one_class
from vaelens.data.files import shown
from vaelens.data.one_class import OneClassSplit
from vaelens.errors import UsageError, unknown, whole
from vaelens.localizers import LOCALIZERS, Calibration, build_localizer
from vaelens.localizers.attention import codes
from vaelens.models import ConvVAE, build
from vaelens.run_config import MOST_LATENTS, OBJECTIVES, RunConfig
from vaelens.run_folder import METRICS, alone, check_place, clear, read_metrics, save_run
from vaelens.runs import Run, load_run

if TYPE_CHECKING:
    from vaelens.data.download import Progress
    from vaelens.training import TrainSettings
    from vaelens.training.result import FitResult

NETWORK_OF = {"digits": "mnist", "mnist": "mnist"}
HELD_OUT_OF = {"digits": 0.25, "mnist": 0.1}  # of the 1,797 digits, a tenth of one class is too few to calibrate on
REFERENCES = 8192  # normal images that a run keeps to compare with; more add little and cost memory


def train_run(
    out: str | Path,
    dataset: str,
    *,
    normal: int | None = None,
    root: Path | None = None,
    held_out: float | None = None,
    latent_dim: int | None = None,
    layer: str | None = None,
    objective: str | None = None,
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
        normal: label of the normal class; None: 1.
        root: folder of the data set's files; None: embedded, or the cache with a download into it.
        held_out: share of the normal training images kept for calibration; None: the data set's default.
        latent_dim: number of latents D; None: 32.
        layer: dotted name of the layer to explain; None for the last feature map.
        objective: "vae", or "beta", a VAE whose `kl_weight` is beta; None: "vae".
        resume: go on with a run that was stopped. What is not given is as in its folder; what is given must agree with
            it, but for `epochs`, which may be raised, and `root`, which may have moved.
        overwrite: replace a run that is there.
        progress: show the progress on stderr.
        downloading: called during a download, see `data.download`.
        settings: of `vaelens.training.TrainSettings`, over the network's defaults.

    Raises:
        UsageError: a setting that cannot be used, a folder that is not free, an unknown data set, class or layer.
        DataError, RunError, TrainingError, TrainingInterrupted: see `load_one_class`, `load_run` and `fit`.
    """
    from vaelens.training import TrainSettings
    from vaelens.training.device import pick_accelerator, pick_precision

    out = Path(out)
    given = {name: value for name, value in settings.items() if value is not None}
    if resume:
        chosen = {"data set": dataset, "normal": normal, "held_out": held_out, "latent_dim": latent_dim, "layer": layer}
        config = _resumed(out, root, {**chosen, "objective": objective, **given})
        if (out / METRICS).is_file() and not _more_epochs(out, config):
            return load_run(out)
    else:
        config = _configured(dataset, normal, root, held_out, latent_dim, layer, objective or "vae", given)
    # All that can be refused is refused before anything is written.
    training = TrainSettings.from_dict(config.training)
    pick_precision(training.precision, pick_accelerator(training.accelerator))
    if not resume:
        check_place(out, overwrite)
    split = load_split(config, downloading=downloading)
    _check_counts(split)
    model = _initial_model(config, training.seed)
    _check_layer(model, config)
    with alone(out):
        if not resume:
            clear(out, overwrite)
        config.save(out)
        return _train(out, config, split, model, training, resume, progress)


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
    order = torch.randperm(len(train), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
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


def _check_counts(split: OneClassSplit) -> None:
    """Refuse a split whose spreads cannot be measured."""
    for what, images in (("to train on", split.train), ("held out", split.calibration)):
        if len(images) < 2:
            raise UsageError(
                f"{len(images)} image of class {split.normal} is {what}, which takes at least 2; change --held-out"
            )


def _configured(
    dataset: str,
    normal: int | None,
    root: Path | None,
    held_out: float | None,
    latent_dim: int | None,
    layer: str | None,
    objective: str,
    given: Mapping[str, Any],
) -> RunConfig:
    """The configuration of a new run."""
    from vaelens.training import TrainSettings

    if dataset not in NETWORK_OF:
        raise unknown("data set", dataset, NETWORK_OF)
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    network = NETWORK_OF[dataset]
    chosen = TrainSettings.for_network(network, **given)
    if objective == "vae" and chosen.kl_weight != 1:
        raise UsageError("objective 'vae' has a KL weight of 1; use objective 'beta' for another")
    return RunConfig(
        dataset={
            "name": dataset,
            "root": None if root is None else str(Path(root).resolve()),
            "normal": 1 if normal is None else whole("normal", normal, least=0),
            "held_out": HELD_OUT_OF[dataset] if held_out is None else _share(held_out),
            "seed": chosen.seed,
        },
        network={
            "name": network,
            "input_shape": [1, 28, 28],
            "latent_dim": 32 if latent_dim is None else whole("latent_dim", latent_dim, most=MOST_LATENTS),
        },
        training=chosen.to_dict(),
        explain={"layer": layer},
        objective=objective,
    )


def _share(value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"held_out is a share between 0 and 1 such as 0.1, got {value!r}") from None


def _resumed(out: Path, root: Path | None, given: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run to go on with; what was given must agree with it, but for `epochs` and `root`."""
    config = RunConfig.load(out)
    there = {
        **config.training,
        "data set": config.dataset["name"],
        "normal": config.dataset["normal"],
        "held_out": config.dataset["held_out"],
        "latent_dim": config.network["latent_dim"],
        "layer": config.explain["layer"],
        "objective": config.objective,
    }
    for name, value in given.items():
        if name not in there:
            raise unknown("training setting", name, config.training)
        if value is not None and name != "epochs" and value != there[name]:
            raise UsageError(
                f"the run in {shown(out)} has {name} {there[name]!r}, not {value!r}: leave that out to go on with it, "
                "or choose another --out"
            )
    epochs = given.get("epochs", there["epochs"])
    if epochs < there["epochs"]:
        raise UsageError(f"{shown(out)} was to train for {there['epochs']} epochs; --epochs can only be raised on resuming")
    data = {**config.dataset, **({} if root is None else {"root": str(Path(root).resolve())})}
    return replace(config, dataset=data, training={**config.training, "epochs": epochs})


def _more_epochs(out: Path, config: RunConfig) -> bool:
    done = read_metrics(out, config)
    return not done["stopped_early"] and int(done["epochs"]) < int(config.training["epochs"])
