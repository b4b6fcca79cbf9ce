"""Whether maps depend on what the model has learned: its weights are randomized layer by layer (Adebayo et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.metrics.faithfulness.inputs import check_images, check_maps, drawing
from vaelens.metrics.faithfulness.similarity import map_similarity

_KINDS = ("pearson", "spearman", "ssim")


@dataclass(frozen=True)
class Randomization:
    """How much of the maps is left as layers lose what they have learned; the less, the more they depend on it.

    Attributes:
        layers: L names of modules, from the last back; entry l of the rest has the first l + 1 of them randomized.
        pearson, spearman, ssim: L similarities with the original maps, in the mean over those where neither is empty; NaN
            where none is left.
        left_out: L shares of maps that are empty before or after, which the means leave out.
        by_chance: the mean similarity of each map with the same latent's map of another image, by the same names: what maps
            have in common that say nothing of their image. NaN with one image.
    """

    layers: tuple[str, ...]
    pearson: tuple[float, ...]
    spearman: tuple[float, ...]
    ssim: tuple[float, ...]
    left_out: tuple[float, ...]
    by_chance: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, as plain values."""
        lists = {name: list(getattr(self, name)) for name in ("layers", *_KINDS, "left_out")}
        return {**lists, "by_chance": self.by_chance}


def randomization(
    model: nn.Module, images: Tensor, explain: Callable[[nn.Module, Tensor], Tensor], seed: int = 0
) -> Randomization:
    """Take the maps anew as the encoder's layers are randomized, one more at a time from the last to the first.

    A layer is a module with parameters of its own that the posterior mean depends on, in the order in which they work. To
    randomize it the numbers of each of its parameters change places at random, so that their size and spread stay what they
    were; buffers, such as a batch norm's statistics, stay. It is done to a copy: the model is left as it is.

    Args:
        model: with encode(images) -> (mean, logvar).
        images: (B, C, H, W), float as the model takes them, on its device.
        explain: model and images -> maps (B, K, h, w).
        seed: of the changes of places.

    Raises:
        UsageError: a model without `encode`, no layer that the mean depends on, maps that are none, or a seed below 0.
    """
    check_images(images)
    if not callable(getattr(model, "encode", None)):
        raise UsageError(f"{type(model).__name__} has no encode(images) -> (mean, logvar); vaelens.adapt gives a model one")
    original = check_maps(explain(model, images), len(images))
    changed = copy.deepcopy(model)
    layers = _layers(changed, images[:1])
    if not layers:
        raise UsageError(f"the posterior mean of {type(model).__name__} depends on no parameters that could be randomized")
    generator = drawing(seed)
    found: dict[str, list[float]] = {kind: [] for kind in (*_KINDS, "left_out")}
    modules = dict(changed.named_modules())
    for layer in layers:
        _shuffle(modules[layer], generator)
        maps = check_maps(explain(changed, images), len(images))
        for kind, value in _compared(original, maps).items():
            found[kind].append(value)
    other = _compared(original, original.roll(1, 0)) if len(images) > 1 else dict.fromkeys(_KINDS, torch.nan)
    return Randomization(
        layers=tuple(layers),
        **{kind: tuple(values) for kind, values in found.items()},
        by_chance={kind: other[kind] for kind in _KINDS},
    )


def _compared(original: Tensor, maps: Tensor) -> dict[str, float]:
    each = {kind: map_similarity(original, maps, kind) for kind in _KINDS}
    some = ~each["pearson"].isnan()
    means = {kind: float(values[some].nanmean()) for kind, values in each.items()}
    return means | {"left_out": 1 - float(some.double().mean())}


def _layers(model: nn.Module, images: Tensor) -> list[str]:
    """Modules with parameters that the mean depends on, the last to work first."""
    worked: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: worked.append(name)

    owners = {name: module for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    handles = [module.register_forward_hook(note(name)) for name, module in owners.items()]
    try:
        with torch.enable_grad():
            for each in model.parameters():
                each.requires_grad_(each.is_floating_point())
            mean = model.encode(images)[0]  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    last = list(dict.fromkeys(reversed(worked)))
    parameters = [(name, each) for name in last for each in owners[name].parameters(recurse=False)]
    if not parameters or not mean.requires_grad:
        return []
    gradients = torch.autograd.grad(mean.sum(), [each for _, each in parameters], allow_unused=True)
    model.requires_grad_(False)
    reached = {name for (name, _), gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return [name for name in last if name in reached]


def _shuffle(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            places = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.detach().flatten()[places].view(parameter.shape))
