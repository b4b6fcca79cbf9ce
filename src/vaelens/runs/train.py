"""The main job: data set -> model of its normal images -> calibrated run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaelens.data.anomaly import AnomalySplit
from vaelens.data.factors import FactorSplit
from vaelens.errors import UsageError
from vaelens.localizers import Calibration
from vaelens.localizers.attention import codes
from vaelens.models import LAYOUT, ConvVAE, build
from vaelens.runs.config import RunConfig
from vaelens.runs.data import Split, load_split
from vaelens.runs.folder import METRICS, alone, check_place, clear, read_metrics, save_run
from vaelens.runs.localizers import build as build_localizer
from vaelens.runs.localizers import fitted, in_lines
from vaelens.runs.new import configured, resumed
from vaelens.runs.objective import family_of, localizers_of, main_localizer_of
from vaelens.runs.run import Run, load_run

if TYPE_CHECKING:
    from vaelens.data.download import Progress
    from vaelens.training import TrainSettings
    from vaelens.training.result import FitResult

SPRITES = 512  # of a data set with known factors, kept twice over: enough for the mean and spread of each latent
REFERENCES = 8192  # normal images that a run keeps to compare with, and held-out ones; more add little and cost memory


def train_run(
    out: str | Path,
    dataset: str,
    *,
    normal: int | None = None,
    root: Path | None = None,
    category: str | None = None,
    held_out: float | None = None,
    size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    brightness: bool | None = None,
    fixed_camera: bool | None = None,
    network: str | None = None,
    latent_dim: int | None = None,
    layer: str | None = None,
    localizer: str | None = None,
    objective: str | None = None,
    augmentation: str | None = None,
    steps: int | None = None,
    recipe: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    downloading: Progress | None = None,
    notice: Callable[[str], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a model on the normal images of a data set, calibrate it on held-out ones and save the run.

    Where the factors of images are known, as those of dSprites are, all images are trained on and nothing is calibrated.

    Args:
        out: folder of the run.
        dataset: "digits" or "mnist", of whose classes one is normal; "ucsd-ped1", "ucsd-ped2", "mvtec" or "folder"; "dsprites".
        normal: label of the normal class, for data sets of classes; None: 1.
        root: folder of the data set's files; None: embedded, or the cache with a download into it.
        category: of "mvtec", such as "screw"; of "folder", a folder in the root.
        held_out: share of the normal training images kept for calibration; None: the data set's default.
        size: (height, width) in pixels, or one number for both; None: what suits data set and network.
        frames: of a video, neighbouring frames as channels: 3, or 1 for each by itself, which None is.
        brightness: even out each image's brightness and contrast; None: the data set's default.
        fixed_camera: whether every place shows the same thing in all images; None: for the UCSD videos.
        network: one of `vaelens.models.NETWORKS`; None: the objective's, or what suits the data set.
        latent_dim: number of latents D; None: 32, of dSprites 10, 100 without a posterior.
        layer: dotted name of the layer to explain, and whose maps are kept apart; None for the last feature map.
        localizer: which scores where none is named, with options if need be, such as "learned:pool=2000:steps=2000"; None:
            "learned", of data sets of classes "deviation", without a posterior the objective's own.
        objective: "vae"; "beta", a VAE whose `kl_weight` is beta; "factor", FactorVAE, whose `gamma` weighs the total
            correlation; "ad-beta" and "ad-factor", these with the attention disentanglement loss, weighted by `ad_weight`;
            "ae" or "ae-ssim", an autoencoder; "anogan", a generative adversarial network; None: "vae".
        augmentation: what is done to training images at random, as `vaelens.data.augment.parse` reads it; None: "auto".
        steps: of dSprites, how many to train for: at most 1,000, or thousands; None: 300,000.
        recipe: of "factor" and "ad-factor" on dSprites: "published", the settings of FactorVAE's authors, as None has them; or
            "paced", ours for thousands of steps: a learning rate that rises to 6e-4, a KL weight that falls from 200 to 1, and
            to begin with a discriminator of many batches' codes. A setting that is given comes before the recipe's.
        resume: go on with a run that was stopped. What is not given is as in its folder; what is given must agree with
            it, but for `epochs` or `steps`, which may be raised, and `root`, which may have moved.
        overwrite: replace a run that is there.
        progress: show the progress on stderr.
        downloading: called during a download, see `data.download`.
        notice: called with lines for people, such as a licence or a damaged file that is left out.
        settings: of `vaelens.training.TrainSettings`, over the network's defaults.

    Raises:
        UsageError: a setting that cannot be used, a folder that is not free, an unknown data set, class or layer.
        DataError, RunError, TrainingError, TrainingInterrupted: see `load_one_class`, `load_run` and `fit`.
    """
    from vaelens.training import TrainSettings
    from vaelens.training.device import pick_accelerator, pick_precision
    from vaelens.training.waking import WAKING

    out = Path(out)
    given = {name: value for name, value in settings.items() if value is not None}
    asked = {
        "normal": normal,
        "category": category,
        "held_out": held_out,
        "size": size,
        "frames": frames,
        "brightness": brightness,
        "fixed_camera": fixed_camera,
        "network": network,
        "latent_dim": latent_dim,
        "layer": layer,
        "localizer": localizer,
        "objective": objective,
        "augmentation": augmentation,
        "steps": steps,
        "recipe": recipe,
    }
    if resume:
        config = resumed(out, dataset, root, asked, given)
        if (out / METRICS).is_file() and not _more_epochs(out, config):
            return load_run(out)
    else:
        config = configured(dataset, root, asked, given)
    # All that can be refused is refused before anything is written.
    training = TrainSettings.from_dict(config.training)
    if notice is not None and training.wake_after is not None and training.wake_after + WAKING > training.epochs:
        notice(f"latents are woken, and the run ends before they are in place again, {WAKING:g} epochs after wake_after")
    pick_precision(training.precision, pick_accelerator(training.accelerator))
    if not resume:
        check_place(out, overwrite)
    split = load_split(config, downloading=downloading, notice=notice)
    _check_counts(split)
    model = _initial_model(config, training.seed)
    check_layer(config, model)
    if not config.of_factors:
        build_localizer(main_localizer_of(config), model, config)  # its options
    with alone(out):
        if not resume:
            clear(out, overwrite)
        config.save(out)
        run = _train(out, config, split, model, training, resume, progress)
    # Those of `localizers_of` are calibrated by now.
    if not config.of_factors and run.main_localizer not in localizers_of(config):
        if notice is not None and progress:
            run.fitting = in_lines(notice)
        run.calibration(run.main_localizer)  # so that scoring need not; stopped here, the first scoring does it
    return run


