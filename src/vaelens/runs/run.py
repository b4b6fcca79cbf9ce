"""A run: a folder that holds a trained model and all that is needed to explain and score images with it.

    config.yaml               data set, network, training and how to explain
    model.safetensors         the weights
    calibration.safetensors   normal images to compare with, their posteriors, the scores of held-out normal images
    localizers/               what further localizers have learned, and their scores of held-out images
    metrics.json              what training came to; written last, so a run that has it is complete
    checkpoints/ logs/        of training

Loading a run reads YAML and safetensors: nothing in it is ever unpickled or executed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaelens.attention import LatentAttention, PosteriorMaps
from vaelens.data.files import shown
from vaelens.data.preparation import Preparation
from vaelens.errors import RunError, UsageError
from vaelens.localizers import Calibration, Localizer, check_false_alarms
from vaelens.models import ConvVAE
from vaelens.objectives.elbo import kl_per_latent
from vaelens.output import OutputError
from vaelens.runs.config import CONFIG, RunConfig, first_line
from vaelens.runs.data import preparation_of
from vaelens.runs.folder import read_calibration, read_metrics, read_model
from vaelens.runs.localizers import keep, read_kept, restored
from vaelens.runs.objective import family_of, main_localizer_of
from vaelens.runs.pretrained import PretrainedRun
from vaelens.runs.results import FIRED_NATS, FIRED_Z, Explanation, Verdict

if TYPE_CHECKING:
    from vaelens.runs.traversal import Traversal

FALSE_ALARMS = 0.05
_HELD = 4  # localizers in memory at once: each may hold the feature maps of all normal images


class Run(PretrainedRun):
    """A trained model with its normal images, loaded from its folder by `load_run`.

    Attributes:
        path: the folder.
        config: what was trained on what.
        model: the network, in eval mode.
        metrics: what training came to.
        device: where the network is.
        fitting: called with a localizer's name, work done and work in all, where fitting takes minutes; None: nobody is told.
    """

    def __init__(
        self, path: Path, config: RunConfig, model: ConvVAE, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.config = config
        self.model = model
        self.metrics = metrics
        self._tensors = tensors
        self._localizers: dict[str, Localizer] = {}
        self._calibrations: dict[str, Calibration] = {}
        self.device = torch.device("cpu")
        self.fitting: Callable[[str, int, int], None] | None = None

    def to(self, device: torch.device | str) -> Run:
        """Have the network and its localizers work on another device; what a run takes and gives stays in main memory."""
        self.device = torch.device(device)
        self.model.to(self.device)
        self._localizers.clear()
        self.__dict__.pop("attention", None)
        return self

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it takes."""
        return self.model.input_shape

    @property
    def normal_images(self) -> Tensor:
        """Normal images to compare with (N, C, H, W), uint8; of the training set."""
        return self._tensors["normal.images"]

    @property
    def held_out_images(self) -> Tensor:
        """Normal images (M, C, H, W), uint8, that training never saw: what thresholds come from."""
        return self._tensors["held_out.images"]

    @property
    def has_posterior(self) -> bool:
        """Whether the encoder has a posterior, whose latents can be explained."""
        return family_of(self.config).posterior

    @property
    def reconstructs(self) -> bool:
        """Whether the model has an encoder and a decoder."""
        return family_of(self.config).reconstructs

    @property
    def preparation(self) -> Preparation | None:
        """How an image file becomes what the network sees; None where files must be as they should."""
        return preparation_of(self.config)

    @property
    def main_localizer(self) -> str:
        """The localizer that scores where none is named."""
        return main_localizer_of(self.config)

    def visible(self, images: Tensor) -> Tensor:
        """What a person is shown of images (B, C, H, W): of several frames as channels the one in the middle, else all."""
        frames = 1 if self.preparation is None else self.preparation.frames
        return images if frames == 1 else images[:, frames // 2 : frames // 2 + 1]

    @property
    def active(self) -> Tensor:
        """(D,), bool: latents with more than 0.05 nats in the mean over held-out normal images; empty without a posterior."""
        if not self.has_posterior:
            return torch.zeros(0, dtype=torch.bool)
        return kl_per_latent(self._tensors["held_out.mean"], self._tensors["held_out.logvar"]).mean(0) > FIRED_NATS

    @property
    def caution(self) -> str:
        """What the promise of a rate of false alarms does not cover, in one sentence; empty where it covers new images."""
        clips = int(self.metrics.get("held_out_clips", 0))
        if not clips:
            return ""
        of = "one clip" if clips == 1 else f"{clips} clips"
        return (
            f"The held-out images are frames of {of}, so what is promised of false alarms holds for frames of such clips; of a "
            "clip that differs from them more may be flagged."
        )

    def too_few(self, false_alarms: float = FALSE_ALARMS) -> str:
        """Why nothing can be flagged at this rate of false alarms, in one sentence; empty where something can."""
        held_out = len(self.held_out_images)
        least = 1 / (held_out + 1)
        if check_false_alarms(false_alarms) >= least:
            return ""
        allowed = math.ceil(1e4 * least) / 1e4  # rounded up, so that it can be asked for as it is said
        return (
            f"At {100 * false_alarms:.4g} % of false alarms nothing can be flagged: with {held_out} images held out the least "
            f"is {100 * allowed:.4g} %. Allow more, or hold out more images in training."
        )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What `calibration.safetensors` holds, by name."""
        return self._tensors

    def shareable(self) -> RunConfig:
        """The configuration without the path of the data set's files, which is this machine's."""
        return replace(self.config, dataset={**self.config.dataset, "root": None})

    def settings(self) -> dict[str, Any]:
        """How the run was made, for reports: no path of this machine among it."""
        dataset = {k: v for k, v in self.config.dataset.items() if k != "root"}
        return {
            "data set": dataset,
            "network": dict(self.config.network),
            "objective": self.config.objective,
            "training": dict(self.config.training),
            "layer": self.attention.layer if self.has_posterior else None,
            "vaelens": self.config.vaelens,
        }

    @cached_property
    def attention(self) -> LatentAttention:
        """The attention of all latents at the run's layer."""
        return self.attend()

    def attend(self, layer: str | None = None, **options: Any) -> LatentAttention:
        """An attention of this run's model with other options (see `LatentAttention`); `layer` None for the run's own.

        Raises:
            UsageError: the run's model has no posterior to explain, or the map of a layer asked for has one pixel.
        """
        if not self.has_posterior:
            raise UsageError(f"a run of objective '{self.config.objective}' has no latents to explain; train a VAE for that")
        attention = LatentAttention(self.model, self.config.explain["layer"] if layer is None else layer, **options)
        if layer is not None:
            attention.plan.check_places()
        return attention

    def explain(self, images: Tensor, attention: LatentAttention | None = None) -> Explanation:
        """Every latent's map for `images` (B, C, H, W), float in [0, 1], and which latents fired.

        Args:
            images: of `input_shape`; or one of them, (C, H, W), which becomes a batch of one.
            attention: of this run's model, for another layer, variant or method; None for the run's own.

        Raises:
            UsageError: images of another shape or type.
        """
        images = _batch(images)
        with torch.no_grad():
            maps = (attention or self.attention)(images.to(self.device)).cpu()
        fired = self.fired(maps.mean, maps.logvar)
        return Explanation(maps, self.z_scores(maps.mean), fired, self.active, self.visible(images))

    def posterior(
        self, images: Tensor, attention: LatentAttention | None = None, localizer: str | None = None
    ) -> PosteriorMaps:
        """The distribution over the posterior of every latent's map, or of a localizer's, exactly.

        Args:
            images: (B, C, H, W), float in [0, 1], or one of them (C, H, W).
            attention: of this run's model, for another layer or some latents; None for the run's own.
            localizer: one of `vaelens.localizers.LOCALIZERS`, with options if need be, in place of the latents' own maps.

        Raises:
            UsageError: images of another shape or type, an attention of a variant, or a localizer, whose maps have no such
                distribution, or both an attention and a localizer.
        """
        images = _batch(images)
        if localizer is not None:
            if attention is not None:
                raise UsageError("a localizer has an attention of its own; give one or the other")
            return self.localizer(localizer).posterior(images)
        with torch.no_grad():
            return (attention or self.attention).posterior(images.to(self.device)).cpu()

    def fired(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """Posteriors (B, D) -> bool (B, D): the latents that are far from normal and tell something about their image."""
        return (self.z_scores(mean).abs() >= FIRED_Z) & (kl_per_latent(mean, logvar) > FIRED_NATS)

    def z_scores(self, mean: Tensor) -> Tensor:
        """Posterior means (B, D) -> their distance from the held-out normal images', in standard deviations (B, D)."""
        normal = self._tensors["held_out.mean"]
        return (mean - normal.mean(0)) / normal.std(0).clamp_min(1e-6)

    def localize(self, images: Tensor, localizer: str | None = None, false_alarms: float = FALSE_ALARMS) -> Verdict:
        """Whether `images` (B, C, H, W), float in [0, 1], are normal, and where they are not.

        Args:
            images: of `input_shape`; or one of them, (C, H, W), which becomes a batch of one.
            localizer: one of `vaelens.localizers.LOCALIZERS`, with options if need be, such as "matching:neighbours=5"; None
                for the run's main one.
            false_alarms: share of normal images that may be flagged.

        Raises:
            UsageError: an unknown localizer, a rate outside (0, 1), or images of another shape or type.
        """
        images = _batch(images)
        check_false_alarms(false_alarms)
        localizer = localizer or self.main_localizer
        result = self.localizer(localizer).localize(images)
        calibration = self.calibration(localizer)
        p_value = calibration.p_values(result.score)
        pixel_threshold = calibration.pixel_threshold(false_alarms)
        return Verdict(
            maps=result.maps,
            score=result.score,
            p_value=p_value,
            flagged=p_value <= false_alarms,
            masks=result.maps > pixel_threshold,
            score_threshold=calibration.score_threshold(false_alarms),
            pixel_threshold=pixel_threshold,
            localizer=localizer,
            posterior=result.posterior,
            images=self.visible(images),
            false_alarms=false_alarms,
        )

    def localizer(self, spec: str) -> Localizer:
        """A localizer, fitted on the run's normal images; the latest few are kept in memory.

        Args:
            spec: its name, with options if need be, such as "matching:neighbours=5" (see `vaelens.localizers.spec`).

        Raises:
            UsageError: an unknown localizer or option, or one that the run's kind of model does not allow.
        """
        found = self._localizers.pop(spec, None)
        if found is None:
            told = None if self.fitting is None else partial(self.fitting, spec)
            found = restored(self.path, spec, self.model, self.config, self.normal_images, self.device, told)
        self._localizers[spec] = found  # the latest, behind all others
        for oldest in list(self._localizers)[:-_HELD]:
            del self._localizers[oldest]
        return found

    def calibration(self, spec: str) -> Calibration:
        """The scores of held-out normal images under a localizer; measured, and kept in the run's folder, where they are not.

        Raises:
            UsageError: see `localizer`.
        """
        if f"score.{spec}" in self._tensors:
            return Calibration(self._tensors[f"score.{spec}"], self._tensors[f"peak.{spec}"])
        if spec not in self._calibrations:
            kept = read_kept(self.path, spec)
            if len(kept.get("score", ())) == len(self.held_out_images):
                self._calibrations[spec] = Calibration(kept["score"], kept["peak"])
            else:
                localizer = self.localizer(spec)
                self._calibrations[spec] = Calibration.measure(localizer, self.held_out_images)
                with suppress(OutputError):  # a run that cannot be written to is measured anew each time
                    keep(self.path, spec, localizer, self._calibrations[spec])
        return self._calibrations[spec]

    def reconstruct(self, images: Tensor, mean: Tensor | None = None) -> Tensor:
        """The decoder's image of the posterior mean: (B, C, H, W) -> (B, C, H, W), values in [0, 1].

        Args:
            images: float in [0, 1]; or one of them, (C, H, W), which becomes a batch of one.
            mean: (B, D), their posterior means, where they are known; None: encode the images.
        """
        images = _batch(images)
        if not self.reconstructs:
            raise UsageError("a run of objective 'anogan' reconstructs nothing: its network has no encoder")
        with torch.no_grad():
            mean = self.model.encode(images.to(self.device))[0] if mean is None else mean.to(self.device)
            return self.model.decode(mean).cpu()

    def traverse(
        self,
        image: Tensor,
        latents: int | str | Sequence[int] | None = None,
        span: float | tuple[float, float] = 2.0,
        steps: int = 9,
        attention: LatentAttention | None = None,
    ) -> Traversal:
        """What changes in an image as one latent after another moves, beside where in it each looks.

        Args:
            image: (C, H, W), or a batch of one, float in [0, 1].
            latents: which, or "top3" for the three of highest response; None: the active ones that carry most about the image,
                eight at most.
            span: how far a latent moves from 0, to both sides, or from where to where; the prior's standard deviation is 1.
            steps: values that it takes on the way.
            attention: of this run's model, for another layer, variant or method; its own latents give way to `latents`.

        Raises:
            UsageError: a run without latents or a decoder, more than one image, a span that is none, or fewer than 2 steps.
        """
        from vaelens.runs.traversal import traversal_of

        return traversal_of(self, _batch(image), latents, span, steps, attention)

    @classmethod
    def _opened(cls, folder: str, device: torch.device | str) -> Run:
        return load_run(folder, device)

    def _repr_html_(self) -> str:
        from vaelens.runs.drawing import html_of_run

        return html_of_run(self)


def load_run(path: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load a run from its folder.

    Args:
        path: the folder.
        device: where the network is to work, such as "cuda".

    Raises:
        RunError: the folder is missing, incomplete, damaged or from another version; the message says what to do.
    """
    folder = Path(path)
    config = RunConfig.load(folder)
    metrics = read_metrics(folder, config)
    model = read_model(folder, config)
    run = Run(folder, config, model, read_calibration(folder, model, config), metrics)
    try:
        if run.has_posterior:
            run.attention  # noqa: B018 - finds the layer
    except UsageError as error:
        raise RunError(f"{shown(folder / CONFIG)} is damaged: {first_line(error)}; train the run again") from error
    return run if torch.device(device) == run.device else run.to(device)


def _batch(images: Tensor) -> Tensor:
    """Images (B, C, H, W), checked; one image (C, H, W) as a batch of one."""
    _check_floats(images)
    return images[None] if images.ndim == 3 else images


def _check_floats(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.layout != torch.strided or images.is_meta:
        raise UsageError(f"images are a dense tensor (B, C, H, W) in memory, got {type(images).__name__}")
    if images.dtype != torch.float32:
        raise UsageError(f"images are float32 in [0, 1], got {images.dtype}; vaelens.data.images.to_float makes bytes such")
    if not len(images):
        raise UsageError(f"images are a batch (B, C, H, W) of at least one, got {tuple(images.shape)}")
    least, most = float(images.min()), float(images.max())
    if not (least >= 0 and most <= 1):  # NaN is neither
        raise UsageError(f"images are float32 in [0, 1], got values from {least:g} to {most:g}")
