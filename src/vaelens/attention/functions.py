"""Functions that a model calls between its modules, such as `F.relu` in `encode`, seen as the modules that do the same.

A mode of torch hands every call of a torch function to `Listener`s, before and after; a function is told from others by its
name and by how many of its name were called before it, those inside of torch's own modules counted too, since the same code
calls them in the same order each time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Opaque(nn.Module):
    """Stands for a function that gives a feature map and has no place in a closed form."""


class Clamp(nn.Module):
    """Stands for `clamp`, one side or both. At a bound itself it has a slope of 1, where ReLU and Hardtanh have one of 0.

    Args:
        low: the least number; None: none.
        high: the largest; None: none.
    """

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def slope(self, x: Tensor) -> Tensor:
        """The derivative at x, as autograd has it, in the same shape."""
        within = torch.ones_like(x, dtype=torch.bool)
        if self.low is not None:
            within &= x >= self.low
        if self.high is not None:
            within &= x <= self.high
        return within.to(x.dtype)

    def extra_repr(self) -> str:
        """The bounds, by which one is told from another."""
        return f"{self.low}, {self.high}"


@dataclass(frozen=True)
class Function:
    """Which call of which function: its name, and how many of that name came before."""

    name: str
    nth: int


class Listener(Protocol):
    """Who is told of functions."""

    def before(self, function: Function, module: nn.Module, argument: Tensor) -> None:
        """A function is about to be called; `module` is what does the same."""

    def after(self, function: Function, module: nn.Module, output: Tensor) -> Tensor | None:
        """It was called; what is returned takes the place of its output, None leaves it."""


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Arguments behind the first by their names."""
    return {**dict(zip(names, args[1:], strict=False)), **{name: kwargs[name] for name in names if name in kwargs}}


def _leaky(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    return nn.LeakyReLU(_given(args, kwargs, "negative_slope").get("negative_slope", 0.01))


def _hardtanh(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    return nn.Hardtanh(**_given(args, kwargs, "min_val", "max_val"))


def _clamp(*names: str) -> Callable[[tuple[Any, ...], Mapping[str, Any]], nn.Module]:
    """`clamp` and its kin, whose arguments have these of the names "min" and "max"; by a tensor of bounds it is opaque."""

    def module_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
        given = _given(args, kwargs, *names)
        low, high = given.get("min"), given.get("max")
        plain = all(bound is None or isinstance(bound, int | float) for bound in (low, high))
        return Clamp(low, high) if plain else Opaque()

    return module_of


def _adaptive(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    size = _given(args, kwargs, "output_size")["output_size"]
    return nn.AdaptiveAvgPool2d(tuple(size) if isinstance(size, list | torch.Size) else size)


def _average(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return nn.AvgPool2d(**_given(args, kwargs, *names))


def _mean(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    """The mean over both sides of a map is its global average pooling; any other mean is nothing of the kind."""
    given = _given(args, kwargs, "dim", "keepdim")
    axes = given.get("dim")
    over = sorted(axis % 4 for axis in axes) if isinstance(axes, tuple | list) else []
    pools = isinstance(args[0], Tensor) and args[0].ndim == 4 and over == [2, 3] and kwargs.get("dtype") is None
    return nn.AdaptiveAvgPool2d(1) if pools else Opaque()


def _flatten(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    """Whatever turns images into vectors keeps the order of their numbers, whether it copies them or not."""
    return nn.Flatten()


def _same(kind: type[nn.Module]) -> Callable[[tuple[Any, ...], Mapping[str, Any]], nn.Module]:
    return lambda args, kwargs: kind()


_RELU, _OPAQUE = _same(nn.ReLU), _same(Opaque)
# By function: what it is called in a layer's name, and the module that does the same.
_KNOWN: dict[Callable[..., Any], tuple[str, Callable[[tuple[Any, ...], Mapping[str, Any]], nn.Module]]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), ("relu", _RELU)),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), ("leaky_relu", _leaky)),
    F.relu6: ("relu6", _same(nn.ReLU6)),
    **dict.fromkeys((F.hardtanh, F.hardtanh_), ("hardtanh", _hardtanh)),
    **dict.fromkeys(
        (torch.clamp, torch.clamp_, torch.clip, torch.clip_, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_),
        ("clamp", _clamp("min", "max")),
    ),
    **dict.fromkeys((torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_), ("clamp", _clamp("min"))),
    **dict.fromkeys((torch.clamp_max, torch.clamp_max_, Tensor.clamp_max, Tensor.clamp_max_), ("clamp", _clamp("max"))),
    F.adaptive_avg_pool2d: ("adaptive_avg_pool2d", _adaptive),
    F.avg_pool2d: ("avg_pool2d", _average),
    **dict.fromkeys((torch.mean, Tensor.mean), ("mean", _mean)),
    **dict.fromkeys((torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape), ("flatten", _flatten)),
    **{
        function: (function.__name__.rstrip("_"), _OPAQUE)
        for function in (
            *(F.silu, F.gelu, F.elu, F.elu_, F.selu, F.celu, F.mish, F.softplus, F.hardswish, F.logsigmoid, F.prelu),
            *(F.threshold, F.rrelu, F.hardsigmoid, F.softsign, torch.maximum, Tensor.maximum),
            *(torch.tanh, torch.sigmoid, Tensor.tanh, Tensor.sigmoid, F.max_pool2d, F.adaptive_max_pool2d, F.interpolate),
            *(F.batch_norm, F.group_norm, F.instance_norm, F.conv2d, F.pixel_unshuffle, F.dropout2d),
        )
    },
}


_mine = threading.local()


@contextmanager
def unheard() -> Iterator[None]:
    """Functions that are called in the block by this thread are the library's own and no model's."""
    before, _mine.quiet = getattr(_mine, "quiet", False), True
    try:
        yield
    finally:
        _mine.quiet = before


def calls(*listeners: Listener | None) -> AbstractContextManager[Any]:
    """Tell `listeners` of each known function that is called in the block by this thread; nothing where there are none."""
    told = [listener for listener in listeners if listener is not None]
    return _Calls(told) if told else nullcontext()


class _Calls(TorchFunctionMode):
    def __init__(self, listeners: Iterable[Listener]) -> None:
        super().__init__()
        self.listeners = list(listeners)
        self.counts: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, module_of = _KNOWN.get(func, ("", None))
        given = args or tuple(kwargs[key] for key in ("input", "self") if key in kwargs)
        if module_of is None or not given or not isinstance(given[0], Tensor) or getattr(_mine, "quiet", False):
            return func(*args, **kwargs)
        function = Function(name, self.counts[name])
        self.counts[name] += 1
        module = module_of(given, kwargs)
        for listener in self.listeners:
            listener.before(function, module, given[0])  # in which, as in all that a mode does, the mode is off
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor):
            return output
        for listener in self.listeners:
            changed = listener.after(function, module, output)
            output = output if changed is None else changed
        return output