def calibrate(model: ConvVAE, config: RunConfig, train: Tensor, held_out: Tensor) -> dict[str, Tensor]:
    """What a run keeps of its normal images.

    Args:
        model: the trained network, in eval mode.
        config: of the run.
        train: normal training images (N, C, H, W), uint8; at most 8,192 are kept, chosen by the run's seed.
        held_out: normal images (M, C, H, W), uint8, that the training never saw; likewise.
    """
    device = next(model.parameters()).device
    kept, held_out = _some(train, config), _some(held_out, config)
    tensors = {"normal.images": kept, "held_out.images": held_out}
    if family_of(config).posterior:
        tensors["held_out.mean"], tensors["held_out.logvar"] = (code.cpu() for code in codes(model, held_out))
    for name in localizers_of(config):
        measured = Calibration.measure(fitted(name, model, config, kept, device), held_out)
        tensors[f"score.{name}"] = measured.scores
        tensors[f"peak.{name}"] = measured.peaks
    return tensors


def _some(images: Tensor, config: RunConfig) -> Tensor:
    order = torch.randperm(len(images), generator=torch.Generator("cpu").manual_seed(config.dataset["seed"]), device="cpu")
    return images[order[:REFERENCES].sort().values]


def _train(
    out: Path, config: RunConfig, split: Split, model: ConvVAE, settings: TrainSettings, resume: bool, progress: bool
) -> Run:
    from vaelens.training.device import pick_device
    from vaelens.training.fit import fit

    device = pick_device(settings.accelerator)
    started = time.monotonic()
    module = family_of(config).module
    held_out = None if isinstance(split, FactorSplit) else split.calibration
    result = fit(model, split.train, held_out, settings, out, resume=resume, progress=progress, module=module)
    model.to(device).to(memory_format=LAYOUT)  # type: ignore[call-overload] # as in the run that is loaded
    tensors = calibrate(model, config, *_to_keep(split, settings.seed))
    model.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    save_run(out, model, tensors, _metrics(result, split, time.monotonic() - started))
    return load_run(out, device)


def _to_keep(split: Split, seed: int) -> tuple[Tensor, Tensor]:
    """Images of a split, (N, C, H, W) and (M, C, H, W), uint8, that its run is to keep: to compare with, and held-out ones."""
    if not isinstance(split, FactorSplit):
        return split.train.images, split.calibration.images
    drawn = split.train.take(split.train.draw(2 * SPRITES, torch.Generator("cpu").manual_seed(seed)))
    images = (255 * drawn).round().to(torch.uint8).cpu()
    return images[:SPRITES], images[SPRITES:]


def _metrics(result: FitResult, split: Split, seconds: float) -> dict[str, Any]:
    last = result.history[-1]
    return {
        "images": split.counts,
        "held_out_clips": split.held_out_clips if isinstance(split, AnomalySplit) else 0,
        "epochs": result.epochs,
        "stopped_early": result.stopped_early,
        "seconds": round(seconds, 1),
        "losses": {name: last[name] for name in last if name.startswith(("train/", "val/"))},
        "active_latents": sum(result.active) if result.mean_kl else 0,
        "mean_kl": list(result.mean_kl),
    }


def _initial_model(config: RunConfig, seed: int) -> ConvVAE:
    """The network with weights drawn from `seed`, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config.network["name"], config.network["latent_dim"], config.network["input_shape"])


def check_layer(config: RunConfig, model: ConvVAE | None = None) -> None:
    """Refuse a layer that gives no maps, or none that could be kept apart where they are to be.

    Args:
        config: of a run.
        model: its network; None: one is built, where there is a layer to look at.

    Raises:
        UsageError: names the layer, and those that there are.
    """
    from vaelens.training import TrainSettings

    training = TrainSettings.from_dict(config.training)
    if config.explain["layer"] is None and training.ad_weight is None:
        return
    model = _initial_model(config, training.seed) if model is None else model
    if training.ad_weight is not None:
        from vaelens.training.overlap import Overlap

        Overlap(model, training, torch.zeros(1, *model.input_shape))
    else:
        from vaelens.attention import LatentAttention

        LatentAttention(model, config.explain["layer"]).plan.check_places()


def _check_counts(split: Split) -> None:
    """Refuse a split whose spreads cannot be measured."""
    if isinstance(split, FactorSplit):
        return
    for what, images in (("to train on", split.train), ("held out", split.calibration)):
        if len(images) < 2:
            raise UsageError(
                f"{len(images)} normal image of {split.dataset} is {what}, which takes at least 2; change --held-out"
            )


def _more_epochs(out: Path, config: RunConfig) -> bool:
    done = read_metrics(out, config)
    return not done["stopped_early"] and int(done["epochs"]) < int(config.training["epochs"])
