"""What people who work in notebooks see: pieces of HTML that need nothing else, drawings in axes of their own, and show()."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.cards import data_uri
from vaelens.report.colour import palette
from vaelens.report.content import Array
from vaelens.report.sheet import enlarged, overlaid, to_png
from vaelens.report.wording import one_line, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IMAGES = 8  # images that one picture shows where nobody says how many
MOST_MAPS = 96  # and maps
_MOST_LINES = 50
_TILE = 2.0  # inches that a map is drawn fine enough for, in axes whose size is the caller's


class Shown(Protocol):
    """What can be shown: as HTML, as a figure, or in words."""

    def _repr_html_(self) -> str: ...

    def plot(self) -> Any: ...

    def in_words(self) -> str: ...


def most_images(latents: int) -> int:
    """How many images one picture shows with so many maps each: eight, and fewer of many latents."""
    return max(1, min(MOST_IMAGES, MOST_MAPS // max(1, latents)))


def fragment(title: str, lines: Sequence[str], figure: Figure | None = None) -> str:
    """A piece of HTML: a heading, lines of text and a figure as an embedded PNG. All text is escaped."""
    words = "".join(f"<div>{_escaped(line)}</div>" for line in lines)
    image = "" if figure is None else f'<img alt="{_escaped(title)}" style="max-width:100%" src="{data_uri(to_png(figure))}">'
    return f'<div class="vaelens"><strong>{_escaped(title)}</strong>{words}{image}</div>'


def few_lines(count: int, line: Callable[[int], str]) -> str:
    """Lines on `count` images, fifty at most."""
    told = [line(i) for i in range(min(count, _MOST_LINES))]
    return "\n".join([*told, f"and {count - _MOST_LINES} more"] if count > _MOST_LINES else told)


def table_fragment(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A piece of HTML: a heading and a table of what and value."""
    cells = "".join(
        f'<tr><th style="text-align:left">{_escaped(what)}</th><td style="text-align:left">{_escaped(value)}</td></tr>'
        for what, value in rows
    )
    return f'<div class="vaelens"><strong>{_escaped(title)}</strong><table>{cells}</table></div>'


def never_raising(draw: Callable[[], str], instead: str) -> str:
    """What `draw` gives; where that fails `instead`, and why: a notebook shows a traceback for it and nothing else."""
    try:
        return draw()
    except Exception as error:
        return fragment(instead, [f"no picture: {type(error).__name__}: {error}"[:500]])


def show(thing: Shown) -> None:
    """Show something where the caller is: in a notebook, else in a window, else in words on stdout.

    The window is pyplot's; nothing of it stays once it is closed.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is not None:
        import_module("IPython.display").display(thing)  # which only a notebook has
        return
    from matplotlib import get_backend
    from matplotlib.backends.registry import BackendFilter, backend_registry

    windows: list[str] = backend_registry.list_builtin(BackendFilter.INTERACTIVE)  # type: ignore[no-untyped-call]
    if get_backend().lower() not in windows:
        print(thing.in_words())
        return
    from matplotlib import pyplot

    figure: Figure = thing.plot()
    width, height = figure.get_size_inches()
    window = pyplot.figure(figsize=(width, height))
    try:
        canvas = window.add_axes((0.0, 0.0, 1.0, 1.0))
        canvas.set_axis_off()
        canvas.imshow(_pixels(figure))
        pyplot.show()
    finally:
        pyplot.close(window)


def as_axes(axes: Any, count: int, what: str) -> list[Axes]:
    """One Axes or several of them, in whatever array or sequence, as a list.

    Raises:
        UsageError: not `count` matplotlib Axes.
    """
    flat = list(np.asarray(axes, dtype=object).ravel())
    if len(flat) != count or not all(hasattr(one, "imshow") for one in flat):
        raise UsageError(f"axes must be {count} matplotlib Axes, one for each {what}, not {len(flat)} {type(axes).__name__}")
    return flat


def draw_map(ax: Axes, image: Array | None, values: Array, limit: float, title: str) -> None:
    """A map over its image in axes of the caller's, whose units become the image's pixels; without ticks.

    Args:
        ax: where.
        image: (H, W) or (H, W, 3), uint8 or floats in [0, 1]; None: the map alone, in colours.
        values: (h, w), at least 0.
        limit: upper end of the colour scale.
        title: above it.
    """
    below = ground(values.shape) if image is None else image
    draw_image(ax, overlaid(below, values, limit, _TILE), below.shape[:2], title)


def draw_image(ax: Axes, tile: Array, size: tuple[int, ...], title: str) -> None:
    """A picture of an image of `size` (H, W) in axes of the caller's, whose units become the image's pixels; without ticks."""
    height, width = size[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(tile, extent=extent, interpolation="auto", cmap="gray", vmin=0, vmax=255)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title("\n".join(map(one_line, title.splitlines())), fontsize="small", parse_math=False)


def ground(shape: Sequence[int]) -> Array:
    """What a map without an image is drawn over: the first colour of the scale, in a map's shape (h, w)."""
    height, width = shape[-2:]
    return np.broadcast_to(palette()[0], (height, width, 3)).copy()


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _pixels(figure: Figure) -> Array:
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def fine(image: Array) -> Array:
    """An image as it is drawn in axes of the caller's."""
    return enlarged(image, _TILE)
