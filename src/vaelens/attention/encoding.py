"""One forward pass through the encoder, kept so that anything linear in the posterior can be explained from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaelens.attention.closed_form import Means, closed_form_weights
from vaelens.attention.functions import Function, calls
from vaelens.attention.head import LinearHead, Stage
from vaelens.attention.plan import Plan
from vaelens.attention.trace import Place, encoder_of, posterior
from vaelens.attention.untouched import Snapshot, hooks, own_thread, uncompiled
from vaelens.attention.variants import VARIANTS, Kept, by_pixel
from vaelens.attention.vjp import vjp_weights
from vaelens.attention.watch import HeadWatch
from vaelens.errors import UsageError

_NO_GRAPH = "no gradient can be taken there; do it in torch.no_grad"


class Outdated(Exception):
    """The plan says something about the feature map that does not hold for this encoding."""


class MapOverwritten(Outdated):
    """A module wrote into the feature map in place."""


class OtherCalls(Outdated):
    """The layer was called another number of times."""


@dataclass(frozen=True)
class Encoding:
    """A batch of images inside the encoder.

    Attributes:
        source: (B, n, h, w), the feature map A, in the graph that leads to the posterior.
        mean: (B, D), posterior mean.
        logvar: (B, D), posterior log variance.
        plan: the layer and the head.
        slopes: (B, J) for each activation of the head; None where the weights come from vector-Jacobian products.
        differentiable: whether maps keep their graph.
        memory: bytes that the gradients of one chunk of latents may take.
    """

    source: Tensor
    mean: Tensor
    logvar: Tensor
    plan: Plan
    slopes: Mapping[Stage, Tensor] | None
    differentiable: bool
    memory: int

    @property
    def features(self) -> Tensor:
        """(B, n, h, w), the feature map, in a graph where maps keep theirs."""
        return self.source if self.differentiable else self.source.detach()

    def weights(self, cotangents: Mapping[str, Tensor], variant: str = VARIANTS[0], means: Means | None = None) -> Tensor:
        """Channel weights (B, R, n) of R scalars that are linear in the posterior (eq. 3).

        Args:
            cotangents: the derivative of each scalar by "mean", by "logvar" or by both: (R, D) each, or (B, R, D).
            variant: see `attention.variants`.
            means: of the layer that takes in the map, where they were taken before.
        """
        return self._kept(Kept(variant), cotangents, means)

    def maps(
        self,
        cotangents: Mapping[str, Tensor],
        variant: str = VARIANTS[0],
        of: Tensor | None = None,
        means: Means | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Channel weights (B, R, n) as `weights` has them, and signed maps (B, R, h, w): what they weigh (inside of eq. 2).

        Args:
            cotangents: see `weights`.
            variant: see `attention.variants`.
            of: (B, n, h, w), what is weighed; None: the feature map.
            means: see `weights`.
        """
        of = self.features if of is None else of
        if by_pixel(variant):
            kept = Kept(variant, of)
            return kept.apart(self._kept(kept, cotangents, means))
        weights = self.weights(cotangents, variant, means)
        maps = torch.bmm(weights.to(of.dtype), of.flatten(2))
        return weights, maps.view(*maps.shape[:2], *of.shape[2:])

    def _kept(self, kept: Kept, cotangents: Mapping[str, Tensor], means: Means | None) -> Tensor:
        if self.slopes is not None:
            head = self.plan.head
            assert head is not None
            return closed_form_weights(head, self.slopes, cotangents, self.mean.shape[0], kept, self.memory, means)
        rows = next(iter(cotangents.values())).shape[-2]
        bytes_per_row = len(self.mean) * self.plan.floats_behind * self.source.element_size()
        per_chunk = max(1, min(rows, self.memory // max(1, bytes_per_row)))
        outputs = {"mean": self.mean, "logvar": self.logvar}
        with torch.inference_mode(False), torch.enable_grad():
            found = vjp_weights(self.source, outputs, cotangents, kept, per_chunk, self.differentiable)
        return found if self.differentiable else found.detach()


def encode(model: nn.Module, images: Tensor, plan: Plan, closed_form: bool, memory: int) -> Encoding:
    """Run `model.encode` once and keep what the weights need. The model leaves as it came.

    Args:
        model: has encode(images) -> (mean, logvar); its mode stays as it is.
        images: (B, C, H, W).
        plan: made for this model and this shape of images.
        closed_form: whether to keep slopes (True) or a graph (False).
        memory: see `Encoding`.

    Raises:
        NoClosedForm: asked for and planned, but this encoding went another way.
        Outdated: make the plan anew.
        UsageError: the encoder leaves no graph to follow.
    """
    with uncompiled():
        if closed_form:
            assert plan.head is not None
            return _with_slopes(model, images, plan, plan.head, memory)
        return _with_graph(model, images, plan, memory)


def _keeps_graph(model: nn.Module, images: Tensor) -> bool:
    return torch.is_grad_enabled() and (images.requires_grad or any(p.requires_grad for p in model.parameters()))


@contextmanager
def _with_versions(grad: bool) -> Iterator[None]:
    """Outside inference mode, whose tensors count no writes and enter no graph."""
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


def _with_slopes(model: nn.Module, images: Tensor, plan: Plan, head: LinearHead, memory: int) -> Encoding:
    differentiable = _keeps_graph(model, images)
    kept = KeptMap(plan)
    given: list[Place] = []  # the map as the rest of the network gets it

    def keep_features(output: Tensor) -> Tensor:
        onwards = output.clone() if plan.overwritten else output
        given.append(Place.of(onwards))
        return onwards

    watch = HeadWatch(head)
    handles, listener = kept.listen(model, keep_features)
    with hooks(*handles, *watch.register()), _with_versions(torch.is_grad_enabled()):
        images = kept.enter(images.clone())  # some write into their input
        with calls(watch.functions, listener):
            mean, logvar = posterior(model, images)
    features = kept.features()
    watch.check(given[0], mean, logvar)
    return Encoding(features, mean, logvar, plan, watch.slopes, differentiable, memory)


def _with_graph(model: nn.Module, images: Tensor, plan: Plan, memory: int) -> Encoding:
    differentiable = _keeps_graph(model, images)

    def run(grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        kept = KeptMap(plan)

        def start_graph(output: Tensor) -> Tensor:
            if output.is_inference():
                raise UsageError(f"{encoder_of(model)} runs in torch.inference_mode: {_NO_GRAPH}")
            if not (differentiable and output.requires_grad):
                torch.set_grad_enabled(True)  # until the surrounding context ends: the graph begins at the feature map
                output = kept.replace(output.detach().requires_grad_())
            # The rest of the network gets a copy if it writes in place, which a leaf of the graph does not allow either.
            return output.clone() if plan.overwritten or not output.grad_fn else output

        handles, listener = kept.listen(model, start_graph)
        with hooks(*handles), _with_versions(grad):
            given = kept.enter(images.clone())  # some write into their input
            with calls(listener):
                mean, logvar = posterior(model, given)
        return kept.features(), mean, logvar

    before = None if differentiable else Snapshot(model, images.device)
    features, mean, logvar = run(differentiable)
    if before is not None and not mean.requires_grad:
        before.restore()
        features, mean, logvar = run(True)  # `encode` has a no_grad block of its own, whose end turned gradients off again
    if not mean.requires_grad:
        raise UsageError(f"{encoder_of(model)} gives a mean without a graph, so there is no gradient to explain")
    return Encoding(features, mean, logvar, plan, None, differentiable, memory)


class KeptMap:
    """The feature map of the call that the plan names: a module, or a function, may be called more than once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._calls = 0
        self._map: Tensor | None = None
        self._version = 0
        self._change: Callable[[Tensor], Tensor] = lambda features: features

    def listen(
        self, model: nn.Module, change: Callable[[Tensor], Tensor]
    ) -> tuple[tuple[RemovableHandle, ...], KeptMap | None]:
        """Keep the map of the next encoding and give `change` of it to the rest of the network.

        Returns:
            Hooks to remove, and who is to be told of functions.
        """
        self._change = change
        if self.plan.of_images:
            return (), None
        if self.plan.function is not None:
            return (), self

        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            return self._keep(output)

        return (model.get_submodule(self.plan.layer).register_forward_hook(own_thread(hook)),), None

    def enter(self, images: Tensor) -> Tensor:
        """What the model gets in place of `images`, which are kept where they are the map themselves."""
        given = self._keep(images) if self.plan.of_images else None
        return images if given is None else given

    def before(self, function: Function, module: nn.Module, argument: Tensor) -> None:
        """See `functions.Listener`."""

    def after(self, function: Function, module: nn.Module, output: Tensor) -> Tensor | None:
        """See `functions.Listener`."""
        assert self.plan.function is not None
        return self._keep(output) if function.name == self.plan.function.name else None

    def _keep(self, output: Any) -> Tensor | None:
        """What the rest of the network gets in place of an output; None: that itself."""
        self._calls += 1
        if self._calls != self.plan.nth + 1 or not isinstance(output, Tensor):
            return None
        if self.plan.grid is None:
            self.replace(output)
            return self._change(output)
        if not self.plan.grid.fits(output):
            return None
        features = self.replace(self.plan.grid.map_of(output))
        return self.plan.grid.tokens_of(self._change(features), output)

    @property
    def map(self) -> Tensor:
        """The map (B, n, h, w), not held against what became of it since."""
        if self._map is None:
            raise OtherCalls(f"layer '{self.plan.layer}' was not called")
        return self._map

    def replace(self, features: Tensor) -> Tensor:
        self._map, self._version = features, Place.of(features).version
        return features

    def features(self) -> Tensor:
        """The map (B, n, h, w).

        Raises:
            OtherCalls: the layer was not called as often as when the plan was made.
            MapOverwritten: it is another one by now.
        """
        if self._map is None or self._calls != self.plan.calls:
            before = self.plan.calls
            raise OtherCalls(f"layer '{self.plan.layer}' was called {self._calls} times, and {before} times at a first look")
        if Place.of(self._map).version != self._version:
            raise MapOverwritten
        return self._map
