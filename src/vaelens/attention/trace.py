"""Which modules, and functions between them, a model calls on the way from an image to its posterior, and what flows there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaelens.attention.functions import Function
from vaelens.attention.functions import calls as calls_of_functions
from vaelens.attention.untouched import eval_mode, own_thread, undone
from vaelens.errors import UsageError, VaelensError


def encoder_of(model: nn.Module) -> str:
    """What the encoder of a model is called in messages: `MyVAE.encode`, or as an adapter names it."""
    return str(getattr(model, "encoder_name", f"{type(model).__name__}.encode"))


def posterior(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B, D) of `images` by the model's own `encode`.

    Raises:
        UsageError: the model has no `encode`, it does not take the images, or it does not return two tensors (B, D) of one
            shape.
    """
    encode = getattr(model, "encode", None)
    if not callable(encode):
        raise UsageError(
            f"{type(model).__name__} has no method encode(images) -> (mean, logvar); vaelens.adapt(model) gives it one"
        )
    try:
        result = encode(images)
    except torch.OutOfMemoryError:
        raise
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # a mistake within it
        raise UsageError(
            f"{encoder_of(model)} takes more than images ({error}); vaelens.adapt(model, encode=...) takes a function of them"
        ) from error
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if isinstance(error, VaelensError) or torch.compiler.is_compiling():
            raise
        raise _not_taken(model, images, error) from error
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(t, Tensor) for t in result)):
        got = f"a {type(result).__name__}" + (f" of {len(result)}" if isinstance(result, tuple | list) else "")
        raise UsageError(
            f"{encoder_of(model)} must return (mean, logvar), two tensors, got {got}; vaelens.adapt(model) reads others"
        )
    mean, logvar = result
    if mean.ndim != 2 or mean.shape != logvar.shape or len(mean) != len(images):
        raise UsageError(
            f"{encoder_of(model)} must return mean and logvar of one shape (B, D), "
            f"got {tuple(mean.shape)} and {tuple(logvar.shape)}; vaelens.adapt(model) takes others apart"
        )
    if mean.shape[1] == 0:
        raise UsageError(f"{encoder_of(model)} gives a posterior of no latents, {tuple(mean.shape)}")
    return mean, logvar


def _not_taken(model: nn.Module, images: Tensor, error: Exception) -> UsageError:
    """The line for images that a model cannot encode, with the mend where it shows."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    types, devices = {p.dtype for p in weights}, {p.device for p in weights}
    why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    mend = "check their channels and size, and that it takes any number of them"
    if len(devices) == 1 and images.device not in devices:
        mend = f"they are on {images.device} and the model is on {(where := devices.pop())}: images.to('{where}')"
    elif len(types) == 1 and images.dtype not in types:
        mend = f"they are {images.dtype} and the model's weights {(kind := types.pop())}: images.to({kind})"
    return UsageError(f"{encoder_of(model)} does not take images {tuple(images.shape)}; {mend} ({why})")


def altered(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: it has hooks, or a `forward` of its own."""
    hooked = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooked) or "forward" in module.__dict__ or any(map(len, _HOOKS_ON_ALL))


def takes_hooks(module: nn.Module) -> bool:
    """Whether calls of it can be seen: of what torch.jit made, a module that was traced is, and nothing within it."""
    return not isinstance(module, torch.jit.ScriptModule) or isinstance(module, torch.jit.TopLevelTracedModule)  # type: ignore[attr-defined]


_HOOKS_ON_ALL = tuple(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in ("forward", "forward_pre", "backward"))


@dataclass(frozen=True)
class Place:
    """A tensor as it was at one moment: where it lies in memory, and how often it had been written to by then.

    Two modules are neighbours when the one's output is, at that moment, the other's input. A functional operation between
    them makes a new tensor (another storage) or, in place, a new version; a view keeps both.
    """

    tensor: Tensor  # kept alive, so that no other tensor can take its storage while the trace is read
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> Place:
        return cls(tensor, 0 if tensor.is_inference() else tensor._version)

    def shares_storage(self, other: Place) -> bool:
        """Whether both lie in the same memory."""
        return self.tensor.untyped_storage().data_ptr() == other.tensor.untyped_storage().data_ptr()

    def holds_same(self, other: Place) -> bool:
        """Whether both are the same numbers at the same moment, possibly in another shape."""
        mine, theirs = self.tensor, other.tensor
        if (
            not self.shares_storage(other)
            or mine.storage_offset() != theirs.storage_offset()
            or mine.numel() != theirs.numel()
            or mine.dtype != theirs.dtype
            or self.version != other.version
        ):
            return False
        if mine.shape == theirs.shape:
            return mine.stride() == theirs.stride()
        return mine.shape[:1] == theirs.shape[:1] and mine.is_contiguous() and theirs.is_contiguous()


@dataclass(frozen=True)
class Call:
    """One call of one module: its dotted name, which call of that module it was, and its first input and output.

    Of a function between modules, `module` is what does the same and `function` says which call of which function it is; its
    name is that of the module that called it with the function's behind.
    """

    name: str
    module: nn.Module
    nth: int
    input: Place
    output: Place
    leaf: bool
    function: Function | None = None

    @property
    def counted(self) -> Hashable:
        """By what calls are counted: the module, or the function's name."""
        return self.function.name if self.function else self.module


