"""Table 3 of the paper's first version: how disentangled the latents are on dSprites, with and without the attention loss."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vaelens._version import __version__
from vaelens.output import write_bytes, write_json, write_text
from vaelens.paper.asked import Asked
from vaelens.paper.reported import NOTES_TABLE3, OTHERS_TABLE3, PAPER_TABLE3
from vaelens.paper.result import Reproduced
from vaelens.paper.sprite_rows import FIGURES, SpriteFigures, SpriteRow, all_measured, sprite_rows, steps_named
from vaelens.paper.written import NOTHING, aligned, without_empty
from vaelens.report.charts import Dots, spread_dots
from vaelens.report.sheet import to_png

OBJECTIVES = ("vae", "beta", "factor", "ad-factor")
_SHOWN = {
    "factor_vae_score": "FactorVAE score",
    "mig": "MIG",
    "dci_disentanglement": "DCI",
    "reconstruction": "reconstruction",
    "total_correlation": "TC",
    "attention_overlap": "overlap",
    "empty_maps": "empty maps",
    "active_latents": "active",
}
_DECIMALS = {"reconstruction": 1, "total_correlation": 2, "active_latents": 1}


def make(asked: Asked, out: Path) -> Reproduced:
    """Write OUT/table3.txt, .json, .csv and .png.

    A VAE and a beta-VAE with the first seed, FactorVAE and AD-FactorVAE with every seed; each run is measured as it ends.

    Raises:
        UsageError: given runs of another data set, or two of one label and seed.
    """
    measured = all_measured(OBJECTIVES, out, asked)
    rows = sprite_rows(measured, PAPER_TABLE3, OTHERS_TABLE3)
    title = f"Table 3: dSprites, {steps_named(measured)}"
    notes = [spread_note(rows), *NOTES_TABLE3]
    text = "\n".join([title, "", text_of(rows), *(f"  {note}" for note in notes)]) + "\n"
    content = {
        "name": "table3",
        "title": title,
        "vaelens": __version__,
        "spread": "sample standard deviation over seeds",
        "rows": [row.to_dict() for row in rows],
        "notes": notes,
        "runs": [{"seed": one.seed, "label": one.label, **one.settings} for one in measured],
    }
    files = tuple(out / f"table3.{ending}" for ending in ("txt", "json", "csv", "png"))
    write_text(files[0], text)
    write_json(files[1], content)
    write_text(files[2], to_csv(measured))
    write_bytes(files[3], to_png(spread_dots(dots(rows))))
    return Reproduced("table3", text.rstrip("\n"), files, tuple(one.settings for one in measured), content)


def text_of(rows: Sequence[SpriteRow]) -> str:
    """The table's body: a line for each row with mean and spread, below it one for each seed where there are several."""
    columns = ["model", "seed", *_SHOWN.values(), "paper", "others"]
    cells: list[Sequence[str] | None] = []
    for row in rows:
        means = [_with_spread(row, figure) for figure in _SHOWN]
        reported = [NOTHING if value is None else f"{value:.2f}" for value in (row.paper, row.others)]
        several = len(row.runs) > 1
        cells.append([row.label, "mean" if several else str(row.seeds[0]), *means, *reported])
        if several:
            cells += [
                ["", str(run.seed), *(_number(figure, run.values[figure]) for figure in _SHOWN), NOTHING, NOTHING]
                for run in row.runs
            ]
    return aligned(*without_empty(columns, cells))


def to_csv(measured: Sequence[SpriteFigures]) -> str:
    """One line for each run, every number in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["label", "objective", "seed", "steps", *FIGURES])
    for one in measured:
        writer.writerow([one.label, one.objective, one.seed, one.steps, *(one.values[name] for name in FIGURES)])
    return buffer.getvalue()


def dots(rows: Sequence[SpriteRow]) -> list[list[Dots]]:
    """A chart of the FactorVAE score and one of the mutual information gap: a dot for each seed, what the paper reports."""
    reported = {row.label: row.paper for row in rows if row.paper is not None}
    scores, gaps = ({row.label: row.values(name) for row in rows} for name in ("factor_vae_score", "mig"))
    return [[Dots("dSprites", "FactorVAE score", scores, marks=reported), Dots("dSprites", "mutual information gap", gaps)]]


def spread_note(rows: Sequence[SpriteRow]) -> str:
    """How many seeds there are, and what ± means."""
    several = sorted({seed for row in rows if len(row.runs) > 1 for seed in row.seeds})
    if not several:
        return "One run each."
    return f"Mean ± sample standard deviation over seeds {', '.join(map(str, several))}, and each seed; else one run each."


def _with_spread(row: SpriteRow, figure: str) -> str:
    mean, spread = _number(figure, row.mean(figure)), row.spread(figure)
    return mean if spread is None else f"{mean} ± {_number(figure, spread)}"


def _number(figure: str, value: float | None) -> str:
    return NOTHING if value is None else f"{value:.{_DECIMALS.get(figure, 3)}f}"
