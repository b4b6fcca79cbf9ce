"""Names in a file: of its input, its results and its weights those that people read, of all else numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INPUT = "images"
_BATCH = "batch"
_WEIGHTS = "model."  # of the network, by their names in it


def rename(graph: Any, outputs: Sequence[str]) -> None:
    """Give the values of a traced graph their names, in place.

    torch names values by what makes them, such as `mean`, and a result may be called so too.

    Args:
        graph: onnx.GraphProto with one input, whose first axis, as that of each result, is the batch.
        outputs: the names of its results, in order.
    """
    names = {graph.input[0].name: INPUT}
    for number, (result, name) in enumerate(zip(graph.output, outputs, strict=True)):
        if result.name in names:  # two results that are the same
            again = graph.node.add(op_type="Identity", input=[result.name], output=[f"{result.name}/{number}"])
            result.name = again.output[0]
        names[result.name] = name
    constants = [one.name for one in graph.initializer if not one.name.startswith(_WEIGHTS)]
    names |= {name: f"constant_{number}" for number, name in enumerate(constants)}
    made = [name for node in graph.node for name in node.output if name and name not in names]
    names |= {name: f"value_{number}" for number, name in enumerate(made)}
    _apply(graph, names)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    del graph.value_info[:]


def _apply(graph: Any, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for below in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _apply(below, names)
