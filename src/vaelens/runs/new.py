"""The configuration of a run to be trained: what was asked for, and the defaults for what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelens.data import ANOMALY_DATASETS, DATASETS, default_augmentation, default_preparation
from vaelens.data.files import shown
from vaelens.errors import UsageError, unknown, whole
from vaelens.models import NETWORKS
from vaelens.runs.config import MOST_LATENTS, RunConfig
from vaelens.runs.objective import FAMILIES

if TYPE_CHECKING:
    from vaelens.data.preparation import Preparation


@dataclass(frozen=True)
class Defaults:
    """What a run of a data set has where nothing else is asked for.

    Attributes:
        network: one of NETWORKS.
        held_out: share of the normal images kept for calibration.
        fixed_camera: whether a place shows the same thing in every image.
    """

    network: str
    held_out: float
    fixed_camera: bool = False


DEFAULTS: dict[str, Defaults] = {
    "digits": Defaults("mnist", 0.25),  # of the 1,797 digits, a tenth of one class is too few to calibrate on
    "mnist": Defaults("mnist", 0.1),
    "ucsd-ped1": Defaults("ucsd", 0.15, fixed_camera=True),  # whole clips are held out
    "ucsd-ped2": Defaults("ucsd", 0.15, fixed_camera=True),
    "mvtec": Defaults("compact", 0.1),  # the paper's network, "mvtec", takes hours on a processor
    "folder": Defaults("compact", 0.15),
}
SIZE_OF = {"ucsd": (100, 100), "mvtec": (256, 256), "compact": (128, 128), "ae": (128, 128), "dcgan": (64, 64)}
LATENTS_OF = {"ae": 100, "dcgan": 100}
_OF_IMAGES = ("category", "size", "frames", "brightness", "fixed_camera", "augmentation")


def configured(dataset: str, root: Path | None, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of a new run.

    Args:
        dataset: a name in DATASETS or ANOMALY_DATASETS.
        root: folder of its files.
        asked: see the arguments of `vaelens.train_run`; None for what was not asked for.
        settings: of the training, without those not asked for.

    Raises:
        UsageError: something that cannot be, or not with something else.
        DataError: a folder whose images cannot be read.
    """
    from vaelens.training import TrainSettings

    if dataset not in DEFAULTS:
        raise unknown("data set", dataset, DEFAULTS)
    objective = asked["objective"] or "vae"
    if objective not in FAMILIES:
        raise unknown("objective", objective, FAMILIES)
    family = FAMILIES[objective]
    if dataset in DATASETS and not family.posterior:
        raise UsageError(f"objective '{objective}' is for {', '.join(ANOMALY_DATASETS)}, not for {dataset}")
    if dataset in DATASETS:
        _refuse_of_images(dataset, asked)
    network = _network(dataset, family.network, asked["network"])
    settings = {**settings, "augmentation": _augmentation(dataset, asked)}
    chosen = TrainSettings.for_network(network, **settings)
    if objective == "vae" and chosen.kl_weight != 1:
        raise UsageError("objective 'vae' has a KL weight of 1; use objective 'beta' for another")
    root = None if root is None else Path(root).resolve()
    preparation = None if dataset in DATASETS else _preparation(dataset, root, network, asked)
    latents = LATENTS_OF.get(network, 32) if asked["latent_dim"] is None else asked["latent_dim"]
    fixed = asked["fixed_camera"]
    return RunConfig(
        dataset={
            "name": dataset,
            "root": None if root is None else str(root),
            "normal": _normal(dataset, asked["normal"]),
            "category": asked["category"],
            "held_out": DEFAULTS[dataset].held_out if asked["held_out"] is None else _share(asked["held_out"]),
            "seed": chosen.seed,
            "preparation": None if preparation is None else preparation.to_dict(),
        },
        network={
            "name": network,
            "input_shape": [1, 28, 28] if preparation is None else list(preparation.image_shape),
            "latent_dim": whole("latent_dim", latents, most=MOST_LATENTS),
        },
        training=chosen.to_dict(),
        explain={
            "layer": asked["layer"],
            "fixed_camera": DEFAULTS[dataset].fixed_camera if fixed is None else bool(fixed),
            **({} if asked["localizer"] is None else {"localizer": asked["localizer"]}),
        },
        objective=objective,
    )


