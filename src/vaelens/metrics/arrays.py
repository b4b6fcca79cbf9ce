"""Maps, masks, scores and labels as given, tensors or arrays, checked and as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, bfloat16

from vaelens.errors import UsageError, brief


def as_array(values: Tensor | ArrayLike, needed: str = "numbers must be an array") -> NDArray[Any]:
    """A tensor on any device, an array or a list as an array, without a copy where none is needed.

    Raises:
        UsageError: what is `needed`, where none can be made: rows of different lengths, a sparse tensor.
    """
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            return (values.float() if values.dtype == bfloat16 else values).numpy()
        return np.asarray(values)
    except (TypeError, ValueError):
        raise UsageError(f"{needed}, got {brief(values)}") from None


def as_maps(maps: Tensor | ArrayLike) -> NDArray[Any]:
    """Maps (B, H, W) of real numbers as floats.

    Raises:
        UsageError: they have another shape, no pixels, or are no real numbers.
    """
    values = as_array(maps, "maps must be an array (images, height, width)")
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise UsageError(f"maps must have the shape (images, height, width), got {values.shape}")
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise UsageError(f"maps must hold real numbers of at most 64 bits, got {values.dtype}")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def as_masks(masks: Tensor | ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Masks of this shape as bool; whole numbers are true where they are not zero.

    Raises:
        UsageError: they have another shape or type.
    """
    values = as_array(masks, f"masks must be an array {shape}")
    if values.shape != shape:
        raise UsageError(f"masks must have the shape of their maps, {shape}, got {values.shape}")
    if values.dtype.kind not in "biu":
        raise UsageError(f"masks must be bool, got {values.dtype}; give masks > 0")
    return values.astype(bool, copy=False)


def as_scores(scores: Tensor | ArrayLike, count: int) -> NDArray[np.float64]:
    """Scores (B,) of images as float64.

    Raises:
        UsageError: there are not `count` of them, or one is NaN.
    """
    values = _one_each("scores", scores, count).astype(np.float64)
    if np.isnan(values).any():
        raise UsageError(f"the score of image {int(np.isnan(values).argmax())} is NaN; figures are not defined for NaN")
    return values


def as_labels(anomalous: Tensor | ArrayLike, count: int) -> NDArray[np.bool_]:
    """Labels (B,) of images as bool.

    Raises:
        UsageError: there are not `count` of them.
    """
    return _one_each("anomalous", anomalous, count).astype(bool)


def _one_each(name: str, values: Tensor | ArrayLike, count: int) -> NDArray[Any]:
    array = as_array(values, f"{name} must be an array ({count},)")
    if array.shape != (count,) or array.dtype.kind not in "fiub":
        raise UsageError(f"{name} must hold one number for each of the {count} maps, got {brief(values)}")
    return array
