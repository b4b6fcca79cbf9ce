"""Small charts: scores by group with the threshold, AUROC by method, and figures over seeds against floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.content import Array
from vaelens.report.sheet import SMALL, TEXT, Sheet, blank
from vaelens.report.wording import NOTHING, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE = "#31688e"
_RED = "#a3320b"
_INK = "#1b1f24"
_GRID = "#d5dade"
_BINS = 60
_MOST_ACROSS = 6
_STYLES = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))  # of the floors' lines


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
        axes.axvline(threshold, color=_RED, linewidth=1.4, linestyle=(0, (4, 2)))
        place = (threshold - edges[0]) / (edges[-1] - edges[0])
        side = "left" if place < 0.15 else "right" if place > 0.85 else "center"
        axes.text(
            threshold,
            1 + 0.06 / (row * len(scores)),
            f"threshold {number(threshold)}",
            fontsize=SMALL,
            color=_RED,
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


def share_table(shares: Array, rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """Numbers in [0, 1] as a table whose cells are the darker the larger they are.

    Args:
        shares: (R, C), in [0, 1] but for rounding.
        rows: R names.
        columns: C names.
        label: what the numbers are, below the table.

    Raises:
        UsageError: numbers of names that do not fit, or no cell.
    """
    if not np.size(shares) or np.shape(shares) != (len(rows), len(columns)):
        raise UsageError(f"{len(rows)} rows and {len(columns)} columns do not fit a table of {np.shape(shares)}")
    measure = Sheet(1, 1)
    left = 0.25 + max(measure.text_width(name, TEXT) for name in rows)
    cell = max(0.6, 0.15 + max(measure.text_width(name, TEXT) for name in columns))
    line, top, bottom = 0.25, 0.35, 0.35
    width, height = left + cell * len(columns) + 0.15, top + line * len(rows) + bottom
    figure = blank(width, height)
    axes = figure.add_axes((left / width, bottom / height, cell * len(columns) / width, line * len(rows) / height))
    axes.imshow(np.clip(shares, 0, 1), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (row, column), value in np.ndenumerate(shares):
        text = f"{value:.2f}" if value >= 0.005 else NOTHING
        axes.text(column, row, text, fontsize=SMALL, color=_INK, ha="center", va="center_baseline")
    axes.set_xticks(range(len(columns)), labels=list(columns))
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.tick_params(length=0, labelsize=TEXT, colors=_INK, top=True, bottom=False, labeltop=True, labelbottom=False)
    for name in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        name.set_parse_math(False)
    axes.set_xlabel(label, fontsize=SMALL, color=_INK, parse_math=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@dataclass(frozen=True, slots=True)
class Dots:
    """One chart of `spread_dots`.

    Args:
        title: such as the data set.
        x_label: what the numbers are.
        values: by method, one value for each seed, in [0, 1]; may be empty.
        floors: values by name, drawn as lines over all methods.
        marks: by method, what others report, drawn as a diamond.
    """

    title: str
    x_label: str
    values: Mapping[str, Sequence[float]]
    floors: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)


def spread_dots(charts: Sequence[Sequence[Dots]]) -> Figure:
    """Figures over seeds: a dot for each seed and a bar at their mean, methods as rows, floors as lines.

    Args:
        charts: rows of charts, drawn below each other; those of a row have the same methods and floors.

    Raises:
        UsageError: no chart, or a value outside [0, 1].
    """
    if not charts or not all(charts):
        raise UsageError("a figure of dots needs at least one chart")
    for chart in (chart for line in charts for chart in line):
        if not all(0 <= value <= 1 for value in _numbers(chart)):
            raise UsageError(f"{chart.x_label} of {chart.title!r} must be in [0, 1]")
    measure = Sheet(1, 1)
    short = {name: measure.fit(name, 4.0) for line in charts for name in line[0].values}
    left = 0.25 + max((measure.text_width(name, TEXT) for name in short.values()), default=0.5)
    chart_width, gap, row, top, bottom = 3.0, 0.3, 0.23, 0.35, 0.55
    across = max(len(line) for line in charts)
    legends = [0.17 * (len(line[0].floors) + any(chart.marks for chart in line)) for line in charts]
    blocks = [top + row * len(line[0].values) + bottom + legend for line, legend in zip(charts, legends, strict=True)]
    width, height = left + across * (chart_width + gap) + 0.1, sum(blocks) + 0.1
    figure = blank(width, height)
    down = 0.0
    for line, block in zip(charts, blocks, strict=True):
        names = list(line[0].values)
        base = height - down - top - row * len(names)
        for at, chart in enumerate(line):
            x = left + at * (chart_width + gap)
            axes = figure.add_axes((x / width, base / height, chart_width / width, max(row * len(names), 0.1) / height))
            _draw_dots(axes, chart, names, _end(chart))
            axes.set_yticks(np.arange(len(names))[::-1], labels=[short[n] for n in names] if at == 0 else [""] * len(names))
            for label in axes.get_yticklabels():
                label.set_parse_math(False)
            axes.tick_params(axis="y", length=0, labelsize=TEXT, colors=_INK)
            title = measure.fit(chart.title, chart_width, TEXT, bold=True)
            axes.set_title(title, fontsize=TEXT, fontweight="bold", color=_INK, loc="left", parse_math=False)
            _plain(axes, chart.x_label)
            if chart.floors or chart.marks:
                legend = axes.legend(
                    *_keys(chart),
                    loc="upper left",
                    bbox_to_anchor=(0, -0.42 / max(row * len(names), 0.1)),
                    fontsize=SMALL,
                    frameon=False,
                    borderaxespad=0,
                    labelspacing=0.15,
                    handlelength=2.6,
                )
                for text in legend.get_texts():
                    text.set_parse_math(False)
        down += block
    return figure


def _draw_dots(axes: Axes, chart: Dots, names: Sequence[str], end: float) -> None:
    for value, style in zip(chart.floors.values(), _cycled(len(chart.floors)), strict=True):
        axes.axvline(value, color=_RED, linewidth=1.0, linestyle=style, zorder=1)
    for place, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
        values = list(chart.values.get(name, ()))
        if values:
            mean = sum(values) / len(values)
            axes.plot([min(values), max(values)], [place, place], color=_BLUE, linewidth=1.2, zorder=2)
            axes.plot([mean, mean], [place - 0.3, place + 0.3], color=_BLUE, linewidth=2.0, zorder=3)
            axes.plot(values, [place] * len(values), "o", color=_BLUE, markersize=3.5, alpha=0.7, zorder=4)
        if name in chart.marks:
            axes.plot([chart.marks[name]], [place], "D", color="white", markeredgecolor=_INK, markersize=5, zorder=5)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, end)
    ticks = [end * quarter / 4 for quarter in range(5)]
    axes.set_xticks(ticks, labels=[number(tick, 3) for tick in ticks])


def _numbers(chart: Dots) -> list[float]:
    return [*(v for values in chart.values.values() for v in values), *chart.floors.values(), *chart.marks.values()]


def _end(chart: Dots) -> float:
    """The axis ends at 1, or sooner where all numbers are small: precisions of few abnormal pixels are."""
    return next((end for end in (0.1, 0.2, 0.4) if max(_numbers(chart), default=1.0) <= 0.95 * end), 1.0)


def _keys(chart: Dots) -> tuple[list[Any], list[str]]:
    """What the legend shows: the floors with their values, and what the diamonds are."""
    from matplotlib.lines import Line2D

    styles = _cycled(len(chart.floors))
    lines = [Line2D([], [], color=_RED, linewidth=1.0, linestyle=style) for style in styles]
    labels = [f"{name} {value:.3f}" for name, value in chart.floors.items()]
    if chart.marks:
        lines.append(Line2D([], [], linestyle="", marker="D", color="white", markeredgecolor=_INK, markersize=5))
        labels.append("the paper")
    return lines, labels


def _cycled(count: int) -> list[Any]:
    return [_STYLES[i % len(_STYLES)] for i in range(count)]


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
