"""What one latent after another does to an image, beside where in the image it looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.colour import common_limit
from vaelens.report.content import Array, check_map, check_picture
from vaelens.report.sheet import LINE, MARGIN, SMALL, TEXT, Sheet, enlarged, overlaid, tile_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 0.78
_GAP = 0.06
_BETWEEN = 0.22  # frames and map
_TITLE = 11.0
_OWN = (235, 110, 20)  # red, green, blue of the edge of the image nearest to the given one
_BAR = 0.13
_MOST_LABEL = 1.9
_KEY = ("rows: the decoder's image while one latent moves and all others stay", "orange edge: nearest to the input's own value")
_LOOKS = "right: where in the input that latent looks"
_MOVES = "right: what in the input raises that latent, and what lowers it"


def traversal_grid(
    image: Array,
    decoded: Array,
    frames: Array,
    maps: Array,
    latent_names: Sequence[str],
    values: Sequence[float],
    title: str,
    means: Sequence[float] | None = None,
    notes: Sequence[Sequence[str]] | None = None,
    limit: float | None = None,
    lowering: Array | None = None,
) -> Figure:
    """A row for each latent: the decoder's images as it moves, and its attention map over the input; all maps on one scale.

    Args:
        image: the input (H, W) or (H, W, 3), uint8 or floats in [0, 1].
        decoded: of the same shape, what the decoder makes of its unmoved code.
        frames: (K, V, H, W) or (K, V, H, W, 3), latent k at value v.
        maps: (K, h, w), at least 0.
        latent_names: K names.
        values: V values that each latent takes, ascending.
        title: such as the name of the input.
        means: K values that the input itself has; the frame nearest to it has an edge, unless it lies beyond all.
        notes: K lists of lines below the name, two at most.
        limit: upper end of the colour scale; None takes the 99.5th percentile over all maps.
        lowering: (K, h, w), at least 0, of what lowers each latent, where `maps` are of what raises it.

    Raises:
        UsageError: shapes or numbers of names that do not belong together, negative maps, too many latents for one figure.
    """
    shown = {"attention": maps} if lowering is None else {"raises it": maps, "lowers it": lowering}
    _check(image, decoded, frames, list(shown.values()), len(values))
    lines = [()] * len(maps) if notes is None else [tuple(note) for note in notes]
    for what, count in (("latent_names", len(latent_names)), ("notes", len(lines))):
        if count != len(maps):
            raise UsageError(f"{what} must be {len(maps)}, not {count}")
    if means is not None and len(means) != len(maps):
        raise UsageError(f"means must be {len(maps)}, not {len(means)}")
    upper = common_limit(shown.values(), limit)
    width, height = tile_size(image.shape, _TILE)
    step, row = max(width, 0.62) + _GAP, max(height, 0.5) + _GAP
    measure = Sheet(1, 1)
    bold = [measure.text_width(measure.fit(name, _MOST_LABEL, TEXT, bold=True), TEXT, bold=True) for name in latent_names]
    plain = [measure.text_width(measure.fit(line, _MOST_LABEL, SMALL), SMALL) for note in lines for line in note]
    left = MARGIN + max(*bold, *plain, 2 * step) + 0.15
    at_map = left + len(values) * step - _GAP + _BETWEEN
    key = [*_KEY, _LOOKS if lowering is None else _MOVES]
    page = max(at_map + len(shown) * step - _GAP, left + max(measure.text_width(line, SMALL) for line in key)) + MARGIN
    caption = LINE * SMALL + 0.02
    first = MARGIN + LINE * _TITLE + 0.08 + caption + row + 0.1 + caption
    sheet = Sheet(page, first + len(maps) * row + 0.55 + MARGIN)
    sheet.text(MARGIN, MARGIN, title, page - 2 * MARGIN, size=_TITLE, bold=True)
    y = MARGIN + LINE * _TITLE + 0.08
    for at, (name, one) in enumerate((("input", image), ("decoded", decoded))):
        sheet.text(MARGIN + at * step, y, name, step - 0.04, size=SMALL)
        sheet.picture(MARGIN + at * step, y + caption, width, height, enlarged(one, _TILE))
    for at, line in enumerate(key):
        sheet.text(left, y + caption + at * LINE * SMALL, line, page - left - MARGIN, size=SMALL)
    for at, value in enumerate(values):
        told = f"{value:+.3g}".replace("-", "−") if value else "0"
        sheet.text(left + at * step + width / 2, first - caption, told, step - 0.04, size=SMALL, align="center")
    for at, head in enumerate(shown):
        sheet.text(at_map + at * step + width / 2, first - caption, head, step, size=SMALL, align="center")
    for k, name in enumerate(latent_names):
        y = first + k * row
        sheet.text(MARGIN, y, name, left - MARGIN - 0.1, size=TEXT, bold=True)
        for at, line in enumerate(lines[k][:2]):
            sheet.text(MARGIN, y + LINE * TEXT + at * LINE * SMALL, line, left - MARGIN - 0.1, size=SMALL)
        own = None if means is None else nearest(means[k], values)
        for at in range(len(values)):
            tile = enlarged(frames[k, at], _TILE)
            sheet.picture(left + at * step, y, width, height, _edged(tile) if at == own else tile)
        for at, of in enumerate(shown.values()):
            sheet.picture(at_map + at * step, y, width, height, overlaid(image, of[k], upper, _TILE))
    bar = min(4.0, page - 2 * MARGIN - 0.6)
    over = any(bool(of.max() > upper) for of in shown.values())
    sheet.colour_bar(MARGIN + 0.1, first + len(maps) * row + 0.08, bar, _BAR, upper, over, "map value, one scale for all")
    return sheet.figure


def nearest(value: float, values: Sequence[float]) -> int | None:
    """Which of some ascending values is nearest; None where it lies more than half a step beyond them all."""
    steps = np.diff(np.asarray(values, float)) / 2
    below, above = (steps[0], steps[-1]) if len(steps) else (0.0, 0.0)
    if not values[0] - below <= value <= values[-1] + above:
        return None
    return int(np.abs(np.asarray(values, float) - value).argmin())


def _edged(tile: Array) -> Array:
    """The tile with an edge of colour, for a dark frame shows nothing around images that are dark."""
    edged = np.array(np.repeat(tile[..., None], 3, axis=2) if tile.ndim == 2 else tile)
    wide = max(1, round(0.03 * max(tile.shape[:2])))
    for side in (edged[:wide], edged[-wide:], edged[:, :wide], edged[:, -wide:]):
        side[:] = _OWN
    return edged


def _check(image: Array, decoded: Array, frames: Array, shown: Sequence[Array], values: int) -> None:
    """Raise UsageError unless the arrays belong together."""
    check_picture("the input", image)
    if not image.size or not values:
        raise UsageError("a traversal needs an input that is not empty, and at least one value")
    if decoded.shape != image.shape:
        raise UsageError(f"decoded must be of the input's shape {image.shape}, not {decoded.shape}")
    for maps in shown:
        if maps.ndim != 3 or not maps.size or len(maps) != len(shown[0]):
            raise UsageError(f"maps must be (K, h, w), not empty, and as many of each kind, not {maps.shape}")
        for at, one in enumerate(maps):
            check_map(f"map {at}", one)
    expected = (len(shown[0]), values, *image.shape)
    if frames.shape != expected:
        raise UsageError(f"frames must be {expected}, latents by values, not {frames.shape}")
