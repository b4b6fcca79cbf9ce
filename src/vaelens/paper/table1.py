"""Table 1: pixel-level figures on UCSD Ped1 or Ped2, one frame at a time as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaelens.errors import UsageError
from vaelens.localizers import FLOORS
from vaelens.paper.anomaly_runs import given_runs, ucsd_recipes
from vaelens.paper.asked import VIDEOS, Asked
from vaelens.paper.kept import Measured, measured
from vaelens.paper.queue import runs_of
from vaelens.paper.reported import NOTES_TABLE1, PAPER_TABLE1, REPRODUCTION_TABLE1, UNKNOWN
from vaelens.paper.result import Reproduced
from vaelens.paper.rows import Row, against_floors, row
from vaelens.paper.written import (
    aligned,
    as_printed,
    name_of,
    over_seeds,
    settings_notes,
    spread_note,
    without_empty,
    write_table,
)
from vaelens.runs import Run
from vaelens.runs.localizers import suitable

_PAPERS = "ucsd-ped1"
_COLUMNS = ("localizer", "pixel AUROC", "AP", "best IoU (oracle)", "frame AUROC", "paper: AUROC", "reproduction: AUROC")


def make(asked: Asked, out: Path) -> Reproduced:
    """Write OUT/table1.txt, .json, .csv and .png.

    Reconstruction, the paper's attention (eq. 4 and the mean sum) behind each convolution, deviation, matching, learned and the
    floors; single frames, unless a given run was trained on several.

    Raises:
        UsageError: given runs of several data sets, or two of one seed.
    """
    given = given_runs(asked, VIDEOS)
    _check(given)
    runs = given or runs_of(ucsd_recipes(asked.all_seeds, asked), out, asked)
    results: list[Measured] = []
    specs: dict[str, str] = {}
    for run in runs:
        own = rows_of(run)
        specs |= own
        results.append(measured(run, list(own.values()), out, asked))
    rows = against_floors(_row(label, spec, results) for label, spec in specs.items())
    notes = [spread_note(results), *settings_notes(results), *NOTES_TABLE1]
    return write_table("table1", f"Table 1: {results[0].dataset}", text_of(rows), rows, notes, results, out)


def rows_of(run: Run) -> dict[str, str]:
    """The localizers of the table by label: each convolution's attention is that of the ReLU behind it."""
    modules = dict(run.model.named_modules())
    numbers = [n for n in range(1, 10) if f"encoder.relu{n}" in modules]
    return {
        "reconstruction (Vanilla-VAE)": "reconstruction",
        **{f"attention, eq. 4, conv{n}": f"attention:layer=encoder.relu{n}" for n in numbers},
        **{f"attention, mean sum, conv{n}": f"attention:layer=encoder.relu{n}:score=mean-sum" for n in numbers},
        "deviation": "deviation",
        "deviation, all layers": "deviation:layer=all",
        "matching": "matching",
        "learned": "learned",
        **{name: name for name in suitable(run.config) if name in FLOORS},
    }


def text_of(rows: Sequence[Row]) -> str:
    """The table's body; the floors below a rule."""
    cells: list[Sequence[str] | None] = []
    for one in sorted(rows, key=lambda row: row.is_floor):
        if one.is_floor and (not cells or None not in cells):
            cells.append(None)
        figures = [over_seeds(one, figure) for figure in ("pixel_auroc", "pixel_ap", "best_iou", "image_auroc")]
        reported = [as_printed(of.to_dict(), "pixel_auroc") for of in (one.paper, one.reproduction)]
        cells.append([name_of(one), *figures, *reported])
    return aligned(*without_empty(_COLUMNS, cells))


def _row(label: str, spec: str, results: Sequence[Measured]) -> Row | None:
    if results[0].dataset != _PAPERS:
        return row(label, spec, results)
    # The paper's figures are of Ped1, and its attention is that of eq. 4.
    key = "reconstruction" if spec == "reconstruction" else label.removeprefix("attention, eq. 4, ")
    return row(label, spec, results, PAPER_TABLE1.get(key, UNKNOWN), REPRODUCTION_TABLE1.get(key, UNKNOWN))


def _check(runs: Sequence[Run]) -> None:
    """Refuse given runs that do not go into one table."""
    if len({run.config.dataset["name"] for run in runs}) > 1:
        raise UsageError("the runs are of both ucsd-ped1 and ucsd-ped2; give those of one")
    seeds = [run.config.dataset["seed"] for run in runs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UsageError(f"several runs have seed {seed}; give one run for each seed")
