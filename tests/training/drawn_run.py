"""Training by steps of drawn images, and FactorVAE's, small enough for a test: digits that are drawn at random.

Also a program, for tests that need a process of its own:

    python drawn_run.py OUT KIND STEP

trains FactorVAE with maps that are kept apart on digits that are "drawn" or in "memory", and kills itself in step number STEP.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_run
import torch
from torch import Tensor, nn

from vaelens.objectives import Discriminator
from vaelens.training.factor import FactorModule
from vaelens.training.fit import FitResult, fit
from vaelens.training.module import VAEModule
from vaelens.training.settings import TrainSettings

EPOCHS, STEPS, BATCH = 3, 4, 8
UNITS = 32  # of the discriminator's hidden layers: with 1000 its checkpoints take 50 MB


@dataclass(frozen=True)
class Few:
    """A few images that are drawn from, at whatever size."""

    images: Tensor
    names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self), (count,), generator=generator)

    def take(self, indices: Tensor) -> Tensor:
        return self.images[indices].float() / 255


def few(scale: int = 1) -> Few:
    """Sixty digits, 16 pixels a side times `scale`."""
    found = small_run.digits(0, 60)
    return Few(found.images.repeat_interleave(scale, 2).repeat_interleave(scale, 3), found.names)


def model(side: int = 16, latent_dim: int = 4, seed: int = 5) -> nn.Module:
    """The dSprites network, its first weights from `seed`: at 32 pixels a side its last map has a closed form, at 16 none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small_run.build("dsprites", latent_dim, (1, side, side))


def settings(**changes: Any) -> TrainSettings:
    """Three epochs of four steps with eight images each, all terms of the loss in full from the first."""
    chosen = {"epochs": EPOCHS, "batch_size": BATCH, "steps_per_epoch": STEPS, "warmup_epochs": 0, "precision": "32"}
    return TrainSettings(**{**chosen, **changes})


def small_discriminator() -> None:
    """Have discriminators be small from now on in this process."""
    Discriminator.__init__.__defaults__ = (UNITS,)


def train(
    out: Path,
    network: nn.Module | None = None,
    kind: str = "drawn",
    module: Callable[..., VAEModule] | None = FactorModule,
    resume: bool = False,
    **changes: Any,
) -> tuple[nn.Module, FitResult]:
    """Train on digits that are drawn, or on 40 digits in memory with ten more held out."""
    network = network or model()
    held_out = None
    if kind == "drawn":
        images = few()
    else:
        images, held_out = small_run.digits(0, 40), small_run.digits(40, 50)
        changes["steps_per_epoch"] = None
    return network, fit(network, images, held_out, settings(**changes), out, resume=resume, progress=False, module=module)


def at_step(network: nn.Module, number: int, action: Callable[[], Any]) -> None:
    """Call `action` in training step `number` (from 0): where the decoder decodes in training mode."""
    count = -1

    def hook(decoder: nn.Module, args: Any) -> None:
        nonlocal count
        count += decoder.training
        if decoder.training and count == number:
            action()

    network.decoder.register_forward_pre_hook(hook)


ALL_TERMS = {
    **{"gamma": 5.0, "discriminator_learning_rate": 2e-3, "standardize_after": 0.5, "kl_start": 4.0, "warmup_epochs": 1.0},
    **{
        "pooled_until": 1.5,
        "rate_warmup_epochs": 1.5,
        "gather_after": 0.3,
        "turn_after": 0.5,
        "wake_after": 0.25,
        "ad_weight": 3.0,
        "ad_pairs": "random",
    },
}

if __name__ == "__main__":
    small_discriminator()
    network = model()
    at_step(network, int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    train(Path(sys.argv[1]), network, sys.argv[2], **ALL_TERMS)
