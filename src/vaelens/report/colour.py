"""Maps to colours: one colour map, one scale, and an overlay that hides nothing where the map is zero.

The colour map is viridis. It is perceptually uniform and reads alike with every common colour blindness, as cividis and
magma do; but cividis passes through grey and magma ends in black and near-white, so over a grey-scale photograph their
colours look like parts of the picture. Every colour of viridis is visibly a colour.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vaelens.errors import UsageError
from vaelens.report.content import Array, check_map, check_picture

if TYPE_CHECKING:
    from PIL import Image

COLOUR_MAP = "viridis"
PERCENTILE = 99.5
_MOST_OPAQUE = 0.85
_POOLED_VALUES = 4_000_000
# Of PNG. Photographs hold no strings worth looking for: runs alone take half the time and come out no larger. Maps do; beyond
# this level they shrink by 5 % in half as much time again.
_PHOTOGRAPH = {"compress_level": 1, "compress_type": zlib.Z_RLE}
_LEVELS = {"compress_level": 4}


@cache
def palette() -> npt.NDArray[np.uint8]:
    """The colour map as (256, 3) uint8, from the colour of 0 to that of the limit."""
    from matplotlib import colormaps

    return np.asarray(colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3], dtype=np.uint8)


def opacity(level: Array) -> npt.NDArray[np.float64]:
    """How much of the image a map hides, for levels t = map / limit in [0, 1]: 0.85 t (2 - t).

    Straight proportion makes weak but real responses vanish; a square root draws an edge around cells that are nearly 0.
    """
    bounded = np.clip(np.asarray(level, dtype=np.float64), 0, 1)
    return np.asarray(_MOST_OPAQUE * bounded * (2 - bounded))


def check_limit(limit: float) -> None:
    """Raise UsageError unless `limit` can be the upper end of a colour scale."""
    if not 0 < limit < float("inf"):
        raise UsageError(f"the limit of a colour scale must be a positive number, not {limit}")


def common_limit(maps: Iterable[Array], limit: float | None = None) -> float:
    """The upper end of one colour scale for all `maps`.

    Args:
        maps: arrays of any shape, at least 0.
        limit: returned as it is, where given.

    Returns:
        The 99.5th percentile over all values; their maximum where that is 0; 1 where all are 0. Of more than four
        million values, evenly spaced ones stand for the rest.

    Raises:
        UsageError: the given limit is not positive.
    """
    if limit is not None:
        check_limit(limit)
        return float(limit)
    flat = [np.asarray(values).ravel() for values in maps]
    flat = [values for values in flat if values.size]
    if not flat:
        return 1.0
    step = max(1, -(-sum(values.size for values in flat) // _POOLED_VALUES))
    found = float(np.percentile(np.concatenate([values[::step] for values in flat]), PERCENTILE))
    if found > 0:
        return found
    highest = max(float(values.max()) for values in flat)
    return highest if highest > 0 else 1.0


def picture(values: Array) -> npt.NDArray[np.uint8]:
    """An image as uint8, (H, W) or (H, W, 3), from uint8 or from floats in [0, 1] (clipped).

    Raises:
        UsageError: another shape or type.
    """
    check_picture("an image", values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.dtype == np.uint8:
        return values
    return np.asarray(np.clip(values * 255.0 + 0.5, 0, 255), dtype=np.uint8)


def resize_map(values: Array, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A map at another resolution: the grid of cells covers the same area, so a cell keeps its place in the image.

    Args:
        values: (h, w).
        size: (H, W); bilinear between the centres of the cells where larger; where smaller, the largest of each block of
            cells, then area-weighted.

    Returns:
        (H, W).
    """
    from PIL import Image

    source = np.ascontiguousarray(values, dtype=np.float32)
    by = source.shape[0] // size[0], source.shape[1] // size[1]
    if max(by) > 1:  # the largest of each block: a mean would let a small hot spot fade
        height, width = (n // b * b for n, b in zip(source.shape, by, strict=True))
        blocks = source[:height, :width].reshape(height // by[0], by[0], width // by[1], by[1])
        source = np.ascontiguousarray(blocks.max((1, 3)))
    if source.shape == size:
        return source
    resized = Image.fromarray(source).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def levels(values: Array, limit: float, steps: int = 256) -> npt.NDArray[np.uint8]:
    """Map values as levels 0 to `steps` - 1 of the scale from 0 to `limit`; higher values take the last level."""
    check_limit(limit)
    scaled = np.clip(np.asarray(values, dtype=np.float64) / limit, 0, 1)
    return np.asarray(np.rint(scaled * (steps - 1)), dtype=np.uint8)


def colourise(values: Array, limit: float) -> npt.NDArray[np.uint8]:
    """The map alone, (h, w) to (h, w, 3) uint8: the first colour at 0, the last at `limit` and above."""
    check_map("a map", values)
    return palette()[levels(values, limit)]


def overlay(image: Array, values: Array, limit: float, scale: int = 1) -> npt.NDArray[np.uint8]:
    """A map over its image. Where the map is 0 the image stays as it is; the higher the map, the more it covers.

    Args:
        image: (H, W) or (H, W, 3), uint8 or floats in [0, 1].
        values: the map (h, w), at least 0; stretched over the image, bilinear.
        limit: the map value of the last colour, above 0.
        scale: enlarges the image this many times first (nearest neighbour), so that the map is smooth over few pixels.

    Returns:
        (H * scale, W * scale, 3), uint8.

    Raises:
        UsageError: a shape or type that is neither, an empty array, a limit that is not positive.
    """
    check_map("a map", values)
    base = picture(image)
    if not base.size or not values.size:
        raise UsageError(f"neither an image nor its map may be empty; their shapes are {image.shape} and {values.shape}")
    if scale < 1:
        raise UsageError(f"scale must be at least 1, not {scale}")
    if base.ndim == 2:
        base = np.repeat(base[:, :, None], 3, axis=2)
    if scale > 1:
        base = base.repeat(scale, axis=0).repeat(scale, axis=1)
    check_limit(limit)
    level = np.clip(resize_map(values, (base.shape[0], base.shape[1])) / limit, 0, 1)
    cover = opacity(level)[:, :, None]
    colours = palette()[levels(level, 1.0)]
    return np.asarray(np.rint(base * (1 - cover) + colours * cover), dtype=np.uint8)


def outlined(image: Array, masks: Mapping[tuple[int, int, int], npt.NDArray[np.bool_]]) -> npt.NDArray[np.uint8]:
    """An image with the outlines of regions drawn on it.

    Args:
        image: (H, W) or (H, W, 3), uint8 or floats in [0, 1].
        masks: (H, W), bool, by the colour (red, green, blue) of its outline; later ones lie on top.

    Returns:
        (H, W, 3), uint8.
    """
    base = picture(image)
    drawn = np.array(np.repeat(base[:, :, None], 3, axis=2) if base.ndim == 2 else base)
    for colour, mask in masks.items():
        inside = np.pad(mask, 1)
        # The pixels of the region that have a neighbour outside of it; what the image's edge cuts is not outlined there.
        inside[0], inside[-1] = inside[1], inside[-2]
        inside[:, 0], inside[:, -1] = inside[:, 1], inside[:, -2]
        surrounded = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        drawn[mask & ~surrounded] = colour
    return drawn


def colour_bar(width: int = 256, height: int = 1) -> npt.NDArray[np.uint8]:
    """The scale itself from 0 (left) to the limit (right), (height, width, 3) uint8."""
    row = palette()[np.rint(np.linspace(0, 255, width)).astype(np.uint8)]
    return np.repeat(row[None], height, axis=0)


def encode_png(values: Array) -> bytes:
    """An image as the bytes of a PNG file; the same image gives the same bytes."""
    from PIL import Image

    return _encode(Image.fromarray(np.ascontiguousarray(picture(values))), **_PHOTOGRAPH)


def encode_levels(level: npt.NDArray[np.uint8], steps: int, see_through: bool) -> bytes:
    """Levels of a map as the bytes of a paletted PNG file, several times smaller than colours.

    Args:
        level: (h, w), from `levels` with the same `steps`.
        steps: number of levels of the whole scale.
        see_through: as a layer to lie over the image (the opacity of `overlay`), or opaque.
    """
    from PIL import Image

    # Levels above the map's highest are left out of the palette, which is most of a small file.
    scale = np.linspace(0, 1, steps)[: int(level.max(initial=0)) + 1]
    layer = Image.fromarray(np.ascontiguousarray(level))
    layer.putpalette(palette()[np.rint(scale * 255).astype(np.uint8)].tobytes())
    if not see_through:
        return _encode(layer, **_LEVELS)
    return _encode(layer, transparency=np.rint(opacity(scale) * 255).astype(np.uint8).tobytes(), **_LEVELS)


def _encode(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()
