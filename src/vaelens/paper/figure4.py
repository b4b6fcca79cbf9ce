"""Figure 4: trained on one digit, where are others abnormal? Digit 1 tested on 7, 2, 4, 9, 5, and the same for digit 3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vaelens.data.images import ImageSet
from vaelens.output import write_bytes
from vaelens.paper.anomaly_rows import anomaly_panel
from vaelens.paper.asked import Asked
from vaelens.paper.mnist_runs import runs_for
from vaelens.paper.result import Reproduced
from vaelens.report.figures import figure4
from vaelens.report.sheet import to_png
from vaelens.runs import Run
from vaelens.runs.data import load_classes

DIGITS = (1, 3)
SHOWN = (7, 2, 4, 9, 5)


def make(asked: Asked, out: Path) -> Reproduced:
    """The figure from runs of digits 1 and 3."""
    return draw(runs_for(DIGITS, out, asked), asked.root, out)


def draw(runs: Sequence[Run], root: Path | None, out: Path) -> Reproduced:
    """Draw OUT/figure4.png from the first test image of each digit shown, so that none is chosen for its looks.

    Args:
        runs: of digit 1 and digit 3.
        root: folder of MNIST's files, where they have moved.
        out: folder to write into.
    """
    panels = []
    for run in runs:
        samples = first_of(load_classes(run.config, root).test, SHOWN)
        panels.append(anomaly_panel(run, samples, f"trained on {run.config.dataset['normal']}"))
    file = out / "figure4.png"
    write_bytes(file, to_png(figure4(panels)))
    text = "Figure 4: the first test image of each of 7, 2, 4, 9, 5 under a VAE that has seen one digit alone."
    return Reproduced("figure4", text, (file,), tuple(run.settings() for run in runs))


def first_of(test: ImageSet, labels: Sequence[int]) -> ImageSet:
    """The first test image of each label, in that order."""
    assert test.labels is not None
    return test.subset(torch.stack([(test.labels == label).nonzero()[0, 0] for label in labels]))
