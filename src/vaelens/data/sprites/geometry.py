"""The shapes of dSprites (Matthey et al. 2017): where they lie, and which pixels are on.

A pixel is on where its centre (column + 0.5, row + 0.5) lies inside the shape; nothing is smoothed.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vaelens.errors import UsageError

FACTORS = ("shape", "scale", "orientation", "posX", "posY")
SIZES = (3, 6, 40, 32, 32)
SHAPES = ("square", "ellipse", "heart")
SIDE = 64
SCALES = np.linspace(0.5, 1.0, SIZES[1])
ANGLES = np.linspace(0.0, 2 * math.pi, SIZES[2])  # both ends: the first and the last look the same
REACH = 14  # pixels from the centre that no shape goes beyond
STEPS = SIZES[3] - 1  # centres lie 32/31 pixels apart, so offsets from them are odd multiples of 1/62
_HALF_SQUARE, _HALF_WIDTH, _HALF_HEIGHT = 9.6, 12.8, 7.2
_AT_ONCE = 256

Floats = NDArray[np.float64]


def gauge(shape: int, orientation: int, dx: Floats, dy: Floats) -> Floats:
    """The scale at which a point would lie on a shape's outline: it is inside at all larger ones.

    Args:
        shape: 0 square, 1 ellipse, 2 heart.
        orientation: 0 to 39.
        dx: offsets from the centre in pixels, to the right.
        dy: likewise, downwards; broadcast against `dx`.
    """
    cos, sin = math.cos(ANGLES[orientation]), math.sin(ANGLES[orientation])
    u, v = cos * dx - sin * dy, sin * dx + cos * dy
    scale: Floats
    if shape == 0:
        scale = np.maximum(np.abs(u), np.abs(v)) / _HALF_SQUARE
    elif shape == 1:
        scale = np.sqrt(np.square(u / _HALF_WIDTH) + np.square(v / _HALF_HEIGHT))
    else:
        angles, radii = heart_outline()
        scale = np.hypot(u, v) / np.interp(np.arctan2(v, u), angles, radii, period=2 * math.pi)
    return scale


@cache
def heart_outline() -> tuple[Floats, Floats]:
    """The heart's outline at scale 1: angles in radians, ascending, and radii in pixels from the centre."""
    with resources.files(__package__).joinpath("heart_outline.csv").open(encoding="ascii") as file:
        angles, radii = np.loadtxt(file, delimiter=",", skiprows=1, unpack=True)
    return angles, radii


def offsets(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which offset from its shape's centre each of 64 pixel centres in a row (or column) has, as whole numbers.

    Args:
        position: (...), 0 to 31.

    Returns:
        (..., 64): m stands for (m + 0.5) / 31 pixels.
    """
    return STEPS * (np.arange(SIDE) - SIDE // 4) + STEPS // 2 - (SIDE // 2) * position[..., None]


def pixels(offset: NDArray[np.int64]) -> Floats:
    """Offsets as whole numbers -> pixels."""
    return (offset + 0.5) / STEPS


def render(latent_classes: Tensor | ArrayLike) -> NDArray[np.bool_]:
    """Draw sprites by their factors, as the official dSprites has them to within 2 pixels in the mean.

    Args:
        latent_classes: (N, 5) whole numbers: shape (0 square, 1 ellipse, 2 heart), scale 0-5, orientation 0-39, posX 0-31,
            posY 0-31.

    Returns:
        (N, 64, 64), bool.

    Raises:
        UsageError: another shape or type, or a class outside its range.
    """
    classes = check_classes(latent_classes)
    images = np.empty((len(classes), SIDE, SIDE), np.bool_)
    for start in range(0, len(classes), _AT_ONCE):
        part = classes[start : start + _AT_ONCE]
        x, y = pixels(offsets(part[:, 3]))[:, None, :], pixels(offsets(part[:, 4]))[:, :, None]
        for at, (shape, scale, orientation, *_) in enumerate(part.tolist()):
            images[start + at] = gauge(shape, orientation, x[at], y[at]) < SCALES[scale]
    return images


def check_classes(latent_classes: Tensor | ArrayLike) -> NDArray[np.int64]:
    """Classes (N, 5) as int64.

    Raises:
        UsageError: another shape or type, or a class outside its range; the message names the first.
    """
    classes = as_integers(latent_classes)
    if classes.ndim != 2 or classes.shape[1] != len(SIZES) or classes.dtype.kind not in "iu":
        raise UsageError(
            f"latent_classes are whole numbers (N, 5), {', '.join(FACTORS)}; got {classes.dtype} {tuple(classes.shape)}"
        )
    wrong = np.argwhere((classes < 0) | (classes >= np.array(SIZES)))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UsageError(f"{FACTORS[column]} goes from 0 to {SIZES[column] - 1}, and row {row} has {int(classes[row, column])}")
    return classes.astype(np.int64)


def as_integers(values: Tensor | ArrayLike) -> NDArray[Any]:
    """A tensor on any device, an array or a list as an array; of no shape that anything takes where numpy makes none of it."""
    if isinstance(values, list | tuple) and not values:  # which numpy makes floats of
        return np.empty(0, np.int64)
    try:
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError):  # bfloat16, which is no type of numpy's, a sparse tensor, rows of different lengths
        return np.empty(0, object)
