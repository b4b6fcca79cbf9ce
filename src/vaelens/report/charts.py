"""Two small charts: scores by group with the threshold, and AUROC by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.content import Array
from vaelens.report.sheet import SMALL, TEXT, Sheet, blank
from vaelens.report.wording import NOTHING, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE = "#31688e"
_INK = "#1b1f24"
_GRID = "#d5dade"
_BINS = 60
_MOST_ACROSS = 6


def score_histogram(scores: Mapping[str, Array], threshold: float | None = None, x_label: str = "score") -> Figure:
    """How scores are spread in each group: one row per group, on one axis, each scaled to its own highest bin.

    Args:
        scores: (N,) by group, for instance by digit; values that are not finite are left out of the bars and counted in
            the label.
        threshold: drawn as a line; each row then says which share of its scores lies above.
        x_label: what the scores are.

    Raises:
        UsageError: no group, or an array that is not (N,).
    """
    if not scores:
        raise UsageError("a histogram needs at least one group of scores")
    for group, values in scores.items():
        if np.ndim(values) != 1:
            raise UsageError(f"the scores of group {group!r} must be (N,), not {np.shape(values)}")
    finite = {group: np.asarray(values, float)[np.isfinite(values)] for group, values in scores.items()}
    edges, cut = _edges([values for values in finite.values() if values.size], threshold)
    measure = Sheet(1, 1)
    counted = {group: _count(len(scores[group]), len(values)) for group, values in finite.items()}
    names = {group: measure.fit(group, 1.8, SMALL, bold=True) for group in scores}
    left = 0.25 + max(measure.text_width(text, SMALL, bold=True) for text in (*names.values(), *counted.values()))
    right, row, bottom = 1.1 if threshold is not None else 0.2, 0.42, 0.55
    top = 0.4 if threshold is not None else 0.15
    width, height = 5.0 + left + right, top + bottom + row * len(scores)
    figure = blank(width, height)
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, row * len(scores) / height))
    for place, (group, values) in enumerate(finite.items()):
        base = len(finite) - 1 - place
        counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        tops = counts / max(counts.max(), 1) * 0.85
        axes.stairs(base + tops, edges, baseline=base, fill=True, facecolor=_BLUE, edgecolor=_BLUE, linewidth=0.8)
        axes.axhline(base, color=_INK, linewidth=0.6)
        _text(axes, -0.015, base + 0.62, names[group], "right", bold=True)
        _text(axes, -0.015, base + 0.24, counted[group], "right")
        if threshold is not None and values.size:
            above = float((values > threshold).mean())
            _text(axes, 1.015, base + 0.4, f"{above:.1%} above", "left")
    axes.set_ylim(0, len(scores))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks([])
    if threshold is not None:
        axes.axvline(threshold, color="#a3320b", linewidth=1.4, linestyle=(0, (4, 2)))
        place = (threshold - edges[0]) / (edges[-1] - edges[0])
        side = "left" if place < 0.15 else "right" if place > 0.85 else "center"
        axes.text(
            threshold,
            1 + 0.06 / (row * len(scores)),
            f"threshold {number(threshold)}",
            fontsize=SMALL,
            color="#a3320b",
            ha=side,
            va="bottom",
            transform=axes.get_xaxis_transform(),
        )
    _plain(axes, f"{x_label} (the last bin holds all above {number(edges[-1], 3)})" if cut else x_label)
    return figure


def auroc_bars(table: Mapping[str, Mapping[str, float]], x_label: str = "AUROC") -> Figure:
    """AUROC by method: one small chart for each, with the same rows and the value at every bar.

    Args:
        table: for each method the AUROC, in [0, 1], by name (digit, defect, "mean"); NaN or an absent name shows a dash.
        x_label: what the numbers are.

    Raises:
        UsageError: an empty table, or a value outside [0, 1].
    """
    names = list(dict.fromkeys(name for values in table.values() for name in values))
    if not names:
        raise UsageError("a chart needs at least one method with at least one value")
    for method, values in table.items():
        for name, value in values.items():
            if value < 0 or value > 1:
                raise UsageError(f"{x_label} of {method!r} for {name!r} must be in [0, 1], not {value}")
    down = -(-len(table) // _MOST_ACROSS)
    across = -(-len(table) // down)
    measure = Sheet(1, 1)
    short = [measure.fit(name, 1.8) for name in names]
    left = 0.25 + max(measure.text_width(name, TEXT) for name in short)
    chart, gap, row, top, bottom = 1.5, 0.2, 0.23, 0.35, 0.6
    width = left + across * (chart + gap) + 0.1
    each = top + row * len(names) + bottom
    figure = blank(width, down * each)
    for place, (method, values) in enumerate(table.items()):
        x, y = left + place % across * (chart + gap), (down - 1 - place // across) * each + bottom
        axes = figure.add_axes((x / width, y / (down * each), chart / width, row * len(names) / (down * each)))
        found = [float(values.get(name, np.nan)) for name in names]
        rows = np.arange(len(names))[::-1]
        known = ~np.isnan(found)
        axes.barh(rows[known], np.asarray(found)[known], height=0.72, color="#b5d3e7", edgecolor=_BLUE, linewidth=0.8)
        axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=(0, (2, 2)))
        for at, value in zip(rows, found, strict=True):
            axes.text(0.03, at - 0.03, _auroc(value), fontsize=SMALL, color=_INK, va="center_baseline")
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], labels=["0", "0.5", "1"])
        axes.set_yticks(rows, labels=short if place % across == 0 else [""] * len(names))
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.tick_params(axis="y", length=0, labelsize=TEXT, colors=_INK)
        title = measure.fit(method, chart + gap - 0.1, TEXT, bold=True)
        axes.set_title(title, fontsize=TEXT, fontweight="bold", color=_INK, loc="left", parse_math=False)
        _plain(axes, x_label)
    return figure


def _text(axes: Axes, x: float, y: float, text: str, align: str, bold: bool = False) -> None:
    axes.text(
        x,
        y,
        text,
        fontsize=SMALL,
        fontweight="bold" if bold else "normal",
        color=_INK,
        ha=align,
        va="center",
        transform=axes.get_yaxis_transform(),
        parse_math=False,
    )


def _plain(axes: Axes, x_label: str) -> None:
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", labelsize=SMALL, colors=_INK)
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, fontsize=TEXT, color=_INK, parse_math=False)


def _count(given: int, finite: int) -> str:
    return f"n = {finite:,}" + (f", {given - finite:,} missing" if given > finite else "")


def _auroc(value: float) -> str:
    """Three decimals, or as many as keep a value that is not perfect from reading 1.000."""
    if np.isnan(value):
        return NOTHING
    if value < 1 and f"{value:.3f}" == "1.000":
        return f"{value:.4f}" if value < 0.99995 else "> 0.9999"
    return f"{value:.3f}"


def _edges(groups: Sequence[Array], threshold: float | None) -> tuple[Array, bool]:
    """The common bins, and whether the last one takes in scores beyond it: few that are far off must not flatten the rest."""
    pooled = np.concatenate(groups) if groups else np.zeros(1)
    low, high, bulk = float(pooled.min()), float(pooled.max()), float(np.percentile(pooled, 99))
    cut = high > low + 3 * (bulk - low) > low
    if cut:
        high = low + 2 * (bulk - low)
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
        cut = bool(high < pooled.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    margin = 0.02 * (high - low)
    return np.linspace(low - margin, high if cut else high + margin, _BINS + 1), cut
