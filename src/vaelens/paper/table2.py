"""Table 2: every localizer on the categories of MVTec AD, pixel AUROC above best IoU as the paper prints them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaelens.errors import UsageError
from vaelens.localizers import FLOORS
from vaelens.paper.anomaly_runs import OBJECTIVES, given_runs, mvtec_recipes
from vaelens.paper.asked import Asked
from vaelens.paper.kept import Measured, measured
from vaelens.paper.queue import runs_of
from vaelens.paper.reported import NOTES_TABLE2, paper_table2, reproduction_table2
from vaelens.paper.result import Reproduced
from vaelens.paper.rows import Row, against_floors, row
from vaelens.paper.written import (
    NOTHING,
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

# By objective of the run: label, localizer, and the method's name where the paper has it too.
ROWS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "vae": (
        ("attention, eq. 4", "normal-difference", "attention"),
        ("attention, mean sum", "mean-sum", ""),
        ("deviation", "deviation", ""),
        ("deviation, all layers", "deviation:layer=all", ""),
        ("matching", "matching", ""),
        ("learned", "learned", ""),
        ("reconstruction", "reconstruction", ""),
        ("feature dictionary", "feature-dictionary", "feature-dictionary"),
    ),
    "ae": (("AE L2", "ae-l2", "ae-l2"),),
    "ae-ssim": (("AE SSIM", "ae-ssim", "ae-ssim"),),
    "anogan": (("AnoGAN", "anogan", "anogan"),),
}
_COLUMNS = ("localizer", "AUROC\nbest IoU (oracle)", "paper", "reproduction", "AP", "image AUROC")


def make(asked: Asked, out: Path) -> Reproduced:
    """Write OUT/table2.txt, .json, .csv and .png.

    A VAE, two autoencoders and a generative adversarial network are trained for each category and seed; given runs are taken
    alone, and the rows are those that they allow.

    Raises:
        UsageError: two given runs of one category, objective and seed.
    """
    given = given_runs(asked, ("mvtec",), (*OBJECTIVES, "beta"))
    _check(given)
    runs = given or runs_of(mvtec_recipes(asked.all_seeds, OBJECTIVES, asked), out, asked)
    results = [measured(run, specs_of(run), out, asked) for run in runs]
    rows: list[Row] = []
    for data in dict.fromkeys(one.dataset for one in results):
        rows += _rows(data.partition("/")[2], [one for one in results if one.dataset == data])
    notes = [spread_note(results), *settings_notes(results), *_details(rows), *NOTES_TABLE2]
    return write_table("table2", "Table 2: MVTec AD", text_of(rows), rows, notes, results, out)


def specs_of(run: Run) -> list[str]:
    """The localizers that a run gives rows for; a VAE's the floors too."""
    specs = [spec for _, spec, _ in ROWS["vae" if run.has_posterior else run.config.objective]]
    return specs + ([name for name in suitable(run.config) if name in FLOORS] if run.has_posterior else [])


def text_of(rows: Sequence[Row]) -> str:
    """The table's body: a block for each category, AUROC above best IoU in each cell."""
    cells: list[Sequence[str] | None] = []
    for data in dict.fromkeys(one.data for one in rows):
        cells.append([data, *[""] * (len(_COLUMNS) - 1)])
        for one in (one for one in rows if one.data == data):
            pairs = [_pair(over_seeds(one, "pixel_auroc"), over_seeds(one, "best_iou"))]
            pairs += [
                _pair(*(as_printed(of.to_dict(), figure) for figure in ("pixel_auroc", "best_iou")))
                for of in (one.paper, one.reproduction)
            ]
            cells.append([f"  {name_of(one)}", *pairs, over_seeds(one, "pixel_ap"), over_seeds(one, "image_auroc")])
        cells.append(None)
    return aligned(*without_empty(_COLUMNS, cells, lambda cell: cell in ("", NOTHING)))


def _pair(above: str, below: str) -> str:
    return NOTHING if above == below == NOTHING else f"{above}\n{below}"


def _rows(category: str, results: Sequence[Measured]) -> list[Row]:
    rows = [
        row(label, spec, results, paper_table2(category, method), reproduction_table2(category, method))
        for methods in ROWS.values()
        for label, spec, method in methods
    ]
    return against_floors([*rows, *(row(name, name, results) for name in FLOORS)])


def _details(rows: Sequence[Row]) -> list[str]:
    """What is to be said of how methods were used."""
    return list(dict.fromkeys(f"{one.label}: {one.detail}." for one in rows if one.detail))


def _check(runs: Sequence[Run]) -> None:
    """Refuse given runs two of which would go into one cell."""
    kinds = [(run.config.dataset["category"], _kind(run), run.config.dataset["seed"]) for run in runs]
    for kind in kinds:
        if kinds.count(kind) > 1:
            category, objective, seed = kind
            raise UsageError(f"several runs are of {category}, objective {objective}, seed {seed}; give one of each")


def _kind(run: Run) -> str:
    return "vae" if run.has_posterior else run.config.objective
