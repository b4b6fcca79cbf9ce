"""A file run beside torch before it is written: other versions of torch, onnx or onnxruntime may do other things."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vaelens.data.files import shown
from vaelens.output import OutputError

TOLERANCE = 1e-4
"""How far any result may be from torch's, relative to the largest value of that result."""


def check(content: bytes, images: Tensor, expected: Mapping[str, Tensor], path: Path) -> dict[str, float]:
    """By result, the largest difference from what is expected, relative to the largest value expected.

    One image may be off by more: its last neighbour may be as near as the next one, and rounding then chooses.

    Raises:
        OutputError: onnxruntime does not run it, or more than one image is off by more than 1e-4.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        results = session.run(list(expected), {session.get_inputs()[0].name: images.numpy()})
    except Exception as error:  # onnxruntime's errors have no class in common
        why = " ".join(str(error).split())[:200]
        raise OutputError(
            f"{shown(path)} is not written: onnxruntime does not run it ({why}); another version, or a model in float32, may do"
        ) from error
    found: dict[str, float] = {}
    for (name, wanted), result in zip(expected.items(), results, strict=True):
        scale = float(wanted.abs().max()) or 1.0
        off = (torch.from_numpy(result) - wanted).abs().flatten(1 if wanted.ndim > 1 else 0)
        per_image = off.amax(1) if off.ndim > 1 else off
        found[name] = float(per_image.max()) / scale
        allowed = per_image.sort().values[-2] if len(per_image) > 1 else per_image.max()
        if not float(allowed) / scale <= TOLERANCE:  # NaN is neither
            raise OutputError(
                f"{shown(path)} is not written: its {name} are {found[name]:.0e} of their range from torch's, more than "
                f"{TOLERANCE:.0e}; another version of torch or onnxruntime may do"
            )
    return found
