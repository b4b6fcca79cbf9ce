"""Codes and ground-truth factors as given, checked: what every metric of disentanglement starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.metrics.arrays import as_array

Array = Tensor | ArrayLike
_LARGEST = 1e30  # squares of codes are summed, and forests hold codes as float32
_COUNTED = 1 << 20  # values of a factor that lie within a range of this size are numbered by counting, others by sorting


@dataclass(frozen=True, eq=False)
class Labelled:
    """Codes with the value of every factor.

    Attributes:
        codes: (N, D), float32 or float64, finite, row after row in memory.
        labels: (F, N), for each factor the number of its value, from 0 on in the order of the values.
        values: F numbers of values, 2 or more each.
    """

    codes: NDArray[Any]
    labels: NDArray[Any]
    values: tuple[int, ...]


def labelled(metric: str, codes: Array, factors: Array, least_latents: int = 1, least_factors: int = 1) -> Labelled:
    """Codes (N, D) and factors (N, F) as they are given to `metric`: tensors on any device, arrays or lists.

    Codes are float32 or float64 afterwards, without a copy where they were. Factors are whole numbers of any type, floats among
    them; which number stands for which value does not matter.

    Raises:
        UsageError: another shape, N < 2, different N, a code that is no finite real number, a factor that is no whole number or
            has one value only, or fewer latents or factors than the metric needs.
    """
    latents = _table("codes", codes, "latents")
    values = _table("factors", factors, "factors")
    given = f"codes {latents.shape} and factors {values.shape}"
    if len(latents) != len(values):
        raise UsageError(f"{given} must have as many rows: one for each observation")
    if len(latents) < 2:
        raise UsageError(f"{given} must have at least 2 rows: one observation varies in nothing")
    for name, count, least in ("latent", latents.shape[1], least_latents), ("factor", values.shape[1], least_factors):
        if count < least:
            raise UsageError(f"{metric} needs at least {least} {name}s, got {given}")
    latents = _finite(latents)
    columns = [_numbered(column, values[:, column]) for column in range(values.shape[1])]
    counts = tuple(count for _, count in columns)
    kind = _smallest(max(counts))
    return Labelled(latents, np.stack([labels.astype(kind) for labels, _ in columns]), counts)


def _table(name: str, given: Array, columns: str) -> NDArray[Any]:
    values = as_array(given, f"{name} must be an array (observations, {columns})")
    if values.ndim != 2 or values.shape[1] < 1:
        raise UsageError(f"{name} must have the shape (observations, {columns}), got {values.shape}")
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise UsageError(f"{name} must hold real numbers of at most 64 bits, got {values.dtype}")
    return values


def _finite(codes: NDArray[Any]) -> NDArray[Any]:
    """Codes as float32 or float64, row after row."""
    kept = np.float32 if codes.dtype.kind == "f" and codes.dtype.itemsize <= 4 else np.float64
    codes = np.ascontiguousarray(codes, kept)
    fit = np.abs(codes) <= _LARGEST  # not so for NaN either
    if not fit.all():
        row, latent = np.unravel_index(int(fit.argmin()), codes.shape)
        raise UsageError(
            f"codes must be finite, at most {_LARGEST:g} in size, got {codes[row, latent]} in row {row}, latent {latent}"
        )
    return codes


def _numbered(factor: int, column: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The number of each value (N,) among the different ones in their order, and how many there are."""
    if column.dtype.kind == "f":
        whole = np.isfinite(column) & (column == np.rint(column))
        if not whole.all():
            row = int(whole.argmin())
            raise UsageError(f"factors must be whole numbers, got {column[row]} in row {row}, factor {factor}")
        column = column.astype(np.float64)
    elif column.dtype.kind in "ib":
        column = column.astype(np.int64)  # the difference of two int8 may be none
    low, high = column.min(), column.max()
    if low == high:
        raise UsageError(f"factor {factor} is constant; leave it out")
    if int(high) - int(low) >= _COUNTED:
        different, labels = np.unique(column, return_inverse=True)
        return labels, len(different)
    offset = (column - low).astype(np.intp)
    there = np.bincount(offset) > 0
    count = int(there.sum())
    return offset if count == len(there) else (np.cumsum(there) - 1)[offset], count


def _smallest(values: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type for the numbers of so many values: those of 16 bits and less are sorted in linear time."""
    return np.uint8 if values <= 1 << 8 else np.uint16 if values <= 1 << 16 else np.uint32
