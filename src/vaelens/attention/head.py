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

from vaelens.attention.functions import Clamp, Function
from vaelens.attention.trace import altered

# The derivative of each piecewise-linear activation at its input (B, J), as autograd has it: that of ReLU at 0 is 0.
SLOPES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.ReLU: lambda module, x: (x > 0).to(x.dtype),
    nn.LeakyReLU: lambda module, x: torch.where(x > 0, x.new_ones(()), x.new_full((), module.negative_slope)),
    nn.PReLU: lambda module, x: torch.where(x > 0, 1.0, module.weight.to(x.dtype)),
    nn.ReLU6: lambda module, x: ((x > 0) & (x < 6)).to(x.dtype),
    nn.Hardtanh: lambda module, x: ((x > module.min_val) & (x < module.max_val)).to(x.dtype),
    Clamp: lambda module, x: module.slope(x),
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
    """One module of the head, with its dotted name and the number of the call that the trace saw.

    `kind` is its exact type, since a subclass may compute something else. It is kept, since a parametrization changes it.
    `takes` is the shape of its input without the batch. Of a function between modules, `function` says which call of which.
    """

    name: str
    module: nn.Module
    nth: int
    kind: type[nn.Module]
    takes: tuple[int, ...]
    function: Function | None = None

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
    return weight_of(module).flatten(1)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear layer or a convolution, in its own shape."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def matrix_on(module: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """The weight (out, n * h * w) of the layer that takes in a map (n, h, w); of a kernel, what lies on the map."""
    if not isinstance(module, nn.Conv2d):
        return matrix(module)
    _, h, w = shape
    top, left = margin(module)
    return module.weight[:, :, top : top + h, left : left + w].flatten(1)


def margin(conv: nn.Conv2d) -> tuple[int, int]:
    """Rows above and columns to the left of a map that a convolution's first position covers."""
    if isinstance(conv.padding, str):
        return (0, 0) if conv.padding == "valid" else ((conv.kernel_size[0] - 1) // 2, (conv.kernel_size[1] - 1) // 2)
    return conv.padding[0], conv.padding[1]


@dataclass(frozen=True)
class Final:
    """The last linear layer of an output and which of its units are the latents.

    Attributes:
        stage: the layer.
        units: (D,), the unit of each latent.
        all_units: whether these are all units of the layer, in order.
    """

    stage: Stage
    units: Tensor
    all_units: bool

    def rows(self, cotangent: Tensor) -> Tensor:
        """Cotangent (..., D) of the output -> cotangent (..., J) of the layer's input."""
        weight = matrix(self.stage.module)
        if not self.all_units:
            weight = weight[self.units.to(weight.device)]
        return cotangent.to(weight.dtype) @ weight  # they differ where `encode` has an autocast of its own


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

    @property
    def modules(self) -> tuple[Stage, ...]:
        """The stages and the last layers."""
        return (*self.stages, *(final.stage for final in self.finals.values()))

    def why_not_now(self) -> str:
        """Why the closed form does not hold as the modules are at this moment; empty where it does."""
        for stage in self.modules:
            if stage.kind in DROPOUTS + NORMS and stage.module.training:
                return f"'{stage.name}' ({stage.kind.__name__}) is in training mode; call model.eval()"
            if getattr(stage.module, "running_var", 0) is None:
                return f"'{stage.name}' ({stage.kind.__name__}) has no running statistics"
        return self.why_altered()

    def why_altered(self) -> str:
        """Which module does more than its class says; empty where none does."""
        for stage in self.modules:
            if altered(stage.module):
                return f"'{stage.name}' has hooks, or a forward of its own"
        return ""
