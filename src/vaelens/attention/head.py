"""The part of an encoder between a feature map and the posterior, where it is piecewise linear behind one linear layer.

There the gradient of every latent needs no backward pass. With the linear layers W1, ..., WL and the slopes s1, ... of the
activations between them (0 or 1 for ReLU),

    d z_i / d A = WL[i] diag(s_{L-1}) ... W2 diag(s1) W1,

and its spatial mean, the channel weight alpha of the paper's eq. 3, is the same product with G in place of W1, where
G[j, k] is the mean of W1[j] over the pixels of channel k. G belongs to the network alone, not to the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelens.attention.trace import Call, Place, Trace, altered

# The derivative of each piecewise-linear activation at its input (B, J), as autograd has it: that of ReLU at 0 is 0.
SLOPES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.ReLU: lambda module, x: (x > 0).to(x.dtype),
    nn.LeakyReLU: lambda module, x: torch.where(x > 0, x.new_ones(()), x.new_full((), module.negative_slope)),
    nn.PReLU: lambda module, x: torch.where(x > 0, 1.0, module.weight).to(x.dtype),
    nn.ReLU6: lambda module, x: ((x > 0) & (x < 6)).to(x.dtype),
    nn.Hardtanh: lambda module, x: ((x > module.min_val) & (x < module.max_val)).to(x.dtype),
}
LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)
POOLING: tuple[type[nn.Module], ...] = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d)
DROPOUTS: tuple[type[nn.Module], ...] = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
SHAPING: tuple[type[nn.Module], ...] = (nn.Identity, nn.Flatten)


class NoClosedForm(Exception):
    """Why there is no closed form, in words that follow "because"."""


@dataclass(frozen=True)
class Stage:
    """One module of the head, with its dotted name and the number of the call that the trace saw."""

    name: str
    module: nn.Module
    nth: int

    @property
    def kind(self) -> type[nn.Module]:
        return type(self.module)  # exact: a subclass may compute something else

    def gain(self, slopes: Mapping[Stage, Tensor]) -> Tensor | None:
        """What a stage without mixing multiplies each unit by: (B, J) for an activation, (J,) for a norm, None for 1."""
        if self.kind in SLOPES:
            return slopes[self]
        if self.kind in NORMS:
            norm = self.module
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            assert norm.running_var is not None
            scale = (norm.running_var + norm.eps).rsqrt()
            return scale * norm.weight if norm.affine else scale
        return None


def matrix(module: nn.Module) -> Tensor:
    """The weight (out, in) of a linear layer, or of a convolution that amounts to one."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.flatten(1)


@dataclass(frozen=True)
class Final:
    """The last linear layer of an output and which of its units are the latents: (D,), ascending."""

    module: nn.Module
    units: Tensor

    def rows(self, cotangent: Tensor) -> Tensor:
        """Cotangent (..., D) of the output -> cotangent (..., J) of the layer's input."""
        weight = matrix(self.module)
        if self.units.tolist() != list(range(len(weight))):
            weight = weight[self.units.to(weight.device)]
        return cotangent @ weight


@dataclass(frozen=True)
class LinearHead:
    """Everything between a feature map (B, n, h, w) and the posterior.

    Attributes:
        stages: the modules that the outputs share, in order.
        entry: which stage takes in the map (a linear layer or a global pooling); len(stages) where the last layer itself
            does, -1 where the map has a single pixel and is a vector already.
        finals: the last layer of each output, "mean" and, where it shares the stages, "logvar".
        shape: (n, h, w).
    """

    stages: tuple[Stage, ...]
    entry: int
    finals: Mapping[str, Final]
    shape: tuple[int, int, int]

    @property
    def activations(self) -> tuple[Stage, ...]:
        """The stages whose slope depends on the image."""
        return tuple(stage for stage in self.stages if stage.kind in SLOPES)

    def exact_now(self) -> bool:
        """Whether the closed form holds as the modules are: no dropout or batch norm is training, none has gained a hook."""
        if any(stage.kind in DROPOUTS + NORMS and stage.module.training for stage in self.stages):
            return False
        return not any(altered(m) for m in (*(s.module for s in self.stages), *(f.module for f in self.finals.values())))

    def replay(self, features: Tensor) -> Tensor:
        """The mean (B, D) computed from the map by the head alone."""
        x = features.clone()
        for stage in self.stages:
            x = stage.module(x.flatten(1) if stage.kind is nn.Linear else x)
        final = self.finals["mean"]
        out = final.module(x.flatten(1) if type(final.module) is nn.Linear else x)
        mean: Tensor = out.flatten(1)[:, final.units]
        return mean


def last_feature_map(trace: Trace) -> Place | None:
    """The last feature map (B, n, h, w) of more than one pixel before the mean, walking back from the mean."""
    try:
        index, _ = _final(trace, trace.mean)
    except NoClosedForm:
        return None
    while True:
        place = trace.calls[index].input
        if _is_map(place):
            return place
        producer = trace.producer(place, index)
        if producer is not None and _is_map(trace.calls[producer].output):  # flattened on the way, outside the modules
            return trace.calls[producer].output
        if producer is None or type(trace.calls[producer].module) not in (
            *SLOPES,
            *LINEAR,
            *NORMS,
            *DROPOUTS,
            *SHAPING,
        ):
            return None
        index = producer


def _is_map(place: Place) -> bool:
    return place.tensor.ndim == 4 and place.tensor[0, 0].numel() > 1


