"""Points in a plane, and tables of shares."""

from __future__ import annotations

import numpy as np
import pytest

from vaelens.errors import UsageError
from vaelens.report.charts import share_table
from vaelens.report.scatter import Points, scatter
from vaelens.report.sheet import to_png
from vaelens.report.wording import NOTHING


def test_every_kind_is_drawn_with_its_points_and_named() -> None:
    figure = scatter(
        [Points("ours", [(40, 0.8), (60, 0.7)], 0), Points("the paper", [(38, 0.9)], 0, hollow=True)], "error", "score"
    )
    drawn = figure.axes[0].collections
    assert [len(each.get_offsets()) for each in drawn] == [2, 1]
    assert drawn[0].get_edgecolor().tolist() == drawn[1].get_edgecolor().tolist()
    assert len(drawn[1].get_facecolor()) == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "the paper"]
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("kinds", [[], [Points("none", [], 0)], [Points("odd", [(float("nan"), 1.0)], 0)]])
def test_no_point_or_one_that_is_nowhere_is_refused(kinds: list[Points]) -> None:
    with pytest.raises(UsageError, match="at least one point, and finite ones"):
        scatter(kinds, "x", "y")


def test_a_table_of_shares_has_every_number() -> None:
    figure = share_table(np.array([[0.0, 0.5], [1.02, 0.004]]), ["z0", "z1"], ["shape", "$posX$"], "share")
    assert [text.get_text() for text in figure.axes[0].texts] == [NOTHING, "0.50", "1.02", NOTHING]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["shape", "$posX$"]
    with pytest.raises(UsageError, match="2 rows and 1 columns do not fit"):
        share_table(np.zeros((2, 2)), ["z0", "z1"], ["shape"], "share")
