"""Figure 1: what three latents look at, across samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vaelens.data.images import to_float
from vaelens.output import write_bytes
from vaelens.paper.asked import Asked
from vaelens.paper.mnist_runs import runs_for
from vaelens.paper.result import Reproduced
from vaelens.report.figures import figure1
from vaelens.report.sheet import to_png
from vaelens.runs import Run
from vaelens.runs.data import load_classes
from vaelens.scoring.gallery import pictures

DIGITS = (3,)
SAMPLES = 8
LATENTS = 3


def make(asked: Asked, out: Path) -> Reproduced:
    """The figure from a run of digit 3."""
    return draw(runs_for(DIGITS, out, asked), asked.root, out)


def draw(runs: Sequence[Run], root: Path | None, out: Path) -> Reproduced:
    """Draw OUT/figure1.png: the three latents that carry most on normal images, for the first eight normal test images.

    Args:
        runs: one run.
        root: folder of MNIST's files, where they have moved.
        out: folder to write into.
    """
    run = runs[0]
    normal = run.config.dataset["normal"]
    samples = load_classes(run.config, root).test.with_label(normal).subset(range(SAMPLES))
    latents = torch.tensor(run.metrics["mean_kl"]).topk(min(LATENTS, run.model.latent_dim)).indices.tolist()
    maps = run.explain(to_float(samples.images), run.attend(latents=latents)).maps
    drawn = figure1(pictures(samples.images), maps.per_latent.numpy(), [f"z{latent}" for latent in latents])
    file = out / "figure1.png"
    write_bytes(file, to_png(drawn))
    text = (
        f"Figure 1: attention of {', '.join(f'z{latent}' for latent in latents)}, the latents that carry most information, "
        f"for the first {SAMPLES} test images of digit {normal}."
    )
    return Reproduced("figure1", text, (file,), (run.settings(),))