def find_head(trace: Trace, features: Place) -> LinearHead:
    """The head from `features` (B, n, h, w) to the posterior.

    Raises:
        NoClosedForm: the way from the map to the mean is not Flatten, linear, piecewise linear, linear.
    """
    stages, final = _walk(trace, trace.mean, features)
    n, h, w = features.tensor.shape[1:]
    entry = _entry(stages, final, (n, h, w))
    finals = {"mean": final}
    try:
        others, logvar = _walk(trace, trace.logvar, features)
    except NoClosedForm:
        others = None
    if others == stages:
        finals["logvar"] = logvar
    head = LinearHead(tuple(stages), entry, finals, (n, h, w))
    if features.version == features.tensor._version:  # not overwritten in place since
        replayed = head.replay(features.tensor)
        if not torch.allclose(replayed, trace.mean.tensor, rtol=1e-3, atol=1e-4 * float(trace.mean.tensor.abs().max())):
            raise NoClosedForm("the modules alone do not lead from this layer to the mean: something is added on the way")
    return head


def _final(trace: Trace, output: Place) -> tuple[int, Final]:
    """The call of the linear layer whose output `output` (B, D) is, or is a slice of."""
    tensor = output.tensor
    for index in range(len(trace.calls) - 1, -1, -1):
        call, whole = trace.calls[index], trace.calls[index].output.tensor
        if not call.leaf or type(call.module) in SHAPING or not output.shares_storage(call.output):
            continue
        if type(call.module) not in LINEAR:
            raise NoClosedForm(f"'{call.name}' ({type(call.module).__name__}) comes last, and not a linear layer")
        units = whole[0].numel()
        start = int(tensor.storage_offset()) - int(whole.storage_offset())
        picked: Tensor = start + torch.arange(tensor.shape[1]) * (tensor.stride(1) if tensor.shape[1] > 1 else 1)
        aligned = (len(tensor) == 1 or tensor.stride(0) == units) and len(set(picked.tolist())) == len(picked)
        vector = whole.is_contiguous() and units == whole.shape[1]
        if call.output.version == output.version and aligned and vector and start >= 0 and int(picked[-1]) < units:
            return index, Final(call.module, picked)
        break
    raise NoClosedForm("the mean is not the output of a linear layer or a slice of one, but computed from it")


def _walk(trace: Trace, output: Place, features: Place) -> tuple[list[Stage], Final]:
    """The stages from `features` to the last layer of `output`, following each input back to the call that made it."""
    index, final = _final(trace, output)
    _check_call(trace.calls[index])
    stages: list[Stage] = []
    while not trace.calls[index].input.holds_same(features):
        call = trace.calls[index]
        producer = trace.producer(call.input, index)
        if producer is None:
            raise NoClosedForm(f"what enters '{call.name}' is not the output of a module, or this layer lies elsewhere")
        made = trace.calls[producer]
        if type(made.module) not in (*SLOPES, *LINEAR, *POOLING, *NORMS, *DROPOUTS, *SHAPING):
            raise NoClosedForm(f"'{made.name}' ({type(made.module).__name__}) is not piecewise linear")
        _check_call(made)
        if type(made.module) not in SHAPING:
            stages.insert(0, Stage(made.name, made.module, made.nth))
        index = producer
    return stages, final


def _check_call(call: Call) -> None:
    """Refuse a call that its module's class and weights do not tell all about."""
    if altered(call.module):
        raise NoClosedForm(f"'{call.name}' has hooks, or a forward of its own")
    entered = call.input.tensor
    if type(call.module) is nn.Linear and entered.ndim != 2:
        raise NoClosedForm(f"'{call.name}' is applied to parts {tuple(entered.shape[1:])} of an image's units")
    per_unit = type(call.module) in NORMS or type(call.module) is nn.PReLU
    if per_unit and entered[0].numel() != entered.shape[1] and entered.ndim != 4:
        raise NoClosedForm(f"'{call.name}' is applied to parts {tuple(entered.shape[1:])} of an image's units")


def _entry(stages: list[Stage], final: Final, shape: tuple[int, int, int]) -> int:
    """Which stage takes in the map; NoClosedForm unless those before leave it alone and those after act on single units."""
    n, h, w = shape
    entry = -1 if h * w == 1 else None
    for position, stage in enumerate([*stages, Stage("the last layer", final.module, 0)]):
        module = stage.module
        if entry is not None:
            if isinstance(module, nn.Conv2d) and not (module.kernel_size == (1, 1) and _plain(module)):
                raise NoClosedForm(f"'{stage.name}' is more than a 1x1 convolution")
            if stage.kind in POOLING and not _takes_all(module, (n, 1, 1)):
                raise NoClosedForm(f"'{stage.name}' pools a single pixel with its border")
            if stage.kind in NORMS and module.running_var is None:
                raise NoClosedForm(f"'{stage.name}' keeps no running statistics")
        elif stage.kind in DROPOUTS:
            continue
        elif _takes_all(module, (n, h, w)):
            entry = position
        elif stage.kind in SLOPES or stage.kind in NORMS:
            raise NoClosedForm(
                f"'{stage.name}' ({stage.kind.__name__}) acts on each pixel before the first linear layer; "
                f"the layer '{stage.name}' may have one"
            )
        else:
            raise NoClosedForm(f"'{stage.name}' ({stage.kind.__name__}) mixes pixels, but not the whole map at once")
    assert entry is not None
    return entry


def _plain(conv: nn.Conv2d) -> bool:
    return conv.padding in ((0, 0), "valid") and conv.groups == 1 and conv.dilation == (1, 1)


def _takes_all(module: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the module turns the whole map into units: linear, a convolution that covers it, or global pooling."""
    n, h, w = shape
    if isinstance(module, nn.Linear):
        return module.in_features == n * h * w
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (h, w) and _plain(module)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if isinstance(module, nn.AvgPool2d):
        whole = module.kernel_size in ((h, w), h if h == w else None) and module.padding in (0, (0, 0))
        return whole and module.divisor_override is None
    return False
