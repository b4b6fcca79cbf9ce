"""The linear layers between which the latents of a network lie, and how parts of them are replaced while Adam trains them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.objectives import kl_per_latent

Layer = nn.Conv2d | nn.Linear

CLOSED_NATS = 0.3
"""A latent whose KL divergence, in the mean over images, is below this is closed: a high KL weight leaves 0.05 to 0.15."""
_AT_ONCE = 512


class Fresh:
    """Replaces parts of weights, and what Adam has of them."""

    def __init__(self, optimizer: torch.optim.Optimizer, generator: torch.Generator | None = None) -> None:
        self._state, self._generator = optimizer.state, generator

    def put(self, weight: Tensor | None, part: object, value: Tensor | float) -> None:
        """A value in the place of a part."""
        if weight is None or not weight.requires_grad:  # what is frozen stays
            return
        weight[part] = value  # type: ignore[index]
        for name in ("exp_avg", "exp_avg_sq"):
            if name in self._state.get(weight, {}):
                self._state[weight][name][part] = 0.0

    def draw(self, weight: Tensor, part: object) -> None:
        """He's initialisation, with which the networks begin, in the place of a part."""
        drawn = torch.randn(weight.shape, generator=self._generator) * math.sqrt(2 / weight[0].numel())
        self.put(weight, part, drawn.to(weight)[part])  # type: ignore[index]


def units_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, J): what the heads take."""
    units: Tensor = model.encoder(images)  # type: ignore[operator]
    return units.flatten(1)


def means_and_closed(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means (B, D) of images, and which latents (D,) are closed on them; a portion of the images at a time."""
    parts = [model.encode(part) for part in torch.split(images, _AT_ONCE)]  # type: ignore[operator]
    mean, logvar = (torch.cat(of) for of in zip(*parts, strict=True))
    return mean, kl_per_latent(mean, logvar).mean(0) < CLOSED_NATS


def layers_of(model: nn.Module) -> tuple[Layer, tuple[Layer, Layer], Layer]:
    """The layer below the heads, the heads of mean and log variance, and the decoder's first layer.

    Raises:
        UsageError: a model of another build.
    """
    mean, logvar = getattr(model, "mean", None), getattr(model, "logvar", None)
    below = [m for m in getattr(model, "encoder", nn.Identity()).modules() if isinstance(m, Layer)][-1:]
    first = [
        m for m in getattr(model, "decoder", nn.Identity()).modules() if next(m.parameters(recurse=False), None) is not None
    ][:1]
    if isinstance(mean, Layer) and isinstance(logvar, Layer) and below and first and isinstance(first[0], Layer):
        latents, units = mean.weight.shape[:2]
        if below[0].weight.shape[0] == units and first[0].weight.shape[1] == latents:
            return below[0], (mean, logvar), first[0]
    raise UsageError(
        f"latents of {type(model).__name__} cannot be gathered, turned or woken: that takes linear heads `mean` and `logvar` "
        "upon the units of the last layer of `encoder`, and a `decoder` that begins with a linear layer; "
        "leave gather_after, turn_after and wake_after out"
    )
