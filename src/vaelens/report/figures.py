"""Figures of maps over images, in the manner of the paper's Figures 1 and 4, and the summary charts.

Every function returns a matplotlib Figure; `to_png` makes a file of it. Maps of one scale share one colour bar, and a map's
grid of cells is stretched exactly over its image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.charts import Dots, auroc_bars, score_histogram, spread_dots
from vaelens.report.colour import common_limit, palette
from vaelens.report.content import Array, check_picture
from vaelens.report.sheet import LINE, MARGIN, SMALL, TEXT, Sheet, enlarged, overlaid, tile_size, to_png
from vaelens.report.wording import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Dots", "Panel", "auroc_bars", "figure1", "figure4", "latent_grid", "score_histogram", "spread_dots", "to_png"]

FIRED = 3.0
_TILE = 1.05
_GAP = 0.1
_MOST_COLUMNS = 11
_BAR = 0.13
_BAR_NUMBERS = 0.6
_LEAST_WIDTH = 5.0
_TITLE = 11.0


def latent_grid(
    images: Array | None,
    maps: Array,
    latent_names: Sequence[str] | Sequence[Sequence[str]],
    image_names: Sequence[str],
    z_scores: Array | None = None,
    limit: float | None = None,
) -> Figure:
    """For each image the maps of all latents over it, all on one colour scale.

    Args:
        images: (B, H, W) or (B, H, W, 3), uint8 or floats in [0, 1]; None: the maps alone, in colours.
        maps: (B, D, h, w), at least 0.
        latent_names: D names, or D for each image.
        image_names: B names.
        z_scores: (B, D) of the posterior means against normal images. Latents with |z-score| >= 3 fired: their title
            carries a triangle and is bold, their picture has a heavy frame. NaN counts as not fired.
        limit: upper end of the colour scale; None takes the 99.5th percentile over all maps.

    Raises:
        UsageError: shapes that do not belong together, negative maps, too many images for one figure.
    """
    below = _grounds(maps) if images is None else images
    count, latents = _check_maps(below, maps, 4)
    for_all = all(isinstance(name, str) for name in latent_names)
    each = cast("Sequence[Sequence[str]]", [latent_names] * count if for_all else latent_names)
    _check_names("latent_names for each image", each, count)
    for names in each:
        _check_names("latent_names", names, latents)
    _check_names("image_names", image_names, count)
    if z_scores is not None and z_scores.shape != (count, latents):
        raise UsageError(f"z_scores must be {(count, latents)} as the maps are, not {z_scores.shape}")
    upper = common_limit([maps], limit)
    width, height = tile_size(below.shape[1:], _TILE)
    step = max(width, _TILE) + _GAP
    inputs = int(images is not None)
    columns = min(latents + inputs, _MOST_COLUMNS)
    rows = -(-(latents + inputs) // columns)
    lines = 1 if z_scores is None else 2
    titles = LINE * SMALL * lines + 0.02
    header = LINE * _TITLE + 0.1
    block = header + rows * (titles + height + _GAP) + 0.15
    page = max(columns * step - _GAP + 2 * MARGIN, _LEAST_WIDTH)
    sheet = Sheet(page, count * block + 0.55 + 2 * MARGIN)
    for at in range(count):
        top = MARGIN + at * block
        fired = np.zeros(latents, bool) if z_scores is None else np.abs(np.nan_to_num(z_scores[at])) >= FIRED
        told = "" if z_scores is None else f"{int(fired.sum())} of {latents} latents fired (▲: |z-score| ≥ 3)"
        beside = sheet.text_width(told, SMALL) + 0.2
        sheet.text(MARGIN, top, image_names[at], page - 2 * MARGIN - beside, size=_TITLE, bold=True)
        sheet.text(page - MARGIN, top + 0.03, told, page, size=SMALL, align="right")
        for place in range(latents + inputs):
            x = MARGIN + place % columns * step
            y = top + header + place // columns * (titles + height + _GAP)
            left = x + (step - _GAP - width) / 2
            if place < inputs:
                sheet.text(x, y + (lines - 1) * LINE * SMALL, "input", step - 0.08, size=SMALL)
                sheet.picture(left, y + titles, width, height, enlarged(below[at], _TILE))
                continue
            latent = place - inputs
            name = f"▲ {each[at][latent]}" if fired[latent] else each[at][latent]
            sheet.text(x, y, name, step - 0.08, size=SMALL, bold=bool(fired[latent]))
            if z_scores is not None:
                told = f"z-score {signed(float(z_scores[at, latent]))}"
                sheet.text(x, y + LINE * SMALL, told, step - 0.08, size=SMALL, bold=bool(fired[latent]))
            tile = overlaid(below[at], maps[at, latent], upper, _TILE)
            sheet.picture(left, y + titles, width, height, tile, frame=2.5 if fired[latent] else 0.6)
    bar_width = min(4.0, page - 2 * MARGIN - 0.6)
    over = bool(maps.size and maps.max() > upper)
    label = "map value, one scale for all" if count * latents > 1 else "map value"
    sheet.colour_bar(MARGIN + 0.1, MARGIN + count * block + 0.1, bar_width, _BAR, upper, over, label)
    return sheet.figure


def figure1(
    images: Array,
    maps: Array,
    latent_names: Sequence[str],
    row_labels: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    limit: float | None = None,
) -> Figure:
    """What a few latents look at across samples, in the manner of the paper's Figure 1.

    The inputs are the top row, each latent is a row below it, each sample a column; one colour scale for all.

    Args:
        images: (S, H, W) or (S, H, W, 3), uint8 or floats in [0, 1].
        maps: (S, K, h, w), at least 0; the paper shows K = 3 latents.
        latent_names: K names.
        row_labels: K + 1 labels at the left, the inputs' first; None takes "input" and the names of the latents.
        column_titles: S titles above the inputs.
        limit: upper end of the colour scale; None takes the 99.5th percentile over all maps.

    Raises:
        UsageError: shapes or numbers of names that do not belong together, negative maps.
    """
    count, latents = _check_maps(images, maps, 4)
    _check_names("latent_names", latent_names, latents)
    labels = ["input", *latent_names] if row_labels is None else list(row_labels)
    _check_names("row_labels", labels, latents + 1)
    upper = common_limit([maps], limit)
    layout = _Layout(images.shape[1:], count, labels)
    titled = _title_height(column_titles)
    height = titled + (latents + 1) * layout.row
    sheet = Sheet(layout.page, height + 2 * MARGIN)
    _column_titles(sheet, layout, MARGIN, column_titles, count)
    layout.inputs(sheet, MARGIN + titled, labels[0], images)
    first = MARGIN + titled + layout.row
    for at in range(latents):
        layout.maps(sheet, first + at * layout.row, labels[at + 1], images, maps[:, at], upper)
    layout.bar(sheet, first, latents * layout.row - _GAP, upper, bool(maps.max() > upper))
    return sheet.figure


@dataclass(frozen=True, eq=False, slots=True)
class Panel:
    """One part of `figure4`: inputs on top, below them a row of maps for each method.

    Args:
        title: for instance "trained on digit 1".
        inputs: (N, H, W) or (N, H, W, 3), uint8 or floats in [0, 1].
        column_titles: N titles above the inputs, or none.
        rows: maps (N, h, w), at least 0, by the label at the left; each row has its own colour scale.
        reconstructions: of the inputs' shape, drawn as the second row; or None.
        limits: upper ends of the scales of some or all rows; the others take the 99.5th percentile over their row.
        masks: where the inputs are truly abnormal (N, H, W), bool, drawn white on black below the inputs; or None.
    """

    title: str
    inputs: Array
    column_titles: Sequence[str]
    rows: Mapping[str, Array]
    reconstructions: Array | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    masks: Array | None = None

    def pictures(self) -> dict[str, Array]:
        """The rows above the maps, by label: the inputs, and what there is of masks and reconstructions.

        Raises:
            UsageError: not one for each input.
        """
        rows = {"input": self.inputs}
        if self.masks is not None:
            rows["mask"] = np.asarray(self.masks, np.uint8) * np.uint8(255)
        if self.reconstructions is not None:
            rows["reconstruction"] = self.reconstructions
        for label, images in rows.items():
            if len(images) != len(self.inputs):
                raise UsageError(f"panel {self.title!r} has {len(self.inputs)} inputs and {len(images)} {label}s")
        return rows


def figure4(panels: Sequence[Panel]) -> Figure:
    """Inputs above their anomaly attention maps, in the manner of the paper's Figure 4.

    The paper trains on digit 1 and shows 7, 2, 4, 9 and 5, then trains on 3 and shows others: one panel each. Rows are
    methods; every row has one colour scale for its maps, with a bar at the right, because methods differ in units.

    Args:
        panels: drawn below each other, columns aligned; at least one.

    Raises:
        UsageError: no panel, no inputs, shapes that do not belong together, negative maps.
    """
    if not panels:
        raise UsageError("figure 4 needs at least one panel")
    pictures = [panel.pictures() for panel in panels]
    labels = [label for panel, above in zip(panels, pictures, strict=True) for label in (*above, *panel.rows)]
    for panel in panels:
        for label, maps in panel.rows.items():
            try:
                _check_maps(panel.inputs, maps, 3)
            except UsageError as error:
                raise UsageError(f"row {label!r} of panel {panel.title!r}: {error}") from error
        if panel.column_titles:
            _check_names(f"the column titles of panel {panel.title!r}", panel.column_titles, len(panel.inputs))
    layouts = [_Layout(panel.inputs.shape[1:], len(panel.inputs), labels) for panel in panels]
    header = LINE * _TITLE + 0.1
    heights = [
        header + _title_height(panel.column_titles) + (len(above) + len(panel.rows)) * layout.row + 0.2
        for panel, above, layout in zip(panels, pictures, layouts, strict=True)
    ]
    sheet = Sheet(max(layout.page for layout in layouts), sum(heights) + 2 * MARGIN - 0.2)
    top = MARGIN
    for panel, above, layout, height in zip(panels, pictures, layouts, heights, strict=True):
        sheet.text(MARGIN, top, panel.title, sheet.width - 2 * MARGIN, size=_TITLE, bold=True)
        y = top + header
        _column_titles(sheet, layout, y, panel.column_titles, len(panel.inputs))
        y += _title_height(panel.column_titles)
        for label, images in above.items():
            layout.inputs(sheet, y, label, images)
            y += layout.row
        for label, maps in panel.rows.items():
            upper = common_limit([maps], panel.limits.get(label))
            layout.maps(sheet, y, label, panel.inputs, maps, upper)
            layout.bar(sheet, y, layout.row - _GAP, upper, bool(maps.max() > upper))
            y += layout.row
        top += height
    return sheet.figure


class _Layout:
    """Rows of tiles with labels at the left and room for colour bars at the right."""

    def __init__(self, shape: Sequence[int], count: int, labels: Sequence[str]) -> None:
        self.tile = tile_size(shape, _TILE)
        self.step = max(self.tile[0], 0.5) + _GAP
        self.row = self.tile[1] + _GAP
        measure = Sheet(1, 1)
        widest = max((measure.text_width(measure.fit(label, 1.9)) for label in labels), default=0.0)
        self.left = MARGIN + widest + 0.12
        self.end = self.left + count * self.step
        self.page = max(self.end + _BAR + _BAR_NUMBERS + MARGIN, 3.0)

    def inputs(self, sheet: Sheet, y: float, label: str, images: Array) -> None:
        self._label(sheet, y, label)
        for at, image in enumerate(images):
            self._tile(sheet, at, y, enlarged(image, _TILE))

    def maps(self, sheet: Sheet, y: float, label: str, images: Array, maps: Array, upper: float) -> None:
        self._label(sheet, y, label)
        for at, (image, values) in enumerate(zip(images, maps, strict=True)):
            self._tile(sheet, at, y, overlaid(image, values, upper, _TILE))

    def bar(self, sheet: Sheet, y: float, height: float, upper: float, over: bool) -> None:
        sheet.colour_bar(self.end + 0.05, y + 0.05, _BAR, max(height - 0.1, 0.4), upper, over, "")

    def _label(self, sheet: Sheet, y: float, label: str) -> None:
        middle = y + self.tile[1] / 2
        sheet.text(self.left - 0.12, middle, label, self.left - 0.12 - MARGIN + 0.02, align="right", vertical="center")

    def _tile(self, sheet: Sheet, at: int, y: float, image: Array) -> None:
        x = self.left + at * self.step + (self.step - _GAP - self.tile[0]) / 2
        sheet.picture(x, y, *self.tile, image)


def _column_titles(sheet: Sheet, layout: _Layout, y: float, titles: Sequence[str] | None, count: int) -> None:
    if titles:
        _check_names("column_titles", titles, count)
        for at, title in enumerate(titles):
            middle = layout.left + at * layout.step + (layout.step - _GAP) / 2
            sheet.text(middle, y, title, layout.step - 0.08, align="center")


def _title_height(titles: Sequence[str] | None) -> float:
    return LINE * TEXT + 0.05 if titles else 0.0


def _grounds(maps: Array) -> Array:
    """In place of images: the first colour of the scale, (B, h, w, 3)."""
    return np.broadcast_to(palette()[0], (len(maps), *maps.shape[-2:], 3))


def _check_names(what: str, names: Sequence[object], count: int) -> None:
    if len(names) != count:
        raise UsageError(f"{what} must be {count}, not {len(names)}")


def _check_maps(images: Array, maps: Array, dims: int) -> tuple[int, int]:
    """The number of images and of maps each; raises UsageError unless they belong together."""
    form = "(B, D, h, w)" if dims == 4 else "(N, h, w)"
    if images.ndim not in (3, 4) or not images.size:
        raise UsageError(f"images must be (B, H, W) or (B, H, W, 3) and not empty, not {images.shape}")
    check_picture("an image", images[0])
    if maps.ndim != dims or not maps.size or len(maps) != len(images):
        raise UsageError(f"maps must be {form}, with one entry for each of the {len(images)} images, not {maps.shape}")
    if not (np.isfinite(maps).all() and maps.min() >= 0):
        raise UsageError("maps must be finite and nowhere negative; give the rectified maps, not the signed ones")
    return len(images), maps.shape[1] if dims == 4 else 1
