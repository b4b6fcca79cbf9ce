"""What a training run is asked to do. Imports no torch: the command line reads it to print its help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from types import MappingProxyType
from typing import Any

from vaelens.errors import UsageError, unknown, whole

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "likelihood": ("bernoulli", "gaussian", "optimal-gaussian"),
        "precision": ("auto", "32", "bf16"),
        "logger": ("csv", "tensorboard", "both"),
        "accelerator": ("auto", "cpu", "cuda", "mps"),
        "ad_pairs": ("random", "top2", "all"),
        "ad_rectifier": ("relu", "abs"),
    }
)

DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Supplementary Table 1 and its text: Adam, 1e-3, batches of 128, 100 epochs. The warm-up is ours.
        "mnist": MappingProxyType({"epochs": 100, "batch_size": 128, "learning_rate": 1e-3}),
        # The paper prints none of these. Frames differ too little for the Bernoulli likelihood: with it, 14 of 32 latents are
        # active after 6 epochs, and ever fewer. After 8 the training loss goes on falling, the held-out loss does not.
        "ucsd": MappingProxyType({"epochs": 8, "batch_size": 32, "learning_rate": 1e-3, "likelihood": "optimal-gaussian"}),
        # The paper prints none of these.
        "mvtec": MappingProxyType({"epochs": 200, "batch_size": 32, "learning_rate": 1e-4}),
        # The paper prints none of these; FactorVAE, whose network this is, prints Adam, 1e-4, batches of 64 and 300,000
        # steps, which are 26 epochs of the 737,280 images, and no warm-up.
        "dsprites": MappingProxyType({"epochs": 26, "batch_size": 64, "learning_rate": 1e-4, "warmup_epochs": 0.0}),
        # Ours: 288 screws make nine batches an epoch, and 1,500 steps are enough.
        "compact": MappingProxyType({"epochs": 200, "batch_size": 32, "learning_rate": 5e-4}),
        # Bergmann et al. 2018 print all but the batch size.
        "ae": MappingProxyType({"epochs": 200, "batch_size": 32, "learning_rate": 2e-4, "weight_decay": 1e-5}),
        # DCGAN prints Adam's rate; AnoGAN trains for 20 epochs of a million patches, which small sets need more for.
        "dcgan": MappingProxyType({"epochs": 200, "batch_size": 32, "learning_rate": 2e-4}),
    }
)
"""Per network what its paper prints, and sensible values where it is silent; the comments say which is which."""

GAMMA = 40.0
"""Weight of the total correlation where none is asked for: that of the figures which others report on dSprites."""

STEPS_PER_EPOCH = 1000
"""Steps that count as an epoch of drawn images where nothing else is said: after them comes a row of figures, a checkpoint."""

_MOST, _MOST_SEED = 10**9, 2**63 - 1
_NUMBERS = ("learning_rate", "rate_warmup_epochs", "rate_cooldown_epochs", "weight_decay", "kl_weight", "kl_start")
_NUMBERS_OR_NONE = (
    *("gather_after", "turn_after", "wake_after", "gamma", "discriminator_learning_rate", "standardize_after", "pooled_until"),
    "ad_weight",
)

WARMUP_SHARE = 0.1
"""Share of the epochs over which the KL weight rises where `warmup_epochs` is not given."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run, checked on construction.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: of Adam.
        rate_warmup_epochs: epochs, or a fraction of one, over which the model's learning rate rises from 0; that of a
            discriminator does not. Under a high KL weight Adam's first steps otherwise leave many units that no image turns on.
        rate_cooldown_epochs: epochs, the last ones, or a fraction of one, over which the model's learning rate falls to 0 in a
            line; that of a discriminator does not. Of a run that is raised in length, the last ones then.
        weight_decay: of Adam: this times each weight is added to its gradient.
        augmentation: what is done to the training images at random, as `vaelens.data.augment.parse` reads it, such as
            "rotate30,mirror"; "none" for nothing.
        likelihood: of the reconstruction, "bernoulli", "gaussian" (unit variance) or "optimal-gaussian" (the variance that
            makes each batch likeliest).
        kl_weight: weight of the KL divergence after the warm-up; beta of the beta-VAE.
        kl_start: the KL weight at the first step. From 0, or to a `kl_weight` of 0, it goes in a line; else by the same factor
            a step. It may fall: then the latents that are worth most open first, one by one.
        warmup_epochs: epochs, or a fraction of one, over which the KL weight goes from `kl_start` to `kl_weight`. None stands
            for a tenth of `epochs` and is replaced by that number here, so that raising `epochs` later leaves the warm-up as it
            was.
        gather_after: epochs after which the latents are turned to the principal axes of their means, and those that are weak
            closed, see `vaelens.training.turning`; None: never.
        turn_after: epochs after which the open latents are turned to the axes that are independent, see
            `vaelens.training.turning`; None: never.
        wake_after: epochs after which latents that are closed, and units that no image turns on, get fresh weights. They train
            without gamma for 1.5 epochs, and over 2 more their KL weight falls from 50 times what it was. What is closed then
            is woken once more, and falls from 5 times. None: never.
        seed: of the order of the images, the posterior's noise and any dropout. The model's first weights are the
            caller's business.
        patience: stop when the held-out loss has not fallen for this many epochs after the warm-up; None: never.
        precision: "32", "bf16" (autocast), or "auto": bf16 where the processor computes in it, else 32.
        logger: "csv" writes `logs/metrics.csv`; "tensorboard" and "both" write TensorBoard's event files beside it.
        accelerator: "cpu", "cuda", "mps", or "auto", the best there is.
        checkpoint_every: epochs between two checkpoints; the last epoch always gets one.
        steps_per_epoch: steps that make an epoch where images are drawn at random, as those of dSprites are; None: 1,000
            there, and elsewhere an epoch takes every image once.
        gamma: weight of the total correlation, for FactorVAE; None where its penalty is not there.
        discriminator_learning_rate: of the Adam of FactorVAE's discriminator; None: `learning_rate`.
        standardize_after: epochs after which FactorVAE's discriminator judges standardized codes, each latent of mean 0 and
            variance 1 over the batch: they have the same total correlation, and cannot escape it by shrinking; None: never.
        pooled_until: epochs for which a smaller discriminator stands in for FactorVAE's, which begins after them: it learns
            from the codes of the last 4,096 images and sees the total correlation while latents are taken; None: none does.
        ad_weight: weight lambda of the attention disentanglement loss (eq. 5); None where that is not there.
        ad_pairs: which pairs of latents it compares: "random", "top2" or "all".
        ad_rectifier: what makes a signed map a map there: "relu" (eq. 2) or "abs", with which maps cannot part by vanishing.
        ad_layer: the layer whose attention maps it compares; None: the last feature map.

    Raises:
        UsageError: a setting of the wrong type or outside its range.
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    rate_warmup_epochs: float = 0.0
    rate_cooldown_epochs: float = 0.0
    weight_decay: float = 0.0
    augmentation: str = "none"
    likelihood: str = "bernoulli"
    kl_weight: float = 1.0
    kl_start: float = 0.0
    warmup_epochs: float | None = None
    gather_after: float | None = None
    turn_after: float | None = None
    wake_after: float | None = None
    seed: int = 0
    patience: int | None = None
    precision: str = "auto"
    logger: str = "csv"
    accelerator: str = "auto"
    checkpoint_every: int = 1
    steps_per_epoch: int | None = None
    gamma: float | None = None
    discriminator_learning_rate: float | None = None
    standardize_after: float | None = None
    pooled_until: float | None = None
    ad_weight: float | None = None
    ad_pairs: str = "all"
    ad_rectifier: str = "relu"
    ad_layer: str | None = None

    def __post_init__(self) -> None:
        # YAML takes Python's own numbers alone.
        for name in ("epochs", "batch_size", "checkpoint_every"):
            object.__setattr__(self, name, whole(name, getattr(self, name), most=_MOST))
        object.__setattr__(self, "seed", whole("seed", self.seed, least=0, most=_MOST_SEED))
        for name in ("patience", "steps_per_epoch"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), most=_MOST))
        for name in _NUMBERS:
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in _NUMBERS_OR_NONE:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in ("learning_rate", "discriminator_learning_rate"):
            if getattr(self, name) == 0:
                raise UsageError(f"{name} must be above 0, got 0")
        if not (self.ad_layer is None or isinstance(self.ad_layer, str)):
            raise UsageError(f"ad_layer is the dotted name of a module, got {self.ad_layer!r}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        if self.augmentation == "auto" or not isinstance(self.augmentation, str):
            raise UsageError(f"augmentation is a text such as 'rotate30,mirror' or 'none', got {self.augmentation!r}")
        if self.warmup_epochs is None:
            object.__setattr__(self, "warmup_epochs", self.epochs * WARMUP_SHARE)
        object.__setattr__(self, "warmup_epochs", _number("warmup_epochs", self.warmup_epochs))
        if self.warmup > self.epochs:
            raise UsageError(
                f"warmup_epochs must be at most epochs, got {self.warmup_epochs} and {self.epochs}: "
                "the KL weight would never reach its value"
            )
        if self.rate_cooldown_epochs > self.epochs:
            raise UsageError(f"rate_cooldown_epochs must be at most epochs, {self.epochs}, got {self.rate_cooldown_epochs:g}")
        for name in ("gather_after", "turn_after", "wake_after"):
            after = getattr(self, name)
            if after is not None and not 0 < after < self.epochs:
                raise UsageError(f"{name} must be above 0 and below epochs, {self.epochs}, got {after:g}")
        if self.kl_start and not self.warmup:
            raise UsageError(
                f"the KL weight leaves kl_start, {self.kl_start:g}, during the warm-up: give warmup_epochs above 0"
            )

    @property
    def warmup(self) -> float:
        """`warmup_epochs`, which is a number from construction on."""
        assert self.warmup_epochs is not None
        return self.warmup_epochs

    def warmup_steps(self, batches_per_epoch: int) -> int:
        """Steps over which the KL weight changes, at this many batches per epoch."""
        return round(self.warmup * batches_per_epoch)

    @classmethod
    def for_network(cls, network: str, **changes: Any) -> TrainSettings:
        """The defaults of a network ("mnist", "ucsd", "mvtec", "dsprites", "ae" or "dcgan"), with `changes` on top.

        Raises:
            UsageError: an unknown network or setting, or a value that cannot be used.
        """
        if network not in DEFAULTS:
            raise unknown("network", network, DEFAULTS)
        return cls.from_dict({**DEFAULTS[network], **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """The settings that `to_dict` gave; those not named take their defaults.

        Raises:
            UsageError: an unknown setting, or a value that cannot be used.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise unknown("training setting", name, names)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain numbers, strings and None, for YAML."""
        return asdict(self)


def steps_of(training: Mapping[str, Any]) -> int:
    """Steps of training on drawn images, from the settings' `epochs` and `steps_per_epoch`."""
    return int(training["epochs"] * training["steps_per_epoch"])


def _number(name: str, value: Any) -> float:
    """A number of whatever type, NumPy's among them, as YAML and checkpoints take it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{name} must be a number from 0 on, got {value!r}")
    number: Any = value
    return number if isinstance(number, int) else float(number)
