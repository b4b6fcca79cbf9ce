"""How sure the maps of a few latents are: each beside its spread over the posterior and its probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.colour import common_limit, palette
from vaelens.report.content import Array, check_map, check_picture
from vaelens.report.sheet import LINE, MARGIN, SMALL, TEXT, Sheet, enlarged, overlaid, tile_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 1.05
_GAP = 0.1
_TITLE = 11.0
_BAR = 0.13
_MOST_LABEL = 1.9
_COLUMNS = ("map", "spread", "probability")
KEY = (
    "map: at the posterior mean",
    "spread: standard deviation over the posterior, on the map's scale",
    "probability: that the map is above 0",
)


def spread_grid(
    image: Array | None,
    maps: Array,
    spreads: Array,
    probabilities: Array,
    latent_names: Sequence[str],
    title: str,
    notes: Sequence[Sequence[str]] | None = None,
    limit: float | None = None,
    key: Sequence[str] = KEY,
) -> Figure:
    """A row for each latent: its map over the image, the map's spread on the same scale, and the probability from 0 to 1.

    Args:
        image: (H, W) or (H, W, 3), uint8 or floats in [0, 1]; None: the maps alone, in colours.
        maps: (K, h, w), at least 0.
        spreads: (K, h, w), standard deviations.
        probabilities: (K, h, w), in [0, 1].
        latent_names: K names.
        title: above all.
        notes: K lists of lines below the name, three at most.
        limit: upper end of the scale of maps and spreads; None takes the 99.5th percentile over both.
        key: what the columns are, a line each.

    Raises:
        UsageError: shapes or numbers of names that do not belong together, negative maps, probabilities above 1.
    """
    shown = dict(zip(_COLUMNS, (maps, spreads, probabilities), strict=True))
    for what, values in shown.items():
        if values.ndim != 3 or not values.size or values.shape != maps.shape:
            raise UsageError(f"each {what} must be (K, h, w), not empty and of one shape with the others, not {values.shape}")
        for at, one in enumerate(values):
            check_map(f"{what} {at}", one)
    if probabilities.max() > 1 + 1e-6:
        raise UsageError(f"probabilities must be in [0, 1], not up to {probabilities.max()}")
    lines = [()] * len(maps) if notes is None else [tuple(note)[:3] for note in notes]
    for what, count in (("latent_names", len(latent_names)), ("notes", len(lines))):
        if count != len(maps):
            raise UsageError(f"{what} must be {len(maps)}, not {count}")
    below = np.broadcast_to(palette()[0], (*maps.shape[1:], 3)) if image is None else image
    check_picture("the image", below)
    upper = common_limit([maps, spreads], limit)
    width, height = tile_size(below.shape, _TILE)
    step, row = max(width, 0.85) + _GAP, max(height, LINE * (TEXT + 3 * SMALL)) + _GAP
    measure = Sheet(1, 1)
    bold = [measure.text_width(measure.fit(name, _MOST_LABEL, TEXT, bold=True), TEXT, bold=True) for name in latent_names]
    plain = [measure.text_width(measure.fit(line, _MOST_LABEL, SMALL), SMALL) for note in lines for line in note]
    left = MARGIN + max(*bold, *plain, width if image is not None else 0.0) + 0.15
    page = max(left + len(shown) * step - _GAP, left + max(measure.text_width(line, SMALL) for line in key) + 0.05) + MARGIN
    caption = LINE * SMALL + 0.02
    top = MARGIN + LINE * _TITLE + 0.08
    first = top + caption + max(0.0 if image is None else height, len(key) * LINE * SMALL) + 0.14 + caption
    sheet = Sheet(page, first + len(maps) * row + 0.5 + MARGIN)
    sheet.text(MARGIN, MARGIN, title, page - 2 * MARGIN, size=_TITLE, bold=True)
    if image is not None:
        sheet.text(MARGIN, top, "input", left - MARGIN, size=SMALL)
        sheet.picture(MARGIN, top + caption, width, height, enlarged(image, _TILE))
    for at, line in enumerate(key):
        sheet.text(left, top + caption + at * LINE * SMALL, line, page - left - MARGIN, size=SMALL)
    for at, head in enumerate(shown):
        sheet.text(left + at * step + width / 2, first - caption, head, step, size=SMALL, align="center")
    for k, name in enumerate(latent_names):
        y = first + k * row
        sheet.text(MARGIN, y, name, left - MARGIN - 0.1, size=TEXT, bold=True)
        for at, line in enumerate(lines[k]):
            sheet.text(MARGIN, y + LINE * TEXT + at * LINE * SMALL, line, left - MARGIN - 0.1, size=SMALL)
        for at, (what, values) in enumerate(shown.items()):
            scale = 1.0 if what == "probability" else upper
            sheet.picture(left + at * step, y, width, height, overlaid(below, values[k], scale, _TILE))
    y = first + len(maps) * row + 0.08
    over = bool(max(maps.max(), spreads.max()) > upper)
    sheet.colour_bar(left, y, 2 * step - 0.25, _BAR, upper, over, "map and spread")
    sheet.colour_bar(left + 2 * step + 0.08, y, step - _GAP - 0.16, _BAR, 1.0, False, "probability")
    return sheet.figure
