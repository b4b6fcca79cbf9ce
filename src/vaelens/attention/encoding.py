"""One forward pass through the encoder, kept so that anything linear in the posterior can be explained from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaelens.attention.closed_form import closed_form_weights
from vaelens.attention.head import SLOPES, LinearHead, Stage
from vaelens.attention.plan import Plan
from vaelens.attention.trace import hooks, posterior
from vaelens.attention.variants import VARIANTS
from vaelens.attention.vjp import vjp_weights
from vaelens.errors import UsageError


@dataclass(frozen=True)
class Encoding:
    """A batch of images inside the encoder.

    Attributes:
        features: (B, n, h, w), the feature map A.
        mean: (B, D), posterior mean.
        logvar: (B, D), posterior log variance.
        plan: the layer and the head.
        slopes: (B, J) for each activation of the head; None where the weights come from vector-Jacobian products.
        differentiable: whether maps keep their graph.
        memory: bytes that the gradients of one chunk of latents may take.
    """

    features: Tensor
    mean: Tensor
    logvar: Tensor
    plan: Plan
    slopes: Mapping[Stage, Tensor] | None
    differentiable: bool
    memory: int

    def weights(self, cotangents: Mapping[str, Tensor], variant: str = VARIANTS[0]) -> Tensor:
        """Channel weights (B, R, n) of R scalars that are linear in the posterior (eq. 3).

        Args:
            cotangents: the derivative of each scalar by "mean", by "logvar" or by both: (R, D) each, or (B, R, D).
            variant: see `attention.variants`.
        """
        if self.slopes is not None:
            head = self.plan.head
            assert head is not None
            return closed_form_weights(head, self.slopes, cotangents, len(self.mean), variant, self.memory)
        rows = next(iter(cotangents.values())).shape[-2]
        bytes_per_row = len(self.mean) * self.plan.floats_behind * self.features.element_size()
        per_chunk = max(1, min(rows, self.memory // max(1, bytes_per_row)))
        outputs = {"mean": self.mean, "logvar": self.logvar}
        with torch.inference_mode(False), torch.enable_grad():
            weights = vjp_weights(self.features, outputs, cotangents, variant, per_chunk, self.differentiable)
        return weights if self.differentiable else weights.detach()

    def signed_maps(self, weights: Tensor) -> Tensor:
        """Channel weights (B, R, n) -> signed maps (B, R, h, w): the weighted sum of the feature map (inside of eq. 2)."""
        return weighted_sum(weights, self.features if self.differentiable else self.features.detach())


def weighted_sum(weights: Tensor, features: Tensor) -> Tensor:
    """sum_k weights[b, r, k] features[b, k]: (B, R, n), (B, n, h, w) -> (B, R, h, w)."""
    maps = torch.bmm(weights.to(features.dtype), features.flatten(2))
    return maps.view(*maps.shape[:2], *features.shape[2:])


def encode(model: nn.Module, images: Tensor, plan: Plan, closed_form: bool, memory: int) -> Encoding:
    """Run `model.encode` once and keep what the weights need. The model leaves as it came.

    Args:
        model: has encode(images) -> (mean, logvar); its mode stays as it is.
        images: (B, C, H, W).
        plan: made for this model and this shape of images.
        closed_form: whether to keep slopes (True) or a graph (False).
        memory: see `Encoding`.
    """
    if closed_form:
        assert plan.head is not None
        return _with_slopes(model, images, plan, plan.head, memory)
    return _with_graph(model, images, plan, memory)


def _keeps_graph(model: nn.Module, images: Tensor) -> bool:
    return torch.is_grad_enabled() and (images.requires_grad or any(p.requires_grad for p in model.parameters()))


def _with_slopes(model: nn.Module, images: Tensor, plan: Plan, head: LinearHead, memory: int) -> Encoding:
    slopes: dict[Stage, Tensor] = {}
    kept: list[Tensor] = []
    calls: dict[nn.Module, int] = {}

    def keep_slope(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # Before the call, since an activation in place destroys its input.
        nth = calls[module] = calls.get(module, -1) + 1
        for stage in stages[module]:
            if stage.nth == nth:
                slopes[stage] = SLOPES[stage.kind](module, args[0].flatten(1))

    def keep_features(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        kept.append(output)
        return output.clone() if plan.overwritten else None

    stages: dict[nn.Module, list[Stage]] = {}
    for stage in head.activations:
        stages.setdefault(stage.module, []).append(stage)
    handles = [module.register_forward_pre_hook(keep_slope) for module in stages]
    handles.append(model.get_submodule(plan.layer).register_forward_hook(keep_features))
    with hooks(*handles):
        mean, logvar = posterior(model, images)
    return Encoding(_taken(kept, plan.nth, plan), mean, logvar, plan, slopes, _keeps_graph(model, images), memory)


def _with_graph(model: nn.Module, images: Tensor, plan: Plan, memory: int) -> Encoding:
    differentiable = _keeps_graph(model, images)
    kept: list[Tensor] = []
    seen: list[nn.Module] = []

    def start_graph(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        seen.append(module)
        if len(seen) != plan.nth + 1:
            return None  # the module is called more than once, and another call gives the feature map
        if differentiable and output.requires_grad:
            kept.append(output)
        else:
            torch.set_grad_enabled(True)  # until the surrounding context ends: the graph begins at the feature map
            kept.append(output.detach().requires_grad_())
        # The rest of the network gets a copy if it writes in place, which a leaf of the graph does not allow either.
        return kept[-1].clone() if plan.overwritten or not kept[-1].grad_fn else kept[-1]

    handle: RemovableHandle = model.get_submodule(plan.layer).register_forward_hook(start_graph)
    with hooks(handle), ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.set_grad_enabled(differentiable))
        if images.is_inference():
            images = images.clone()
        mean, logvar = posterior(model, images)
    features = _taken(kept, 0, plan)
    if not mean.requires_grad:
        raise UsageError(f"{type(model).__name__}.encode gives a mean without a graph, so there is no gradient to explain")
    return Encoding(features, mean, logvar, plan, None, differentiable, memory)


def _taken(kept: Sequence[Tensor], position: int, plan: Plan) -> Tensor:
    if len(kept) <= position:
        raise UsageError(f"layer '{plan.layer}' was not called for these images as it was for the first ones")
    return kept[position]
