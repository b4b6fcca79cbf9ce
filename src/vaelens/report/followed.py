"""Curves that are followed as more and more pixels are replaced, one chart beside the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.sheet import SMALL, TEXT, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _GRID, _GREY = "#1b1f24", "#d5dade", "#7a828a"
_COLOURS = ("#31688e", "#a3320b", "#1f9d74", "#8a5bb0", "#b8860b", "#c04f8f")
_STYLES = ("solid", (0, (4, 2)), (0, (1, 1.5)))


def followed_curves(
    charts: Mapping[str, Mapping[str, Sequence[float]]],
    fractions: Sequence[float],
    baselines: Sequence[str] = (),
    x_label: str = "share of pixels",
    y_label: str = "distance from the original",
) -> Figure:
    """A chart for each title, with a line for each name; the legend stands beside the last.

    Args:
        charts: by title, then by name, values at each of `fractions`; the names of the first are those of all.
        fractions: from 0 to 1.
        baselines: names that are drawn in grey.
        x_label, y_label: what the numbers are.

    Raises:
        UsageError: no chart or line, or one of another length.
    """
    if not charts or not all(charts.values()):
        raise UsageError("a figure of curves needs at least one chart with at least one line")
    for title, lines in charts.items():
        for name, values in lines.items():
            if len(values) != len(fractions):
                raise UsageError(f"{name!r} of {title!r} has {len(values)} values for {len(fractions)} fractions")
    side, left, gap, bottom, top, legend = 2.7, 0.75, 0.55, 0.6, 0.4, 2.2
    width, height = left + len(charts) * (side + gap) + legend, bottom + side + top
    figure = blank(width, height)
    names = list(dict.fromkeys(name for lines in charts.values() for name in lines))
    own = [name for name in names if name not in baselines]
    for place, (title, lines) in enumerate(charts.items()):
        x = left + place * (side + gap)
        axes = figure.add_axes((x / width, bottom / height, side / width, side / height))
        for name, values in lines.items():
            known = name in baselines
            colour = _GREY if known else _COLOURS[own.index(name) % len(_COLOURS)]
            style = _STYLES[list(baselines).index(name) % len(_STYLES)] if known else "solid"
            axes.plot(fractions, np.asarray(values, float), color=colour, linestyle=style, linewidth=1.3, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=TEXT, fontweight="bold", color=_INK, loc="left", parse_math=False)
        axes.set_xlabel(x_label, fontsize=TEXT, color=_INK, parse_math=False)
        if place == 0:
            axes.set_ylabel(y_label, fontsize=TEXT, color=_INK, parse_math=False)
        axes.tick_params(labelsize=SMALL, colors=_INK)
        axes.grid(color=_GRID, linewidth=0.6)
        for edge in ("top", "right"):
            axes.spines[edge].set_visible(False)
    shown = axes.legend(loc="upper left", bbox_to_anchor=(1.04, 1.02), fontsize=SMALL, frameon=False, borderaxespad=0)
    for text in shown.get_texts():
        text.set_parse_math(False)
    return figure
