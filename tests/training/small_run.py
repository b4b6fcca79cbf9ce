"""A training run small enough for a test: real handwritten digits, a small network.

Also a program, for tests that need a process of its own:

    python small_run.py OUT EPOCHS SIGNAL FORWARD

trains, and sends itself SIGNAL (9: kill, 2: Ctrl-C) at the forward pass number FORWARD.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaelens.models import ConvVAE, build
from vaelens.training.fit import FitResult, fit
from vaelens.training.settings import TrainSettings


@dataclass(frozen=True)
class Digits:
    """What training needs of a data set."""

    images: Tensor
    names: tuple[str, ...]


def digits(first: int, last: int, digit: int = 1) -> Digits:
    """Images `first` to `last` of one digit, (N, 1, 16, 16) uint8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images[data.target == digit][first:last])
    images = (pixels / 16 * 255).round().to(torch.uint8)[:, None]
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return Digits(images, tuple(f"digit-{i:03d}" for i in range(first, first + len(images))))


def model(latent_dim: int = 4, seed: int = 5) -> ConvVAE:
    """The dSprites network at 16x16, its first weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build("dsprites", latent_dim=latent_dim, input_shape=(1, 16, 16))


def settings(epochs: int = 3, **changes: Any) -> TrainSettings:
    """Settings for 40 images in 5 batches, the last of which is smaller."""
    return TrainSettings(**{"epochs": epochs, "batch_size": 9, "warmup_epochs": 1, "precision": "32", **changes})


def train(out: Path, network: nn.Module | None = None, **changes: Any) -> tuple[nn.Module, FitResult]:
    """Train on 40 images and hold out 10."""
    network = network or model()
    resume, progress = changes.pop("resume", False), changes.pop("progress", False)
    result = fit(network, digits(0, 40), digits(40, 50), settings(**changes), out, resume=resume, progress=progress)
    return network, result


def at_forward(network: ConvVAE, number: int, action: Any) -> None:
    """Call `action` before forward pass `number` (from 0) of the encoder, in training or validation."""
    count = -1

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
        nonlocal count
        count += 1
        return action(*args) if count == number else None  # type: ignore[no-any-return]

    network.encoder.register_forward_pre_hook(hook)


if __name__ == "__main__":
    out, epochs, signal_number, forward = Path(sys.argv[1]), *map(int, sys.argv[2:])
    network = model()
    at_forward(network, forward, lambda *_: os.kill(os.getpid(), signal_number))
    try:
        train(out, network, epochs=epochs, progress=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 99))