def resumed(out: Path, dataset: str, root: Path | None, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run to go on with; what was given must agree with it, but for `epochs` and `root`.

    Raises:
        RunError: there is no such run, or a damaged one.
        UsageError: something else than the run has.
    """
    config = RunConfig.load(out)
    preparation = config.dataset["preparation"] or {}
    there = {
        **config.training,
        "data set": config.dataset["name"],
        "normal": config.dataset["normal"],
        "category": config.dataset["category"],
        "held_out": config.dataset["held_out"],
        "size": preparation.get("size"),
        "frames": preparation.get("frames"),
        "brightness": preparation.get("brightness"),
        "fixed_camera": config.explain["fixed_camera"],
        "network": config.network["name"],
        "latent_dim": config.network["latent_dim"],
        "layer": config.explain["layer"],
        "localizer": config.explain.get("localizer"),
        "objective": config.objective,
    }
    given = {"data set": dataset, **asked, **settings}
    if given["size"] is not None:
        given["size"] = list(_size(given["size"]))
    if given["augmentation"] is not None:
        given["augmentation"] = _augmentation(dataset, {**asked, "category": there["category"]})
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


def _network(dataset: str, needed: str | None, asked: str | None) -> str:
    if asked is not None and asked not in NETWORKS:
        raise unknown("network", asked, NETWORKS)
    if needed is not None and asked not in (None, needed):
        raise UsageError(f"that objective takes network '{needed}', not '{asked}'; leave --network out")
    network = asked or needed or DEFAULTS[dataset].network
    if dataset in DATASETS and network != DEFAULTS[dataset].network:
        raise UsageError(f"{dataset} takes network '{DEFAULTS[dataset].network}', not '{network}'; leave --network out")
    return network


def _preparation(dataset: str, root: Path | None, network: str, asked: Mapping[str, Any]) -> Preparation:
    from vaelens.data.anomaly import AnomalyOptions

    default = default_preparation(dataset, AnomalyOptions(root=root, category=asked["category"]))
    changes: dict[str, Any] = {
        "size": SIZE_OF.get(network, default.size) if asked["size"] is None else _size(asked["size"]),
        "frames": asked["frames"],
        "brightness": asked["brightness"],
    }
    return replace(default, **{name: value for name, value in changes.items() if value is not None})


def _augmentation(dataset: str, asked: Mapping[str, Any]) -> str:
    """What is done to the training images, spelt out."""
    text = asked["augmentation"]
    if dataset in DATASETS:
        return "none"
    from vaelens.data.augment import parse

    return str(parse(text or "auto", default_augmentation(dataset, asked["category"])))


def _normal(dataset: str, normal: int | None) -> int | None:
    if dataset in DATASETS:
        return 1 if normal is None else whole("normal", normal, least=0)
    if normal is not None:
        raise UsageError(f"{dataset} has no classes, one of which could be normal; leave --normal out")
    return None


def _size(value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2:
        raise UsageError(f"size is one number of pixels, or (height, width), got {value!r}")
    return whole("size", sides[0], least=8), whole("size", sides[1], least=8)


def _share(value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"held_out is a share between 0 and 1 such as 0.1, got {value!r}") from None


def _refuse_of_images(dataset: str, asked: Mapping[str, Any]) -> None:
    """Refuse what only data sets for anomaly localization take."""
    for name in _OF_IMAGES:
        if asked[name] is not None and not (name == "augmentation" and asked[name] in ("auto", "none")):
            raise UsageError(f"{name} is for {', '.join(ANOMALY_DATASETS)}, not for {dataset}; leave it out")
