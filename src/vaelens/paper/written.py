"""A table as text, JSON, CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaelens._version import __version__
from vaelens.output import write_bytes, write_json, write_text
from vaelens.paper.kept import Measured
from vaelens.paper.result import Reproduced
from vaelens.paper.rows import FIGURES, Row
from vaelens.report.charts import Dots, spread_dots
from vaelens.report.sheet import to_png

NOTHING = "-"
BELOW = "*"
_COLUMN_OF = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "best_iou": "best IoU (oracle)",
    "image_auroc": "image AUROC",
}
_REPORTED = ("pixel_auroc", "best_iou")


def write_table(
    name: str, title: str, text: str, rows: Sequence[Row], notes: Sequence[str], runs: Sequence[Measured], out: Path
) -> Reproduced:
    """Write OUT/NAME.txt, .json, .csv and .png.

    Args:
        name: such as "table1".
        title: what the table is of, in one line.
        text: the table's body, such as `aligned` gives.
        rows: all rows, with the floors that each is not above.
        notes: lines for below the table.
        runs: that it was measured on.
        out: folder to write into.
    """
    content = {
        "name": name,
        "title": title,
        "vaelens": __version__,
        "spread": "sample standard deviation over seeds",
        "rows": [row.to_dict() for row in rows],
        "notes": [*notes, *_below(rows)],
        "runs": [{"seed": run.seed, "dataset": run.dataset, **run.settings} for run in runs],
    }
    whole = "\n".join([title, "", text, *(f"  {note}" for note in content["notes"])]) + "\n"
    files = tuple(out / f"{name}.{ending}" for ending in ("txt", "json", "csv", "png"))
    write_text(files[0], whole)
    write_json(files[1], content)
    write_text(files[2], to_csv(rows))
    write_bytes(files[3], to_png(spread_dots(dots(rows))))
    return Reproduced(name, whole.rstrip("\n"), files, tuple(run.settings for run in runs), content)


def to_csv(rows: Sequence[Row]) -> str:
    """One line for each row, every number in full; the same numbers as in the JSON file."""
    columns = ["data", "localizer", "spec", "seeds", "height", "width"]
    columns += [column for name in FIGURES for column in (name, f"{name}_spread")]
    columns += [f"{who}_{name}" for who in ("paper", "reproduction") for name in _REPORTED]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*columns, "below_floors"])
    for row in rows:
        values = row.to_dict()
        reported = [values[who].get(name) for who in ("paper", "reproduction") for name in _REPORTED]
        figures = [values[column] for name in FIGURES for column in (name, f"{name}_spread")]
        seeds, below = " ".join(map(str, row.seeds)), " ".join(row.below)
        writer.writerow([row.data, row.label, row.spec, seeds, *row.size, *figures, *reported, below])
    return buffer.getvalue()


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str] | None]) -> str:
    """Rows of cells, of one or several lines each, under their columns; None is a rule."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(Text(cell) for cell in row))
    buffer = io.StringIO()
    Console(file=buffer, width=400, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def name_of(row: Row) -> str:
    """A row's label, marked where it is not above every floor."""
    return f"{row.label} {BELOW}" if row.below else row.label


def over_seeds(row: Row, figure: str) -> str:
    """Mean and spread, such as `0.912 ± 0.004`."""
    mean, spread = row.mean(figure), row.spread(figure)
    if mean is None:
        return NOTHING
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"


def as_printed(figures: Mapping[str, float], figure: str) -> str:
    """What others report, with the two decimals that they print."""
    return f"{figures[figure]:.2f}" if figure in figures else NOTHING


def without_empty(
    columns: Sequence[str], rows: Sequence[Sequence[str] | None], empty: Callable[[str], bool] = lambda cell: cell == NOTHING
) -> tuple[list[str], list[Sequence[str] | None]]:
    """Columns and rows without the columns that say nothing in any row."""
    there = [i for i in range(len(columns)) if not all(row is None or empty(row[i]) for row in rows)]
    return [columns[i] for i in there], [None if row is None else [row[i] for i in there] for row in rows]


def dots(rows: Sequence[Row], figures: Sequence[str] = ("pixel_auroc", "pixel_ap")) -> list[list[Dots]]:
    """For each data set a chart of each figure: the values of all seeds, floors as lines, what the paper reports."""
    charts = []
    for data in dict.fromkeys(row.data for row in rows):
        of = [row for row in rows if row.data == data]
        charts.append([_chart(data, of, figure) for figure in figures])
    return charts


def _chart(data: str, rows: Sequence[Row], figure: str) -> Dots:
    methods = [row for row in rows if not row.is_floor]
    floors = {row.spec: mean for row in rows if row.is_floor and (mean := row.mean(figure)) is not None}
    marks = {row.label: row.paper.to_dict()[figure] for row in methods if figure in row.paper.to_dict()}
    return Dots(data, _COLUMN_OF[figure], {row.label: row.known(figure) for row in methods}, floors, marks)


def _below(rows: Sequence[Row]) -> list[str]:
    if not any(row.below for row in rows):
        return []
    return [f"{BELOW} not above every floor in both pixel AUROC and AP: it has not localized anything."]


def spread_note(runs: Sequence[Measured]) -> str:
    """How many seeds there are, and what ± means."""
    seeds = sorted({run.seed for run in runs})
    if len(seeds) == 1:
        return f"One run each, seed {seeds[0]}."
    return f"Mean ± sample standard deviation over seeds {', '.join(map(str, seeds))}."


def settings_notes(runs: Sequence[Measured]) -> list[str]:
    """A line for each kind of run: its objective, network, size and epochs."""
    lines = []
    for run in runs:
        of: dict[str, Any] = dict(run.settings)
        kind = f"Objective {of['objective']}: network '{of['network']['name']}', {of['training']['epochs']} epochs"
        lines.append(f"{kind}, images and maps of {'x'.join(map(str, run.size))}.")
    return list(dict.fromkeys(lines))
