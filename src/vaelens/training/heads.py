"""The linear layers between which the latents of a network lie, and how parts of them are replaced while Adam trains them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError

Layer = nn.Conv2d | nn.Linear


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
        f"latents of {type(model).__name__} cannot be woken or turned: that takes linear heads `mean` and `logvar` upon the "
        "units of the last layer of `encoder`, and a `decoder` that begins with a linear layer; "
        "leave wake_after and turn_after out"
    )
