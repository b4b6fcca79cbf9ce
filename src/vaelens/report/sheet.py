"""A matplotlib page laid out in inches, so that no text can run into a picture.

Everything lies in one Axes over the whole figure, whose units are inches from the top left corner. Figures are made
directly, never with pyplot, so a caller's own figures, backend and settings stay as they are.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.colour import COLOUR_MAP, overlay, picture, resize_map
from vaelens.report.content import Array
from vaelens.report.wording import number, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
TEXT = 9.0
SMALL = 8.0
LINE = 1.35 / 72  # inches of one line of text for each point of its size
MARGIN = 0.15
_INK = "#1b1f24"
_MOST_PIXELS = 60_000  # matplotlib refuses 65,536


def blank(width: float, height: float) -> Figure:
    """An empty white figure of `width` by `height` inches, drawn by Agg, whatever a caller's settings say.

    Raises:
        UsageError: more pixels along a side than a figure can have.
    """
    from vaelens.report.shown import ShownFigure

    if max(width, height) * DPI > _MOST_PIXELS:
        raise UsageError(f"a figure of {width:.0f} x {height:.0f} inches is too large to draw; draw fewer images in one figure")
    # Whole pixels, so that the edges of pictures fall between pixels and not across them.
    size = math.ceil(width * DPI - 1e-6) / DPI, math.ceil(height * DPI - 1e-6) / DPI
    return ShownFigure(figsize=size, dpi=DPI, facecolor="white")


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """A name in a script that the font lacks shows as boxes; that is no news to whoever reads the terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


class Sheet:
    """A white page of `width` by `height` inches.

    Raises:
        UsageError: more pixels along a side than a figure can have.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = blank(width, height)
        self.width, self.height = (float(side) for side in self.figure.get_size_inches())
        canvas: Any = self.figure.canvas
        self._renderer = canvas.get_renderer()
        self._axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set_axis_off()
        self._axes.set_xlim(0, self.width)
        self._axes.set_ylim(self.height, 0)

    def text_width(self, text: str, size: float = TEXT, bold: bool = False) -> float:
        """Width in inches of one line of text."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(size=size, weight="bold" if bold else "normal")
        with _without_glyph_warnings():
            return float(self._renderer.get_text_width_height_descent(text, font, ismath=False)[0]) / DPI

    def fit(self, text: str, width: float, size: float = TEXT, bold: bool = False) -> str:
        """`text` on one line, with its middle left out as far as it is wider than `width` inches."""
        line = one_line(text)
        if self.text_width(line, size, bold) <= width:
            return line
        low, high = 0, len(line)
        while low < high - 1:
            kept = (low + high) // 2
            low, high = (kept, high) if self.text_width(_middle_out(line, kept), size, bold) <= width else (low, kept)
        return _middle_out(line, low)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        width: float,
        *,
        size: float = TEXT,
        bold: bool = False,
        align: Literal["left", "center", "right"] = "left",
        vertical: Literal["top", "center", "bottom"] = "top",
    ) -> None:
        """One line of text at (x, y), no wider than `width`; dollar signs are text, not formulas."""
        self._axes.text(
            x,
            y,
            self.fit(text, width, size, bold),
            fontsize=size,
            fontweight="bold" if bold else "normal",
            color=_INK,
            ha=align,
            va=vertical,
            parse_math=False,
        )

    def picture(self, x: float, y: float, width: float, height: float, image: Array, frame: float = 0.6) -> None:
        """An image whose pixels fill exactly the rectangle at (x, y), the first row on top, in a frame of `frame` points."""
        from matplotlib.patches import Rectangle

        left, top = round(x * DPI) / DPI, round(y * DPI) / DPI
        right, bottom = left + round(width * DPI) / DPI, top + round(height * DPI) / DPI
        border = max(1, round(frame / 72 * DPI)) / DPI
        self._axes.add_patch(
            Rectangle(
                (left - border, top - border),
                right - left + 2 * border,
                bottom - top + 2 * border,
                facecolor=_INK,
                linewidth=0,
                antialiased=False,
                zorder=0,
            )
        )
        self._axes.imshow(
            picture(image),
            extent=(left, right, bottom, top),
            origin="upper",
            aspect="auto",
            interpolation="auto",
            cmap="gray",
            vmin=0,
            vmax=255,
            zorder=1,
        )
        # imshow moves the limits to its extent.
        self._axes.set_xlim(0, self.width)
        self._axes.set_ylim(self.height, 0)

    def colour_bar(self, x: float, y: float, width: float, height: float, limit: float | None, over: bool, label: str) -> None:
        """The scale from 0 to `limit` in the rectangle at (x, y); along its longer side.

        Args:
            x: left edge.
            y: top edge.
            width: of the bar alone; numbers take about 0.5 inch to the right of an upright bar, 0.2 below a flat one.
            height: of the bar alone.
            limit: upper end; None where each picture has its own, which the numbers say then.
            over: whether there are values above it, which take the last colour (drawn as an arrow).
            label: what the numbers are; below the numbers of a flat bar, above an upright one; may be empty.
        """
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        flat = width > height
        upper = 1.0 if limit is None else limit
        axes = self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height))
        bar = self.figure.colorbar(
            ScalarMappable(Normalize(0, upper), cmap=COLOUR_MAP),
            cax=axes,
            orientation="horizontal" if flat else "vertical",
            extend="max" if over else "neither",
            extendfrac=0.06,
        )
        ticks = [0, upper / 2, upper] if limit is not None and (flat or height > 0.7) else [0, upper]
        bar.set_ticks(ticks, labels=["0", "most"] if limit is None else [number(tick, 3) for tick in ticks])
        bar.ax.tick_params(labelsize=SMALL, length=2.5, pad=2, colors=_INK)
        if label:
            if flat:
                self.text(x + width / 2, y + height + 0.2, label, width * 1.4, size=SMALL, align="center")
            else:
                self.text(x + width, y - 0.06, label, 1.0, size=SMALL, align="right", vertical="bottom")


