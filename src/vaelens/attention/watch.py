"""What happens in the head during one encoding: the slopes of its activations, and whether it still is what the plan says.

The plan is made once and in eval mode. Code between the modules may do otherwise later: functional dropout in training mode, a
flag, a module put in another's place. So each encoding checks anew that every module takes in what the one before gave out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaelens.attention.functions import Function
from vaelens.attention.head import SLOPES, LinearHead, NoClosedForm, Stage
from vaelens.attention.search import slice_units
from vaelens.attention.trace import Place
from vaelens.attention.untouched import own_thread


class HeadWatch:
    """Hooks on the modules of a head, and ears for its functions, for one encoding.

    Attributes:
        slopes: (B, J) for each activation, once the encoding is done.
    """

    def __init__(self, head: LinearHead) -> None:
        self.head = head
        self.slopes: dict[Stage, Tensor] = {}
        self._by_function = {stage.function: stage for stage in head.stages if stage.function is not None}
        self._inputs: dict[Stage, Place] = {}
        self._outputs: dict[Stage, Place] = {}
        self._states: dict[Stage, tuple[bool, int]] = {}
        # Where the forward pass itself is traced into a graph, tensors have no memory to compare, and nothing changes later.
        self._compares = not torch.compiler.is_compiling()

    def register(self) -> list[RemovableHandle]:
        """Add the hooks; whoever calls removes them."""
        by_module: dict[nn.Module, set[Stage]] = {}
        for stage in self.head.modules:
            if stage.function is not None:
                continue
            by_module.setdefault(stage.module, set()).add(stage)
        handles = []
        for module, stages in by_module.items():
            before, after = self._hooks({stage.nth: stage for stage in stages})
            handles.append(module.register_forward_pre_hook(own_thread(before)))
            handles.append(module.register_forward_hook(own_thread(after)))
        return handles

    @property
    def functions(self) -> HeadWatch | None:
        """Who is to be told of functions: itself, where the head has some."""
        return self if self._by_function else None

    def before(self, function: Function, module: nn.Module, argument: Tensor) -> None:
        """See `functions.Listener`."""
        stage = self._by_function.get(function)
        # With another slope or bound than when the plan was made it is another function.
        if stage is not None and type(module) is stage.kind and repr(module) == repr(stage.module):
            self._inputs[stage] = Place.of(argument)
            self._states[stage] = _state(stage.module)
            if stage.kind in SLOPES:
                self.slopes[stage] = SLOPES[stage.kind](module, argument.flatten(1))

    def after(self, function: Function, module: nn.Module, output: Tensor) -> None:
        """See `functions.Listener`."""
        stage = self._by_function.get(function)
        if stage is not None:
            self._outputs[stage] = Place.of(output)

    def _hooks(
        self, by_call: dict[int, Stage]
    ) -> tuple[Callable[[nn.Module, tuple[Any, ...]], None], Callable[[nn.Module, Any, Any], None]]:
        calls = 0

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            # Before the call, since an activation in place destroys its input.
            stage = by_call.get(calls)
            if stage is not None and args and isinstance(args[0], Tensor):
                if self._compares:
                    self._inputs[stage] = Place.of(args[0])
                    self._states[stage] = _state(module)
                if stage.kind in SLOPES:
                    self.slopes[stage] = SLOPES[stage.kind](module, args[0].flatten(1))

        def after(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            stage = by_call.get(calls)
            if stage is not None and self._compares and isinstance(output, Tensor):
                self._outputs[stage] = Place.of(output)
            calls += 1

        return before, after

    def check(self, features: Place, mean: Tensor, logvar: Tensor) -> None:
        """Follow the feature map through the head.

        Raises:
            NoClosedForm: something lies between two modules that did not when the plan was made.
        """
        if not self._compares:
            return
        place = features
        for stage in self.head.modules:
            if self._states.get(stage) != _state(stage.module):
                raise NoClosedForm(f"'{stage.name}' had another mode or other weights during the encoding than it has now")
        for stage in self.head.stages:
            self._check_input(stage, place)
            place = self._outputs[stage]
        for name, final in self.head.finals.items():
            self._check_input(final.stage, place)
            units = slice_units(self._outputs[final.stage], Place.of(mean if name == "mean" else logvar))
            if units is None or not torch.equal(units, final.units):
                raise NoClosedForm(f"the {name} is no longer the output of '{final.stage.name}' alone")

    def _check_input(self, stage: Stage, place: Place) -> None:
        if stage not in self._outputs or stage not in self._inputs or not self._inputs[stage].holds_same(place):
            raise NoClosedForm(f"something that is no module comes before '{stage.name}' now, such as dropout by function")


def _state(module: nn.Module) -> tuple[bool, int]:
    """Its mode, and where its weight lies: code may change either around a call."""
    weight = getattr(module, "weight", None)
    return module.training, weight.data_ptr() if isinstance(weight, Tensor) else 0
