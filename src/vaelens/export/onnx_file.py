"""A traced module as the bytes of a file of ONNX, and such a file opened."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaelens._version import __version__
from vaelens.errors import UsageError
from vaelens.export.named import rename
from vaelens.output import to_json

KEY = "vaelens"  # of the metadata
LIMIT = (1 << 31) - 1  # bytes that one file of ONNX can have
_TALKATIVE = ("torch.onnx", "torch.export", "torch.onnx._internal.exporter._registration")
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_SMALL = 1 << 16  # numbers of a constant that is looked for among others


def check_installed() -> None:
    """Raise unless what writes and opens files of ONNX is there.

    Raises:
        UsageError: it is not; the message has the command that installs it.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"to export takes {error.name}, which is not installed: pip install 'vaelens[onnx]'") from None


def to_onnx(graph: nn.Module, example: Tensor, outputs: Sequence[str], metadata: Mapping[str, Any]) -> bytes:
    """Trace a module, with a batch of any size.

    Args:
        graph: takes one batch and returns a tensor for each of `outputs`.
        example: a batch of two or more.
        outputs: their names in the file.
        metadata: what is to be known of the file; JSON under "vaelens".

    Raises:
        UsageError: something in it cannot be traced, or the file would have more than 2 GB.
    """
    import onnx
    import onnx_ir.passes.common as passes

    try:
        with _quiet(), torch.no_grad():
            made = torch.onnx.export(trace(graph, example), dynamo=True, verbose=False)
            assert made is not None
            for tidy in (
                passes.DeduplicateInitializersPass(size_limit=_SMALL),
                passes.CommonSubexpressionEliminationPass(),
                passes.RemoveUnusedNodesPass(),
                passes.ClearMetadataAndDocStringPass(),  # paths of this machine among it
            ):
                tidy(made.model)
    except Exception as error:
        first = error
        while isinstance(first.__cause__, Exception):  # torch wraps what happened in advice on how to report it
            first = first.__cause__
        why = " ".join(_COLOURS.sub("", str(first)).split())[:200] or type(first).__name__
        raise UsageError(f"{_name(graph)} cannot be traced into a file of ONNX: {why}") from error
    sized = sum(value.const_value.nbytes for value in made.model.graph.initializers.values() if value.const_value is not None)
    if sized > LIMIT:
        raise too_large(sized)
    proto = made.model_proto
    proto.producer_name, proto.producer_version = KEY, __version__
    proto.doc_string = str(metadata.get("about", ""))
    proto.graph.name = KEY
    rename(proto.graph, outputs)
    onnx.helper.set_model_props(proto, {KEY: to_json(metadata)})
    content = proto.SerializeToString()
    onnx.checker.check_model(content)
    return bytes(content)


def trace(graph: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The operations of one forward pass, for a batch of any size; `.module()` of it can be compiled.

    Args:
        graph: takes one batch.
        example: a batch of two or more.
    """
    with torch.no_grad():
        return torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)


def too_large(size: int, more: str = "") -> UsageError:
    """The error of a file that ONNX has no room for; `more` about it."""
    return UsageError(f"the file would have {size / 1e9:.1f} GB, and one of ONNX has room for 2 GB{more}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to oneself what torch says while it traces: of packages that are not needed, and graphs in full where it fails."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _name(graph: nn.Module) -> str:
    return type(getattr(graph, "model", graph)).__name__
