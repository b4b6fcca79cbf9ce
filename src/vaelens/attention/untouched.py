"""Looking at a model and leaving it as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from vaelens.attention.functions import unheard


@contextmanager
def hooks(*handles: RemovableHandle) -> Iterator[None]:
    """Remove `handles` on the way out, also after an exception."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def own_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for calls by the present thread alone: another one may be using the model at the same time."""
    if torch.compiler.is_compiling():
        return hook
    mine = threading.get_ident()

    def run(*args: Any) -> Any:
        if threading.get_ident() != mine:
            return None
        with unheard():
            return hook(*args)

    return run


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Have every module of `model` in eval mode and give each its own mode back on the way out."""
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]  # frozen scripts have none
    try:
        for module, _ in modes:
            # Not module.eval(): a `train` of its own may do more than say so, such as freeze weights or merge them.
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def uncompiled() -> AbstractContextManager[None]:
    """Have compiled parts of a model run as they were written: compiled code does not call hooks added later."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def is_transforming() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp) is under way: its tensors have no memory to follow."""
    peek = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    return peek is not None and peek() is not None


class Snapshot:
    """Random numbers, and a model's buffers, to go back to before the model runs a second time.

    Args:
        model: whose buffers (running statistics, counters).
        device: of the images.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._rng = torch.get_rng_state()
        self._cuda_rng = torch.cuda.get_rng_state(device) if self._cuda is not None else None
        self._buffers: list[tuple[nn.Module, str, Tensor | None, Tensor | None]] = []
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is None or not is_lazy(buffer):  # one without a shape yet gets it, as by any first call
                    self._buffers.append((module, name, buffer, None if buffer is None else buffer.detach().clone()))

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self._rng)
        if self._cuda_rng is not None and self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda_rng, self._cuda)
        for module, name, buffer, content in self._buffers:
            module._buffers[name] = buffer
            if buffer is not None and content is not None and not torch.equal(buffer, content):
                # As data, which counts as no write: a graph of the caller's may hold the buffer.
                buffer.data = content if buffer.shape != content.shape else buffer.data.copy_(content)


@contextmanager
def undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Whatever the block draws or writes into buffers is undone at its end."""
    before = Snapshot(model, device)
    try:
        yield
    finally:
        before.restore()
