"""An exported file, opened with onnxruntime; needs neither torch nor the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelens.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "vaelens"
_NUMPY = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}


class ExportedModel:
    """What `vaelens export` wrote, ready to run.

    Attributes:
        path: the file.
        metadata: what it says about itself: preprocessing, thresholds, what each output is.
        input_shape: of one image, (H, W, C) of a run's file.
        dtype: of the images, "uint8" of a run's file.
        outputs: the names of the results.
    """

    def __init__(self, path: Path, session: Any, metadata: dict[str, Any]) -> None:
        self.path = path
        self.metadata = metadata
        self._session = session
        (images,) = session.get_inputs()
        self._input = images.name
        self.input_shape = tuple(int(side) for side in images.shape[1:])
        self.dtype = _NUMPY[images.type]
        self.outputs = tuple(output.name for output in session.get_outputs())

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The results for a batch, by name; those of a run's file are called as in `vaelens.runs.Verdict`.

        Args:
            images: (B, *input_shape) of `dtype`, B of any size from 1 on.

        Raises:
            UsageError: images of another size or type; one line that says which it takes.
        """
        shape, dtype = getattr(images, "shape", None), str(getattr(images, "dtype", type(images).__name__))
        if shape is None or dtype != self.dtype or tuple(shape[1:]) != self.input_shape or not shape[0]:
            sides = ", ".join(map(str, self.input_shape))
            got = dtype if shape is None else f"{dtype} {tuple(shape)}"
            raise UsageError(f"{_shown(self.path)} takes {self.dtype} images (B, {sides}) with B from 1 on, got {got}")
        results: list[NDArray[Any]] = self._session.run(None, {self._input: _plain(images)})
        return dict(zip(self.outputs, results, strict=True))

    def __repr__(self) -> str:
        sides = ", ".join(map(str, self.input_shape))
        return f"ExportedModel({str(self.path)!r}, {self.dtype} (B, {sides}) -> {', '.join(self.outputs)})"


def load(path: str | Path, threads: int | None = None) -> ExportedModel:
    """Open a file that `vaelens export` wrote.

    Args:
        path: the file.
        threads: of onnxruntime; None: as many as there are cores.

    Raises:
        UsageError: onnxruntime is not installed.
        DataError: no such file, or not one that vaelens exported.
    """
    path = Path(path)
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("to open an exported file takes onnxruntime: pip install onnxruntime") from None
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"cannot read {_shown(path)}: {error.strerror or error}") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # errors, which are raised below; warnings of constants that are folded say nothing to anyone
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        why = " ".join(str(error).split())[:160]
        raise DataError(f"{_shown(path)} is no file of ONNX, or damaged ({why}); export the run again") from error
    try:
        metadata = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        return ExportedModel(path, session, dict(metadata))
    except (KeyError, ValueError, TypeError, RecursionError):  # no metadata, others than ours, or an input that is not images
        raise DataError(f"{_shown(path)} was not written by vaelens export; open it with onnxruntime") from None


def _shown(path: Path) -> str:
    return str(path) if str(path).isprintable() else ascii(str(path))  # as `vaelens.data.files.shown`, which imports torch


def _plain(images: Any) -> Any:
    import numpy

    return numpy.ascontiguousarray(images)
