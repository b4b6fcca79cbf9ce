"""The main job on embedded data: train on one digit, explain others, measure, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelens.output import result_folder, write_bytes
from vaelens.paper.anomaly_rows import anomaly_panel
from vaelens.paper.figure4 import SHOWN, first_of
from vaelens.report.content import Figure
from vaelens.report.figures import figure4
from vaelens.report.html import write_report
from vaelens.report.sheet import to_png
from vaelens.runs import Run, load_run
from vaelens.runs.data import load_classes
from vaelens.runs.train import train_run
from vaelens.scoring.evaluate import Evaluation, evaluate
from vaelens.scoring.evaluation_report import evaluation_report
from vaelens.scoring.explain import explain
from vaelens.scoring.sources import Source

NORMAL = 1


@dataclass(frozen=True)
class Demo:
    """What the demo came to: its folder, run, evaluation, report and pictures."""

    out: Path
    run: Run
    evaluation: Evaluation
    report: Path
    pictures: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `demo --json` prints it."""
        return {
            "run": str(self.run.path),
            "report": str(self.report),
            "pictures": [str(p) for p in self.pictures],
            **self.evaluation.to_dict(),
        }


def run_demo(out: str | Path, epochs: int = 60, seed: int = 0, progress: bool = True) -> Demo:
    """Train on embedded digit 1, explain and score others, and write a report; a demo that is there is replaced.

    Args:
        out: folder to make.
        epochs: passes over the training images.
        seed: of weights, order and noise.
        progress: show the training's progress on stderr.

    Raises:
        UsageError: `out` holds something that is not a demo.
    """
    out = Path(out)
    with result_folder(out, "demo", overwrite=True) as folder:
        run = _train(folder / "run", epochs, seed, progress)
        evaluation = evaluate(run)
        test = load_classes(run.config).test
        samples = first_of(test, SHOWN)
        overview = to_png(figure4([anomaly_panel(run, samples, f"trained on {NORMAL}, tested on other digits")]))
        write_bytes(folder / "anomalies.png", overview)
        explained = explain(run, Source(run, [samples.names[0]]), folder / "explained")
        figures = [
            Figure("Where other digits are not a 1", "Each column a test digit, each row a method.", overview),
            Figure("What every latent sees in a 7", "One colour scale; marked latents fired.", explained.files[0].read_bytes()),
        ]
        write_report(evaluation_report(run, evaluation, figures=figures), folder / "report.html")
        grid = explained.files[0].relative_to(folder)
    return Demo(out, load_run(out / "run"), evaluation, out / "report.html", (out / "anomalies.png", out / grid))


def _train(out: Path, epochs: int, seed: int, progress: bool) -> Run:
    from vaelens.training.result import TrainingInterrupted

    try:
        return train_run(out, "digits", normal=NORMAL, epochs=epochs, batch_size=32, seed=seed, progress=progress)
    except TrainingInterrupted as error:  # a demo is not resumed: what there is of it goes away with its folder
        error.args = (str(error).split(";")[0] + "; nothing half-written is left, start the demo again",)
        raise