def _middle_out(line: str, kept: int) -> str:
    head = (kept + 1) // 2
    return f"{line[:head]}…{line[len(line) - (kept - head) :]}"


def tile_size(shape: Sequence[int], longest: float) -> tuple[float, float]:
    """Width and height in inches of an image of `shape` (H, W, ...) whose longer side takes `longest` inches."""
    height, width = shape[0], shape[1]
    scale = longest / max(height, width)
    # A very long image still gets a strip that can be seen.
    return max(width * scale, longest / 8), max(height * scale, longest / 8)


def enlarged(image: Array, longest: float) -> Array:
    """The image as a tile of `longest` inches needs it: small ones with visible pixels, large ones no larger than can be seen.

    Bounding the size bounds the memory that many tiles of one image take.
    """
    shown = picture(image)
    least, most = 1.5 * longest * DPI, 3 * longest * DPI
    side = max(shown.shape[:2])
    if side <= most:
        times = max(1, math.ceil(least / side))
        return shown.repeat(times, axis=0).repeat(times, axis=1)
    size = max(1, round(shown.shape[0] * most / side)), max(1, round(shown.shape[1] * most / side))
    planes = shown[:, :, None] if shown.ndim == 2 else shown
    small = np.stack([resize_map(planes[:, :, k], size) for k in range(planes.shape[2])], axis=2)
    return picture(np.asarray(np.rint(small), dtype=np.uint8))


def overlaid(image: Array, values: Array, limit: float, longest: float) -> Array:
    """`overlay` at the size at which a tile of `longest` inches shows the map smooth."""
    return overlay(enlarged(image, longest), values, limit)


def to_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file at its own resolution; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with _without_glyph_warnings():
        figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None})
    return buffer.getvalue()
