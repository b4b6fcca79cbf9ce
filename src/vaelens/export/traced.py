"""Attention and localizers as they are written down in a graph: what they look up while running is settled beforehand.

A `LatentAttention` proves its closed form, keeps snapshots and compares memory, of whatever model in whatever mode. Once that
is done, a graph needs the arithmetic alone, which is the same code: `Encoding`, `LatentMaps`, the scores and the localizers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from vaelens.attention import Deviation, LatentAttention
from vaelens.attention.closed_form import Means
from vaelens.attention.encoding import Encoding, KeptMap
from vaelens.attention.functions import calls
from vaelens.attention.scores import ridged
from vaelens.attention.untouched import hooks
from vaelens.attention.variants import Kept
from vaelens.attention.watch import HeadWatch
from vaelens.errors import UsageError
from vaelens.export.nearest import nearest, solved_for_ones
from vaelens.localizers import Localizer

_AT_ONCE = 5  # neighbours


Shared = dict[str, tuple[Tensor, Encoding]]


class Settled(Means):
    """Means of weights that nothing writes to any more."""

    def hold(self, weights: Tensor) -> bool:
        return True


class TracedAttention(LatentAttention):
    """A closed-form attention whose layer and head are settled, of a model in the mode that it is in.

    Args:
        of: the attention; it has explained images where its model has no `input_shape`.
        shared: encodings by layer, with the images that they are of, for all attentions of one graph to share; whoever gives it
            clears it after each pass.

    Raises:
        UsageError: its maps need gradients, and no file of ONNX holds those; the message says why they do.
    """

    def __init__(self, of: LatentAttention, shared: Shared | None = None) -> None:
        self.__dict__.update(of.__dict__)
        self._settled, why_not = of._way()
        self._for_logvar = of._way(logvar=True)[1]
        if why_not:
            raise UsageError(f"the maps of layer '{of.layer}' need gradients, which a file of ONNX cannot hold: {why_not}")
        assert self._settled.head is not None
        self._shared = shared
        means = Means.of(self._settled.head)
        self._means = None if means is None else Settled(means.values.detach(), means.written)

    def encode(self, images: Tensor, logvar: bool = False) -> Encoding:
        """As `LatentAttention.encode`, of images that are as they should be."""
        if logvar and self._for_logvar:
            raise UsageError(f"the maps of the log variance need gradients: {self._for_logvar}")
        plan = self._settled
        of, encoding = (self._shared or {}).get(plan.layer, (None, None))
        if encoding is None or of is not images:
            encoding = self._encode(images)
            if self._shared is not None:
                self._shared[plan.layer] = images, encoding
        return encoding

    def _encode(self, images: Tensor) -> Encoding:
        plan = self._settled
        assert plan.head is not None
        kept, watch = KeptMap(plan), HeadWatch(plan.head)
        handles, listener = kept.listen(self.model, lambda output: output.clone() if plan.overwritten else output)
        with hooks(*handles, *watch.register()), torch.no_grad(), calls(watch.functions, listener):
            mean, log_variance = self.model.encode(kept.enter(images))  # type: ignore[operator]
        return _SettledEncoding(kept.map, mean, log_variance, plan, watch.slopes, False, self.memory, self._means)


@dataclass(frozen=True)
class _SettledEncoding(Encoding):
    """One whose layer that takes in the map has known means."""

    settled: Means | None = None

    def _kept(self, kept: Kept, cotangents: Mapping[str, Tensor], means: Means | None) -> Tensor:
        return super()._kept(kept, cotangents, self.settled)


class TracedDeviation(Deviation):
    """A deviation whose neighbours are found in operations that a graph of a file can hold; the same up to rounding."""

    @classmethod
    def of(cls, deviation: Deviation) -> TracedDeviation:
        """What it needs of a fitted one: of a mean of all images, the mean alone."""
        features = deviation.features if deviation.neighbours is not None else deviation.features.mean(0, keepdim=True)
        return cls(deviation.codes, features, deviation.layer, deviation.neighbours, deviation.ridge)

    def reference(self, mean: Tensor, leave_out_self: bool = False) -> Tensor:
        """Posterior means (B, D) -> the weighted mean (B, n, h, w) of the feature maps of their normal neighbours."""
        if self.neighbours is None:
            return self.features.expand(mean.shape[0], -1, -1, -1)
        at, offsets = nearest(mean, self.codes, min(self.neighbours, len(self.codes)))
        if self.ridge is None:
            weights = torch.full_like(at, 1, dtype=mean.dtype) / at.shape[1]
        else:
            weights = solved_for_ones(*ridged(offsets, self.ridge), self.ridge)
            weights = weights / weights.sum(1, keepdim=True)
        total: Tensor | None = None
        # A few at a time: all at once would hold k feature maps per image, one by one would read and write the sum k times.
        for some, of_them in zip(torch.split(at, _AT_ONCE, 1), torch.split(weights, _AT_ONCE, 1), strict=True):
            rows = self.features.index_select(0, some.flatten()).reshape(mean.shape[0], some.shape[1], -1)
            part = (of_them.unsqueeze(1) @ rows).squeeze(1)
            total = part if total is None else total + part
        assert total is not None
        return total.reshape(mean.shape[0], *self.features.shape[1:])


def traced(localizer: Localizer, shared: Shared) -> Localizer:
    """A fitted localizer with every attention and every deviation in it as a graph can hold them; the one given stays.

    Args:
        localizer: fitted, on the CPU.
        shared: see `TracedAttention`.

    Raises:
        UsageError: an attention in it needs gradients.
    """
    return cast(Localizer, _traced(localizer, shared))


def _traced(value: Any, shared: Shared) -> Any:
    if isinstance(value, LatentAttention):
        return TracedAttention(value, shared)
    if isinstance(value, Deviation):
        return TracedDeviation.of(value)
    if isinstance(value, list):
        return [_traced(each, shared) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _traced(getattr(value, each.name), shared) for each in fields(value)})
    if isinstance(value, Localizer):
        other = copy.copy(value)
        other.__dict__.update({name: _traced(each, shared) for name, each in value.__dict__.items()})
        return other
    return value
