"""Figure 9's layout: for each input the maps of two latents beside it, for one model below another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaelens.errors import UsageError
from vaelens.report.content import Array, check_map, check_picture
from vaelens.report.sheet import LINE, MARGIN, SMALL, Sheet, enlarged, overlaid, tile_size
from vaelens.report.wording import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 0.86
_GAP = 0.05
_BETWEEN = 0.22  # columns of inputs
_TITLE = 11.0
_BAR = 0.13
_BAR_NUMBERS = 0.6
_CAPTION = 2 * LINE * SMALL + 0.02


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """What one model makes of the inputs. Each two maps have a colour scale of their own, up to the most of both: maps of
    different sprites differ a hundredfold, and how far two overlap is a matter of the two.

    Args:
        title: of the model.
        maps: (R, C, 2, h, w), at least 0: of two latents for each input.
        names: above the maps, R rows of C pairs.
        notes: above the inputs, R rows of C.
    """

    title: str
    maps: Array
    names: Sequence[Sequence[tuple[str, str]]]
    notes: Sequence[Sequence[str]]


def figure9(inputs: Array, column_titles: Sequence[str], blocks: Sequence[Pairs]) -> Figure:
    """Inputs and the maps of two latents each, one block of rows for each model, in the manner of the paper's Figure 9.

    Args:
        inputs: (R, C, H, W) or (R, C, H, W, 3), uint8 or floats in [0, 1]: columns such as shapes, with R examples each.
        column_titles: C titles.
        blocks: a model each, drawn below each other; at least one.

    Raises:
        UsageError: no block, shapes or numbers of names that do not belong together, negative maps.
    """
    _check(inputs, column_titles, blocks)
    rows, columns = inputs.shape[:2]
    width, height = tile_size(inputs.shape[2:], _TILE)
    step = max(width, 0.8) + _GAP
    group = 3 * step - _GAP + _BETWEEN
    header, row = LINE * _TITLE + 0.06, _CAPTION + height + 0.07
    block = header + rows * row + 0.12
    end = MARGIN + columns * group - _BETWEEN
    sheet = Sheet(end + 0.1 + _BAR + _BAR_NUMBERS + MARGIN, MARGIN + header + len(blocks) * block - 0.12 + MARGIN)
    for column, title in enumerate(column_titles):
        x = MARGIN + column * group
        sheet.text(x + (group - _BETWEEN) / 2, MARGIN, title, group - _BETWEEN, size=_TITLE, bold=True, align="center")
    for at, one in enumerate(blocks):
        top = MARGIN + header + at * block
        sheet.text(MARGIN, top, one.title, end - MARGIN, size=_TITLE, bold=True)
        for r in range(rows):
            for column in range(columns):
                x, y = MARGIN + column * group, top + header + r * row
                image, maps = inputs[r, column], one.maps[r, column]
                upper = float(maps.max()) or 1.0
                tiles = [enlarged(image, _TILE), *(overlaid(image, each, upper, _TILE) for each in maps)]
                most = ["", *(f"to {number(float(each.max()), 2)}" for each in maps)]
                texts = (one.notes[r][column], *one.names[r][column])
                for place, (text, below, tile) in enumerate(zip(texts, most, tiles, strict=True)):
                    sheet.text(x + place * step, y, text, step - 0.04, size=SMALL)
                    sheet.text(x + place * step, y + LINE * SMALL, below, step - 0.04, size=SMALL)
                    sheet.picture(x + place * step, y + _CAPTION, width, height, tile)
        bar = top + header + _CAPTION
        sheet.colour_bar(end + 0.1, bar + 0.05, _BAR, rows * row - _CAPTION - 0.17, None, False, "")
    return sheet.figure


def _check(inputs: Array, column_titles: Sequence[str], blocks: Sequence[Pairs]) -> None:
    """Raise UsageError unless everything belongs together."""
    if not blocks:
        raise UsageError("figure 9 needs at least one block")
    if inputs.ndim not in (4, 5) or not inputs.size:
        raise UsageError(f"inputs must be (R, C, H, W) or (R, C, H, W, 3) and not empty, not {inputs.shape}")
    check_picture("an input", inputs[0, 0])
    rows, columns = inputs.shape[:2]
    if len(column_titles) != columns:
        raise UsageError(f"column_titles must be {columns}, not {len(column_titles)}")
    for one in blocks:
        if one.maps.ndim != 5 or one.maps.shape[:3] != (rows, columns, 2) or not one.maps.size:
            raise UsageError(f"the maps of {one.title!r} must be {(rows, columns, 2)} and (h, w), not {one.maps.shape}")
        check_map(f"the maps of {one.title!r}", one.maps.reshape(-1, one.maps.shape[-1]))
        for what, texts in (("names", one.names), ("notes", one.notes)):
            if [len(texts), *map(len, texts)] != [rows, *[columns] * rows]:
                raise UsageError(f"the {what} of {one.title!r} must be {rows} rows of {columns}")
