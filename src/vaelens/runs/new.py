"""The configuration of a run to be trained: what was asked for, and the defaults for what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelens.data import ANOMALY_DATASETS, DATASETS, FACTOR_DATASETS, default_augmentation, default_preparation
from vaelens.data.files import shown
from vaelens.errors import UsageError, unknown, whole
from vaelens.models import NETWORKS
from vaelens.runs.config import MOST_LATENTS, RunConfig
from vaelens.runs.objective import FAMILIES
from vaelens.runs.recipes import is_begun_with, recipe_settings
from vaelens.training.settings import STEPS_PER_EPOCH

if TYPE_CHECKING:
    from vaelens.data.preparation import Preparation


@dataclass(frozen=True)
class Defaults:
    """What a run of a data set has where nothing else is asked for.

    Attributes:
        network: one of NETWORKS.
        held_out: share of the normal images kept for calibration; None where no image is normal.
        fixed_camera: whether a place shows the same thing in every image.
        latent_dim: number of latents D.
        input_shape: (C, H, W) of the images, where files do not decide on it.
    """

    network: str
    held_out: float | None
    fixed_camera: bool = False
    latent_dim: int = 32
    input_shape: tuple[int, int, int] = (1, 28, 28)


DEFAULTS: dict[str, Defaults] = {
    "digits": Defaults("mnist", 0.25),  # of the 1,797 digits, a tenth of one class is too few to calibrate on
    "mnist": Defaults("mnist", 0.1),
    "ucsd-ped1": Defaults("ucsd", 0.15, fixed_camera=True),  # whole clips are held out
    "ucsd-ped2": Defaults("ucsd", 0.15, fixed_camera=True),
    "mvtec": Defaults("compact", 0.1),  # the paper's network, "mvtec", takes hours on a processor
    "folder": Defaults("compact", 0.15),
    "dsprites": Defaults("dsprites", None, latent_dim=10, input_shape=(1, 64, 64)),
}
SIZE_OF = {"ucsd": (100, 100), "mvtec": (256, 256), "compact": (128, 128), "ae": (128, 128), "dcgan": (64, 64)}
LATENTS_OF = {"ae": 100, "dcgan": 100}
DEFAULT_STEPS = 300_000
"""Of a run of drawn images, as FactorVAE's authors train."""
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
    objective = "vae" if asked["objective"] is None else asked["objective"]
    if objective not in FAMILIES:
        raise unknown("objective", objective, FAMILIES)
    family, default = FAMILIES[objective], DEFAULTS[dataset]
    if dataset not in ANOMALY_DATASETS:
        if not family.posterior:
            raise UsageError(f"objective '{objective}' is for {', '.join(ANOMALY_DATASETS)}, not for {dataset}")
        _refuse_of_images(dataset, asked)
    _refuse_of_training(dataset, objective, settings)
    length = _steps(dataset, asked, settings)
    settings = {**recipe_settings(asked["recipe"], dataset, objective, length), **settings}
    network = _network(dataset, family.network, asked["network"])
    latents = LATENTS_OF.get(network, default.latent_dim) if asked["latent_dim"] is None else asked["latent_dim"]
    settings = {
        **settings,
        "augmentation": _augmentation(dataset, asked),
        **length,
        **weights_of(objective, settings, whole("latent_dim", latents, most=MOST_LATENTS), asked["layer"]),
    }
    chosen = TrainSettings.for_network(network, **settings)
    if family.gamma is not None and chosen.batch_size < 2:
        raise UsageError(f"objective '{objective}' shuffles latents over a batch: take a batch_size of 2 or more, not 1")
    root = None if root is None else Path(root).resolve()
    preparation = _preparation(dataset, root, network, asked) if dataset in ANOMALY_DATASETS else None
    fixed = asked["fixed_camera"]
    return RunConfig(
        dataset={
            "name": dataset,
            "root": None if root is None else str(root),
            "normal": _normal(dataset, asked["normal"]),
            "category": asked["category"],
            "held_out": default.held_out if asked["held_out"] is None else _share(asked["held_out"]),
            "seed": chosen.seed,
            "preparation": None if preparation is None else preparation.to_dict(),
        },
        network={
            "name": network,
            "input_shape": list(default.input_shape if preparation is None else preparation.image_shape),
            "latent_dim": int(latents),
        },
        training=chosen.to_dict(),
        explain={
            "layer": asked["layer"],
            "fixed_camera": default.fixed_camera if fixed is None else bool(fixed),
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
    from vaelens.training import TrainSettings

    config = RunConfig.load(out)
    preparation = config.dataset["preparation"] or {}
    there = {
        **TrainSettings.from_dict(config.training).to_dict(),
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
    steps_per_epoch = config.training.get("steps_per_epoch")
    given = {"data set": dataset, **asked, **settings}
    steps, recipe = given.pop("steps"), given.pop("recipe")
    if recipe is not None and not is_begun_with(recipe, config.training, given=settings):
        raise UsageError(f"the run in {shown(out)} was not begun with --recipe {recipe}: leave that out to go on with it")
    if steps_per_epoch is not None and "epochs" in settings:
        raise UsageError(f"the run in {shown(out)} is measured in steps: give --steps in place of --epochs")
    if steps is not None:
        given |= _more_steps(out, steps, steps_per_epoch)
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
        length = f"{there['epochs']} epochs; --epochs"
        if steps_per_epoch is not None:
            length = f"{there['epochs'] * steps_per_epoch} steps; --steps"
        raise UsageError(f"{shown(out)} was to train for {length} can only be raised on resuming")
    data = {**config.dataset, **({} if root is None else {"root": str(Path(root).resolve())})}
    return replace(config, dataset=data, training={**config.training, "epochs": epochs})


def weights_of(objective: str, settings: Mapping[str, Any], latents: int, layer: str | None) -> dict[str, Any]:
    """The weights of an objective's terms, and where its attention maps are compared.

    Args:
        objective: one of FAMILIES.
        settings: of the training, as far as they were asked for.
        latents: D.
        layer: asked for, None for the last feature map.

    Raises:
        UsageError: a weight that the objective does not have, or a single latent where several are compared.
    """
    family = FAMILIES[objective]
    if objective == "vae" and settings.get("kl_weight", 1) != 1:
        raise UsageError("objective 'vae' has a KL weight of 1; use objective 'beta' for another")
    attending = ("ad-beta", "ad-factor")
    correlating = ("factor", "ad-factor")
    having = {"gamma": correlating, "discriminator_learning_rate": correlating, "standardize_after": correlating}
    having |= {"pooled_until": correlating, "ad_weight": attending, "ad_pairs": attending, "ad_rectifier": attending}
    for name, objectives in having.items():
        if name in settings and objective not in objectives:
            raise UsageError(f"{name} is for objective {' or '.join(objectives)}, not for '{objective}'; leave it out")
    if latents < 2 and (family.gamma is not None or family.ad_weight is not None):
        raise UsageError(f"objective '{objective}' compares latents with each other: take --latents 2 or more, not {latents}")
    chosen = {name: settings.get(name, value) for name, value in family.settings.items()}
    return {**chosen, "ad_layer": None if family.ad_weight is None else layer}


def _steps(dataset: str, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The length of a run that is given in steps, as epochs of so many."""
    steps = asked["steps"]
    if dataset not in FACTOR_DATASETS:
        if steps is not None:
            raise UsageError(f"steps is for {', '.join(FACTOR_DATASETS)}, whose images are drawn; give {dataset} --epochs")
        return {}
    if "epochs" in settings:
        raise UsageError(f"images of {dataset} are drawn and not gone through: give --steps in place of --epochs")
    steps = DEFAULT_STEPS if steps is None else whole("steps", steps)
    at_once = min(steps, STEPS_PER_EPOCH)
    if steps % at_once:
        raise UsageError(
            f"steps above {STEPS_PER_EPOCH} come in thousands, got {steps}: take {steps // at_once * at_once} or "
            f"{(steps // at_once + 1) * at_once}"
        )
    return {"epochs": steps // at_once, "steps_per_epoch": at_once}


def _more_steps(out: Path, steps: int, steps_per_epoch: int | None) -> dict[str, Any]:
    """Steps on resuming, as epochs."""
    if steps_per_epoch is None:
        raise UsageError(f"the run in {shown(out)} is measured in epochs; leave --steps out")
    if whole("steps", steps) % steps_per_epoch:
        raise UsageError(
            f"the run in {shown(out)} goes on by {steps_per_epoch} steps at a time; give a multiple of it as --steps"
        )
    return {"epochs": steps // steps_per_epoch}


def _network(dataset: str, needed: str | None, asked: str | None) -> str:
    if asked is not None and asked not in NETWORKS:
        raise unknown("network", asked, NETWORKS)
    if needed is not None and asked not in (None, needed):
        raise UsageError(f"that objective takes network '{needed}', not '{asked}'; leave --network out")
    network = asked or needed or DEFAULTS[dataset].network
    if dataset not in ANOMALY_DATASETS and network != DEFAULTS[dataset].network:
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
    if dataset not in ANOMALY_DATASETS:
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


def _refuse_of_training(dataset: str, objective: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that follow from other options, and a patience where no held-out loss is measured."""
    for name, option in (("steps_per_epoch", "steps"), ("ad_layer", "layer")):
        if settings.get(name) is not None:
            raise UsageError(f"{name} follows from {option}; give that in its place")
    for name in ("rate_warmup_epochs", "rate_cooldown_epochs"):
        if settings.get(name) and not FAMILIES[objective].reconstructs:
            raise UsageError(f"the two networks of objective '{objective}' train at one rate; leave {name} out")
    for name in ("gather_after", "turn_after", "wake_after"):
        if settings.get(name) is not None and not FAMILIES[objective].posterior:
            raise UsageError(f"{name} is for latents with a posterior, and objective '{objective}' has none; leave it out")
    if settings.get("patience") is not None and (dataset in FACTOR_DATASETS or not FAMILIES[objective].reconstructs):
        what = dataset if dataset in FACTOR_DATASETS else f"objective '{objective}'"
        raise UsageError(f"patience watches the loss on held-out images, and {what} has none; leave it out")


def _refuse_of_images(dataset: str, asked: Mapping[str, Any]) -> None:
    """Refuse what only data sets for anomaly localization take, and of sprites what takes a normal image."""
    if dataset in FACTOR_DATASETS:
        for name in ("held_out", "localizer"):
            if asked[name] is not None:
                raise UsageError(f"{dataset} has no normal images, so {name} means nothing; leave it out")
    for name in _OF_IMAGES:
        if asked[name] is not None and not (name == "augmentation" and asked[name] in ("auto", "none")):
            raise UsageError(f"{name} is for {', '.join(ANOMALY_DATASETS)}, not for {dataset}; leave it out")
