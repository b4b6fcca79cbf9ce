"""A trained run as one file of ONNX, explanation and all, and such a file opened again.

    written = export_run(load_run("runs/ones"), "model.onnx")
    model = load("model.onnx")
    result = model(images)          # images (B, H, W, C), uint8; result["score"], result["masks"], ...

chosen      what of a run goes in: whose maps, whose scores
traced      attention and localizers in operations that a file can hold
nearest     neighbours and their weights likewise
evened      brightness likewise
graph       bytes in, named results out, as one module
described   what the file says about itself
onnx_file   tracing, and the bytes of the file
checked     the file beside torch, before it is written
writing     the main job
loaded      a file opened, with onnxruntime and numpy alone

Names are imported when they are first used: to open a file takes no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaelens.export.chosen import EXPORTABLE
    from vaelens.export.described import OUTPUTS
    from vaelens.export.graph import AttentionGraph, RunGraph
    from vaelens.export.loaded import ExportedModel, load
    from vaelens.export.writing import Exported, export_attention, export_run

__all__ = [
    "EXPORTABLE",
    "OUTPUTS",
    "AttentionGraph",
    "Exported",
    "ExportedModel",
    "RunGraph",
    "export_attention",
    "export_run",
    "load",
]

_HOME = {
    "EXPORTABLE": "chosen",
    "OUTPUTS": "described",
    "AttentionGraph": "graph",
    "RunGraph": "graph",
    "ExportedModel": "loaded",
    "load": "loaded",
    "Exported": "writing",
    "export_attention": "writing",
    "export_run": "writing",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"vaelens.export.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vaelens.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
