"""Curves over the share of pixels: every line where it should be, and what is no curve."""

from __future__ import annotations

import pytest

from vaelens.errors import UsageError
from vaelens.report.followed import followed_curves
from vaelens.report.sheet import to_png


def test_every_chart_has_every_line_and_one_legend() -> None:
    charts = {
        "Deletion": {"random": [0, 0.5, 1], "a $map$": [0, 0.8, 1]},
        "Insertion": {"random": [1, 0.5, 0], "a $map$": [1, 0.1, 0]},
    }
    figure = followed_curves(charts, [0, 0.5, 1], ["random"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(charts)
    for axes, lines in zip(figure.axes, charts.values(), strict=True):
        assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == lines
    assert [axes.get_legend() is not None for axes in figure.axes] == [False, True]
    first, second = figure.axes[0].lines
    assert first.get_color() != second.get_color()
    assert to_png(figure).startswith(b"\x89PNG")


def test_no_lines_and_lines_of_another_length_are_refused() -> None:
    for charts in ({}, {"Deletion": {}}):
        with pytest.raises(UsageError, match="at least one chart"):
            followed_curves(charts, [0, 1])
    with pytest.raises(UsageError, match="'cvpr' of 'Deletion' has 3 values for 2 fractions"):
        followed_curves({"Deletion": {"cvpr": [0, 1, 2]}}, [0, 1])
