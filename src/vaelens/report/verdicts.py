"""Whether images are normal and where they are not: a row for each, and what is said of it in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.colour import common_limit, outlined
from vaelens.report.content import Array, check_map, check_picture
from vaelens.report.sheet import LINE, MARGIN, SMALL, TEXT, Sheet, enlarged, overlaid, tile_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTLINE = (230, 30, 40)  # red, green, blue of what is flagged
_TILE = 1.5
_GAP = 0.1
_BAR = 0.13
_MOST_TEXT = 3.2


def verdict_grid(
    images: Array,
    maps: Array,
    masks: Array,
    headlines: Sequence[str],
    lines: Sequence[Sequence[str]],
    label: str,
    limit: float | None = None,
) -> Figure:
    """For each image a row: the input with what is flagged outlined, its map on one scale for all, and the verdict in words.

    Args:
        images: (B, H, W) or (B, H, W, 3), uint8 or floats in [0, 1].
        maps: (B, H, W), at least 0.
        masks: (B, H, W), bool, what is flagged.
        headlines: B verdicts.
        lines: B lists of lines below them, four at most.
        label: below the colour bar.
        limit: upper end of the colour scale; None takes the 99.5th percentile over all maps.

    Raises:
        UsageError: shapes or numbers of texts that do not belong together, negative maps.
    """
    count = len(images)
    if not count or not len(maps) == len(masks) == len(headlines) == len(lines) == count:
        raise UsageError(f"images, maps, masks, headlines and lines must be as many and not none, not {count} and {len(maps)}")
    for image, values in zip(images, maps, strict=True):
        check_picture("an image", image)
        check_map("a map", values)
    upper = common_limit([maps], limit)
    width, height = tile_size(images.shape[1:], _TILE)
    measure = Sheet(1, 1)
    row = max(height, LINE * (TEXT + 4 * SMALL)) + _GAP
    texts = [measure.text_width(text, TEXT, bold=True) for text in headlines]
    texts += [measure.text_width(line, SMALL) for few in lines for line in few]
    step = max(width, 0.7) + _GAP
    at_text = MARGIN + 2 * step + 0.1
    caption = LINE * SMALL + 0.02
    first = MARGIN + caption
    page = at_text + min(max(texts), _MOST_TEXT) + MARGIN + 0.05
    sheet = Sheet(page, first + count * row + 0.5 + MARGIN)
    for at, head in enumerate(("input", "map")):
        sheet.text(MARGIN + at * step + width / 2, MARGIN, head, step, size=SMALL, align="center")
    for i in range(count):
        y = first + i * row
        sheet.picture(MARGIN, y, width, height, marked(images[i], masks[i], _TILE))
        sheet.picture(MARGIN + step, y, width, height, overlaid(images[i], maps[i], upper, _TILE))
        sheet.text(at_text, y, headlines[i], page - at_text - MARGIN, bold=True)
        for at, line in enumerate(list(lines[i])[:4]):
            sheet.text(at_text, y + LINE * TEXT + at * LINE * SMALL, line, page - at_text - MARGIN, size=SMALL)
    bar = min(3.0, page - 2 * MARGIN - 0.6)
    sheet.colour_bar(MARGIN + 0.1, first + count * row + 0.05, bar, _BAR, upper, bool(maps.max() > upper), label)
    return sheet.figure


def marked(image: Array, mask: Array, longest: float) -> Array:
    """The image as a tile of `longest` inches, with an outline around what is flagged that is as thin as it can be seen."""
    tile = enlarged(image, longest)
    if not mask.any():
        return tile
    rows = np.arange(tile.shape[0]) * mask.shape[0] // tile.shape[0]
    columns = np.arange(tile.shape[1]) * mask.shape[1] // tile.shape[1]
    large = np.asarray(mask, bool)[rows[:, None], columns]
    inner = large
    for _ in range(2):
        padded = np.pad(inner, 1, mode="edge")
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & inner
    drawn = outlined(tile, {OUTLINE: large})
    drawn[large & ~inner] = OUTLINE
    return drawn
