"""Figure 6: anomaly attention on the categories of MVTec AD, the first image of each type of defect."""

from __future__ import annotations

from pathlib import Path

from vaelens.data.anomaly import GOOD, AnomalySplit
from vaelens.errors import DataError, UsageError
from vaelens.output import write_bytes
from vaelens.paper.anomaly_rows import ROWS_OF_IMAGES, anomaly_panel
from vaelens.paper.anomaly_runs import given_runs, mvtec_recipes
from vaelens.paper.asked import Asked
from vaelens.paper.queue import runs_of
from vaelens.paper.result import Reproduced
from vaelens.report.figures import Panel, figure4
from vaelens.report.sheet import to_png
from vaelens.runs import Run
from vaelens.runs.data import load_defects


def make(asked: Asked, out: Path) -> Reproduced:
    """Draw OUT/figure6.png: a panel for each category.

    Image, mask, attention, deviation, matching, learned, reconstruction difference.

    Raises:
        UsageError: several runs of one category.
        DataError: no defect of a category has a mask.
    """
    given = given_runs(asked, ("mvtec",))
    categories = [run.config.dataset["category"] for run in given]
    for category in categories:
        if categories.count(category) > 1:
            raise UsageError(f"several runs are of {category}; give one run for each category")
    panels, settings = [], []
    for run in given or runs_of(mvtec_recipes([asked.one_seed], ("vae",), asked), out, asked):
        panels.append(_panel(run, load_defects(run.config, asked.root)))
        settings.append(run.settings())
    file = out / "figure6.png"
    write_bytes(file, to_png(figure4(panels)))
    shown = ", ".join(panel.title for panel in panels)
    text = f"Figure 6: {shown}; the first test image of each type of defect."
    return Reproduced("figure6", text, (file,), tuple(settings))


def first_of_each(split: AnomalySplit) -> list[int]:
    """The index of the first test image of each type of defect that has a mask, types in alphabetical order."""
    if split.test is None or split.has_mask is None:
        return []
    first: dict[str, int] = {}
    for index, (defect, known) in enumerate(zip(split.defects, split.has_mask.tolist(), strict=True)):
        if known and defect != GOOD:
            first.setdefault(defect, index)
    return [first[defect] for defect in sorted(first)]


def _panel(run: Run, split: AnomalySplit) -> Panel:
    chosen = first_of_each(split)
    if not chosen:
        raise DataError(f"no defect of {split.dataset} has a mask; check its test and ground_truth folders")
    assert split.test is not None
    assert split.masks is not None
    titles = [split.defects[index] for index in chosen]
    return anomaly_panel(run, split.test.subset(chosen), split.dataset, ROWS_OF_IMAGES, titles, split.masks[chosen])
