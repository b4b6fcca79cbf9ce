"""One forward pass of the encoder: the posterior and the feature map of any layer. No gradient, so no layer is dear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from vaelens.attention import LatentAttention
from vaelens.errors import UsageError, unknown


def encoded(model: nn.Module, layers: Sequence[str], images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Images (B, C, H, W), float in [0, 1] -> posterior mean and log variance (B, D), feature maps (B, n, h, w) of `layers`.

    Raises:
        UsageError: the encoder has no such layer.
    """
    kept: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            kept.setdefault(layer, output)

        return hook

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(_module(model, layer).register_forward_hook(keep(layer)).remove)
        with torch.no_grad():
            mean, logvar = model.encode(images)  # type: ignore[operator]
    for layer in layers:
        if layer not in kept or kept[layer].ndim != 4:
            raise UsageError(f"layer '{layer}' gives no feature map (B, n, h, w); take a convolution or its activation")
    return mean, logvar, [kept[layer] for layer in layers]


def features_only(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The feature map (B, n, h, w) of `layer` alone: the rest of the encoder is not run.

    Raises:
        UsageError: the encoder has no such layer.
    """

    def stop(module: nn.Module, args: object, output: Tensor) -> None:
        raise _Reached(output)

    handle = _module(model, layer).register_forward_hook(stop)
    try:
        with torch.no_grad():
            model.encode(images)  # type: ignore[operator]
    except _Reached as reached:
        return reached.features
    finally:
        handle.remove()
    raise UsageError(f"layer '{layer}' takes no part in the encoder")


def nearest(codes: Tensor, among: Tensor, count: int) -> Tensor:
    """Codes (B, D) -> indices (B, k) of the nearest of `among` (N, D), the nearest first; k is `count`, N at most."""
    # By differences: the matrix product that cdist takes by default cancels where codes lie far from 0.
    distances = torch.cdist(codes, among, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.topk(min(count, len(among)), largest=False).indices


def _module(model: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if layer not in modules:
        raise unknown("layer", layer, (name for name in modules if name))
    return modules[layer]


class _Reached(Exception):
    """Ends a forward pass at the layer that was asked for."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def activations(model: nn.Module) -> list[str]:
    """The encoder's feature maps after an activation, the finest first; all feature maps where there is none."""
    layers: Mapping[str, tuple[int, int, int]] = LatentAttention(model).layers
    modules = dict(model.named_modules())
    return [name for name in layers if isinstance(modules[name], nn.ReLU | nn.LeakyReLU)] or list(layers)


def first_activation(model: nn.Module) -> str:
    """The encoder's first feature map after an activation, where detail is finest."""
    return activations(model)[0]
