"""What an objective of training brings with it: its network, its Lightning module and the localizers that stand for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vaelens.errors import UsageError
from vaelens.training.settings import GAMMA

if TYPE_CHECKING:
    from torch import nn

    from vaelens.runs.config import RunConfig
    from vaelens.training import TrainSettings
    from vaelens.training.batches import Images
    from vaelens.training.module import VAEModule

AD_WEIGHT = 20.0
"""Of the attention disentanglement loss over all pairs: see docs/disentanglement.md for what others gave."""

OF_CLASSES = ("mean-sum", "normal-difference", "deviation", "kl", "reconstruction")
OF_IMAGES = ("matching", "deviation", "reconstruction", "normal-difference", "mean-sum")


@dataclass(frozen=True)
class Family:
    """A family of objectives.

    Attributes:
        network: that it needs; None for the data set's own.
        posterior: whether the encoder has a posterior, whose latents can be explained.
        reconstructs: whether it has an encoder and a decoder.
        localizers: those that stand for it, the main one first; empty for the VAE, where they depend on the data.
        module: makes the Lightning module; None for the VAE's.
        kl_weight: of the KL divergence where none is asked for; beta.
        gamma: of the total correlation likewise; None where the objective is without it.
        ad_weight: of the attention disentanglement loss likewise; None where the objective is without it.
    """

    network: str | None = None
    posterior: bool = True
    reconstructs: bool = True
    localizers: tuple[str, ...] = ()
    module: Callable[..., VAEModule] | None = None
    kl_weight: float = 1.0
    gamma: float | None = None
    ad_weight: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of training that the objective has a say in, with what they are where nothing else is asked for."""
        return {"kl_weight": self.kl_weight, "gamma": self.gamma, "ad_weight": self.ad_weight}


def _autoencoder(objective: str) -> Callable[..., VAEModule]:
    def make(model: nn.Module, settings: TrainSettings, train: Images, held_out: Images | None) -> VAEModule:
        from vaelens.training.autoencoder import AutoencoderModule  # imports Lightning, which takes seconds

        return AutoencoderModule(model, settings, train, held_out, objective)

    return make


def _gan(*args: Any) -> VAEModule:
    from vaelens.training.gan import GANModule  # imports Lightning, which takes seconds

    return GANModule(*args)


def _factor(*args: Any) -> VAEModule:
    from vaelens.training.factor import FactorModule  # imports Lightning, which takes seconds

    return FactorModule(*args)


FAMILIES: dict[str, Family] = {
    "vae": Family(),
    "beta": Family(kl_weight=4.0),
    "factor": Family(module=_factor, gamma=GAMMA),
    "ad-beta": Family(kl_weight=4.0, ad_weight=AD_WEIGHT),
    "ad-factor": Family(module=_factor, gamma=GAMMA, ad_weight=AD_WEIGHT),
    "ae": Family("ae", False, True, ("ae-l2", "ae-ssim"), _autoencoder("ae")),
    "ae-ssim": Family("ae", False, True, ("ae-ssim", "ae-l2"), _autoencoder("ae-ssim")),
    "anogan": Family("dcgan", False, False, ("anogan",), _gan),
}


def family_of(config: RunConfig) -> Family:
    """The family of a run's objective."""
    return FAMILIES[config.objective]


def localizers_of(config: RunConfig) -> tuple[str, ...]:
    """The localizers, quick to fit, that a run is calibrated for and evaluated by where none is named; none of sprites."""
    if config.of_factors:
        return ()
    return family_of(config).localizers or (OF_CLASSES if config.of_classes else OF_IMAGES)


def check_has_normal(config: RunConfig) -> None:
    """Refuse a run of a data set none of whose images is normal.

    Raises:
        UsageError: says what can be done with it.
    """
    if config.of_factors:
        raise UsageError(f"{config.dataset['name']} has no normal images to compare with; explain or evaluate a run of it")


def main_localizer_of(config: RunConfig) -> str:
    """The localizer that scores where none is named, with its options.

    Raises:
        UsageError: the run has no normal images to compare with.
    """
    check_has_normal(config)
    chosen: str | None = config.explain.get("localizer")
    if chosen is not None:
        return chosen
    if not family_of(config).posterior:
        return localizers_of(config)[0]
    return "deviation" if config.of_classes else "learned"
