"""What the tables' numbers are, worked out by hand."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from vaelens.errors import UsageError
from vaelens.paper import reported
from vaelens.paper.estimate import spoken, steps_per_epoch
from vaelens.paper.kept import Measured
from vaelens.paper.reported import Reported
from vaelens.paper.rows import Row, against_floors, row
from vaelens.paper.written import BELOW, aligned, dots, name_of, over_seeds, to_csv
from vaelens.report.charts import Dots, spread_dots
from vaelens.report.figures import Panel, figure4
from vaelens.report.sheet import to_png


def of(spec: str, auroc: tuple[float | None, ...], precision: tuple[float | None, ...], data: str = "d", **more: object) -> Row:
    values = {
        "pixel_auroc": auroc,
        "pixel_ap": precision,
        "best_iou": (0.25,) * len(auroc),
        "image_auroc": (None,) * len(auroc),
    }
    return Row(data, spec, spec, tuple(range(len(auroc))), values, (8, 9), **more)  # type: ignore[arg-type]


def test_mean_and_spread() -> None:
    one = of("matching", (0.5, 0.6, 0.9), (0.5, None, 0.7))
    assert one.mean("pixel_auroc") == pytest.approx(2 / 3)
    # squared distances from the mean: (1/6)^2 + (1/15)^2 + (7/30)^2 = 0.086667; over two, and the root
    assert one.spread("pixel_auroc") == pytest.approx(0.2081666)
    assert one.mean("pixel_ap") == pytest.approx(0.6)
    assert one.spread("pixel_ap") == pytest.approx(0.1414214)
    assert (one.mean("image_auroc"), one.spread("image_auroc")) == (None, None)
    assert of("matching", (0.5,), (0.5,)).spread("pixel_auroc") is None
    assert over_seeds(one, "pixel_auroc") == "0.667 ± 0.208"
    assert over_seeds(of("matching", (0.5,), (0.5,)), "pixel_auroc") == "0.500"
    assert over_seeds(one, "image_auroc") == "-"


def test_a_row_has_to_be_above_every_floor_in_both_figures() -> None:
    rows = against_floors(
        [
            of("above", (0.9, 0.7), (0.5, 0.5)),  # means 0.8 and 0.5
            of("auroc alone", (0.9,), (0.3,)),
            of("ap alone", (0.6,), (0.9,)),
            of("equal", (0.75, 0.75), (0.9, 0.9)),
            of("undefined", (None,), (None,)),
            of("elsewhere", (0.1,), (0.1,), data="other"),
            None,
            of("floor-mean", (0.7, 0.8), (0.2, 0.2)),
            of("floor-contrast", (0.5, 0.5), (0.3, 0.5)),
        ]
    )
    assert {one.spec: one.below for one in rows} == {
        "above": (),
        "auroc alone": ("floor-contrast",),
        "ap alone": ("floor-mean",),
        "equal": ("floor-mean",),
        "undefined": ("floor-mean", "floor-contrast"),
        "elsewhere": (),
        "floor-mean": (),
        "floor-contrast": (),
    }
    assert [name_of(one) for one in rows[:2]] == ["above", f"auroc alone {BELOW}"]


def test_rows_take_the_runs_that_have_the_localizer() -> None:
    figures = {"pixel_auroc": 0.5, "pixel_ap": 0.25, "best_iou": None, "image_auroc": 1.0}
    runs = [
        Measured("d", 3, (8, 9), {}, {"a": figures}),
        Measured("d", 5, (8, 9), {}, {"a": figures, "b": figures | {"detail": "x"}}),
    ]
    both, one = row("A", "a", runs), row("B", "b", runs)
    assert both is not None
    assert one is not None
    assert (both.seeds, both.values["pixel_ap"], both.detail) == ((3, 5), (0.25, 0.25), None)
    assert (one.seeds, one.detail) == ((5,), "x")
    assert row("C", "c", runs) is None


def test_csv_has_the_numbers_of_the_json_in_full() -> None:
    one = of("matching", (1 / 3, 2 / 7), (0.1, 0.2), paper=Reported(0.92), below=("floor-mean", "floor-contrast"))
    (line,) = csv.DictReader(io.StringIO(to_csv([one])))
    values = one.to_dict()
    for name in ("pixel_auroc", "pixel_auroc_spread", "pixel_ap", "pixel_ap_spread", "best_iou"):
        assert float(line[name]) == values[name]
    assert line["image_auroc"] == ""
    assert (line["seeds"], line["height"], line["width"]) == ("0 1", "8", "9")
    assert (line["paper_pixel_auroc"], line["paper_best_iou"], line["reproduction_pixel_auroc"]) == ("0.92", "", "")
    assert line["below_floors"] == "floor-mean floor-contrast"


def test_cells_of_two_lines_stand_under_their_columns() -> None:
    text = aligned(["name", "x\ny"], [["a [b]", "1\n2"], None, ["c", "10\n20"]])
    assert [line.split() for line in text.splitlines() if "─" not in line and line] == [
        ["x"], ["name", "y"], ["a", "[b]", "1"], ["2"], ["c", "10"], ["20"],
    ]  # fmt: skip
    assert len({len(line) for line in text.splitlines() if line.endswith(("y", "1", "2", "10", "20"))}) == 1


def test_charts_take_floors_as_lines_and_the_papers_figures_as_marks() -> None:
    rows = [of("matching", (0.5, 0.7), (0.01, 0.02), paper=Reported(0.92)), of("floor-mean", (0.6, 0.8), (0.03, 0.03))]
    ((auroc, precision),) = dots(rows)
    assert (auroc.title, auroc.x_label, auroc.values) == ("d", "pixel AUROC", {"matching": [0.5, 0.7]})
    assert auroc.floors == {"floor-mean": pytest.approx(0.7)}
    assert (auroc.marks, precision.marks) == ({"matching": 0.92}, {})
    figure = spread_dots([[auroc, precision]])
    first, second = figure.axes
    assert [line.get_xdata() for line in first.lines if list(line.get_xdata()) == [0.7, 0.7]]  # type: ignore[arg-type]
    drawn = {tuple(line.get_xdata()) for line in first.lines}  # type: ignore[arg-type]
    assert {(0.5, 0.7), (0.6, 0.6), (0.92,)} <= drawn  # dots, their mean, the paper's
    assert (first.get_xlim(), second.get_xlim()) == ((0, 1), (0, 0.1))
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("charts", "message"), [([], "at least one"), ([[Dots("d", "AUROC", {"a": [1.5]})]], r"AUROC of 'd' must be in \[0, 1\]")]
)
def test_charts_refuse(charts: list[list[Dots]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spread_dots(charts)


def test_a_panel_draws_its_masks_below_the_inputs() -> None:
    images = np.full((2, 28, 28), 128, np.uint8)
    masks = np.zeros((2, 28, 28), bool)
    masks[1, :14] = True
    figure = figure4([Panel("p", images, ["a", "b"], {"m": np.ones((2, 7, 7))}, masks=masks)])
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text() in ("input", "mask", "m")] == [
        "input",
        "mask",
        "m",
    ]
    pixels = np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("L"))
    tiles = figure.axes[0].images
    left, right, bottom, top = (round(edge * figure.dpi) for edge in tiles[3].get_extent())
    shown = pixels[top:bottom, left:right]
    assert (shown[5].min(), shown[-5].max()) == (255, 0)
    with pytest.raises(UsageError, match="panel 'p' has 2 inputs and 1 masks"):
        figure4([Panel("p", images, ["a", "b"], {}, masks=masks[:1])])


def test_times_for_people() -> None:
    assert [spoken(s) for s in (0.2, 40, 89, 90, 1500, 5400, 12_600, 400_000)] == [
        "1 s", "40 s", "89 s", "2 min", "25 min", "1.5 h", "3.5 h", "4.6 days",
    ]  # fmt: skip
    assert [steps_per_epoch(n, 32) for n in (1, 32, 33)] == [1, 1, 2]


def test_reported_figures_are_shares_and_of_known_categories() -> None:
    from vaelens.data.mvtec import CATEGORIES

    tables = (reported.PAPER_TABLE2, reported.REPRODUCTION_TABLE2)
    known = [
        *reported.PAPER_TABLE1.values(),
        *(one for table in tables for methods in table.values() for one in methods.values()),
    ]
    assert all(0 <= value < 1 for one in known for value in one.to_dict().values())
    assert all(set(table) <= set(CATEGORIES) for table in tables)
    assert set(reported.PAPER_TABLE2) == set(CATEGORIES)
    assert reported.PAPER_TABLE1["conv2"].auroc == 0.92
    assert reported.paper_table2("screw", "attention") == Reported(0.97, 0.17)
    assert reported.paper_table2("screw", "ae-l2") == Reported(0.96, 0.34)
    unknown = {name for name in CATEGORIES if reported.paper_table2(name, "attention") == reported.UNKNOWN}
    assert unknown == {"leather", "tile", "wood", "bottle"}
    assert reported.paper_table2("screw", "no method").to_dict() == {}
