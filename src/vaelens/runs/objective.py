"""What an objective of training brings with it: its network, its Lightning module and the localizers that stand for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vaelens.runs.config import RunConfig
    from vaelens.training import TrainSettings
    from vaelens.training.batches import Images
    from vaelens.training.module import VAEModule

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
    """

    network: str | None = None
    posterior: bool = True
    reconstructs: bool = True
    localizers: tuple[str, ...] = ()
    module: Callable[..., VAEModule] | None = None


def _autoencoder(objective: str) -> Callable[..., VAEModule]:
    def make(model: nn.Module, settings: TrainSettings, train: Images, held_out: Images | None) -> VAEModule:
        from vaelens.training.autoencoder import AutoencoderModule  # imports Lightning, which takes seconds

        return AutoencoderModule(model, settings, train, held_out, objective)

    return make


def _gan(*args: Any) -> VAEModule:
    from vaelens.training.gan import GANModule  # imports Lightning, which takes seconds

    return GANModule(*args)


FAMILIES: dict[str, Family] = {
    "vae": Family(),
    "beta": Family(),
    "ae": Family("ae", False, True, ("ae-l2", "ae-ssim"), _autoencoder("ae")),
    "ae-ssim": Family("ae", False, True, ("ae-ssim", "ae-l2"), _autoencoder("ae-ssim")),
    "anogan": Family("dcgan", False, False, ("anogan",), _gan),
}


def family_of(config: RunConfig) -> Family:
    """The family of a run's objective."""
    return FAMILIES[config.objective]


def localizers_of(config: RunConfig) -> tuple[str, ...]:
    """The localizers, quick to fit, that a run is calibrated for and evaluated by where none is named."""
    return family_of(config).localizers or (OF_CLASSES if config.of_classes else OF_IMAGES)


def main_localizer_of(config: RunConfig) -> str:
    """The localizer that scores where none is named, with its options."""
    chosen: str | None = config.explain.get("localizer")
    if chosen is not None:
        return chosen
    if not family_of(config).posterior:
        return localizers_of(config)[0]
    return "deviation" if config.of_classes else "learned"