@dataclass(frozen=True)
class Trace:
    """All calls of one encoding, in the order in which they ended, and the posterior that came of them.

    `counts` has how often each module, and each function by its name, was called.
    """

    calls: tuple[Call, ...]
    mean: Place
    logvar: Place
    counts: Mapping[Hashable, int]

    def producer(self, place: Place, before: int) -> int | None:
        """Index of the last leaf call before index `before` whose output is `place`."""
        for index in range(before - 1, -1, -1):
            if self.calls[index].leaf and self.calls[index].output.holds_same(place):
                return index
        return None

    def last_call(self, module: nn.Module) -> int | None:
        """Index of the last call of a module."""
        for index in range(len(self.calls) - 1, -1, -1):
            if self.calls[index].module is module:
                return index
        return None

    def outermost(self, place: Place) -> int | None:
        """Index of the last call, container or leaf, that gave out `place` in the same shape and had made it."""
        for index in range(len(self.calls) - 1, -1, -1):
            call = self.calls[index]
            if call.leaf and call.input.holds_same(call.output):
                continue  # an identity
            if call.output.tensor.shape == place.tensor.shape and call.output.holds_same(place):
                return index
        return None


class Images(nn.Identity):
    """What stands for the images themselves among the calls: a layer like others, before all of them."""

    NAME = "images"


def trace(model: nn.Module, images: Tensor, themselves: bool = False, grad: bool = False) -> Trace:
    """Encode `images` (B, C, H, W) once in eval mode and record every call.

    Args:
        model: has encode(images) -> (mean, logvar).
        images: (B, C, H, W).
        themselves: whether the images come first, as a layer, unless a module has that name.
        grad: whether with gradients, in one graph.
    """
    seen = _Recorder({module: name for name, module in model.named_modules()})
    handles: list[RemovableHandle] = []
    # Version counters do not exist in inference mode, and hooks see module calls alone: `encode` itself is a plain method.
    # An `encode` that draws random numbers or counts its calls even in eval mode must leave the caller's as they are.
    try:
        for module in seen.names:
            if takes_hooks(module):
                handles.append(module.register_forward_pre_hook(own_thread(seen.enter)))
                handles.append(module.register_forward_hook(own_thread(seen.leave)))
        with eval_mode(model), undone(model, images.device), torch.inference_mode(False), torch.set_grad_enabled(grad):
            images = images.detach().clone()
            if grad:
                images = images.requires_grad_().clone()  # some write into their input, which a leaf does not allow
            if themselves:
                seen.start(images)
            with calls_of_functions(seen):
                mean, logvar = posterior(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(tuple(seen.calls), Place.of(mean), Place.of(logvar), seen.counts)


class _Recorder:
    """What hooks on all modules, and functions, tell during one encoding."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names = names
        self.calls: list[Call] = []
        self.counts: Counter[Hashable] = Counter()
        self._entered: dict[nn.Module, list[Place]] = {}
        self._inside: list[tuple[nn.Module, int]] = []  # which modules are at work, and how many calls there were before each
        self._taken = {*names.values(), ""}
        self._argument = Place.of(torch.empty(0, device="cpu"))

    def start(self, images: Tensor) -> None:
        """The images, before all calls."""
        if Images.NAME not in self._taken:
            layer = Images()
            nothing = Place.of(torch.empty(0, device="cpu"))  # so that it is no module that gives its input on
            self.calls.append(Call(Images.NAME, layer, 0, nothing, Place.of(images), leaf=True))
            self.counts[layer] = 1
            self._taken.add(Images.NAME)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A pre-hook."""
        self._inside.append((module, len(self.calls)))
        if args and isinstance(args[0], Tensor):
            self._entered.setdefault(module, []).append(Place.of(args[0]))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A hook."""
        _, first = self._inside.pop()
        stack = self._entered.get(module)
        nth = self.counts[module]
        self.counts[module] += 1
        if stack and isinstance(output, Tensor):
            place = Place.of(output)
            leaf = not any(takes_hooks(child) for child in module.children())
            # A module of one's own whose output is that of a function in it: the function is what is to be known.
            if leaf and not _is_torchs(module) and len(self.calls) > first and self.calls[-1].output.holds_same(place):
                leaf = False
            self.calls.append(Call(self.names[module], module, nth, stack.pop(), place, leaf))

    def before(self, function: Function, module: nn.Module, argument: Tensor) -> None:
        """See `functions.Listener`."""
        self._argument = Place.of(argument)

    def after(self, function: Function, module: nn.Module, output: Tensor) -> None:
        """See `functions.Listener`."""
        self.counts[function.name] += 1
        within = self._inside[-1][0] if self._inside else None
        if within is not None and _is_torchs(within) and not any(within.children()):
            return  # how one of torch's modules does its work
        if isinstance(module, nn.Flatten) and (output.ndim != 2 or len(output) != len(self._argument.tensor)):
            return  # another view than of images as vectors
        path = self.names[within] + "." if within is not None and self.names[within] else ""
        name, number = path + function.name, 0
        while name in self._taken:
            number += 1
            name = f"{path}{function.name}_{number}"
        self._taken.add(name)
        self.calls.append(Call(name, module, 0, self._argument, Place.of(output), True, function))


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")
