"""Points of several kinds in a plane, such as models by reconstruction error and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.sheet import SMALL, TEXT, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#1b1f24"
_GRID = "#d5dade"
_KINDS = (("#31688e", "o"), ("#a3320b", "s"), ("#35785a", "^"), ("#7b4a9c", "D"), ("#8a6d1d", "v"), ("#555555", "P"))
_LINE = 0.155


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one kind.

    Args:
        label: in the legend.
        points: (x, y) of each.
        style: which colour and marker; kinds that belong together have the same.
        hollow: drawn as outlines, for what others report.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: int
    hollow: bool = False


def scatter(kinds: Sequence[Points], x_label: str, y_label: str) -> Figure:
    """Points by kind, with a legend below.

    Args:
        kinds: at least one with a point.
        x_label: of the axis.
        y_label: of the axis.

    Raises:
        UsageError: no point, or one that is not finite.
    """
    every = [point for kind in kinds for point in kind.points]
    if not every or not np.isfinite(every).all():
        raise UsageError("a scatter plot needs at least one point, and finite ones")
    width, height, left, top = 6.2, 3.8, 0.7, 0.15
    legend = _LINE * len(kinds) + 0.1
    bottom = 0.5
    figure = blank(width, height + legend)
    whole = height + legend
    axes = figure.add_axes((left / width, (bottom + legend) / whole, 1 - (left + 0.2) / width, (height - top - bottom) / whole))
    for kind in kinds:
        colour, marker = _KINDS[kind.style % len(_KINDS)]
        x, y = zip(*kind.points, strict=True) if kind.points else ((), ())
        face = "none" if kind.hollow else colour
        axes.scatter(x, y, s=34, marker=marker, facecolors=face, edgecolors=colour, linewidths=1.2, label=kind.label, zorder=3)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=SMALL, colors=_INK)
    axes.set_xlabel(x_label, fontsize=TEXT, color=_INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=TEXT, color=_INK, parse_math=False)
    drawn = figure.legend(
        loc="lower left", bbox_to_anchor=(left / width - 0.03, 0), fontsize=SMALL, frameon=False, labelspacing=0.25
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)
    return figure
