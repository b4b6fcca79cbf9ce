"""Evaluations as tables on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaelens.console import print_table

if TYPE_CHECKING:
    from vaelens.runs import Run
    from vaelens.scoring.evaluate import Evaluation
    from vaelens.scoring.localization import LocalizationEvaluation


def print_localization(result: LocalizationEvaluation) -> None:
    """Figures over pixels and images, and which localizers are not above every floor."""
    from vaelens.scoring.localization_report import table_of

    table = table_of(result)
    print_table(table.title, list(table.columns), [[_figure(cell) for cell in row] for row in table.rows])
    for name, floors in result.below_floors().items():
        print(f"{name} is not above {' and '.join(floors)} in both AUROC and AP: it has not localized anything")


def print_evaluation(result: Evaluation, run: Run) -> None:
    """Image-level AUROC of each score against each other class."""
    classes = sorted({label for one in result.scores.values() for label in one.per_class})
    rows = [
        [
            name,
            *(f"{one.per_class[label]:.4f}" for label in classes),
            f"{one.mean:.4f}",
            f"{one.false_alarms:.3f}",
            f"{one.detected:.3f}",
        ]
        for name, one in result.scores.items()
    ]
    normal = run.config.dataset["normal"]
    columns = ["score", *(str(label) for label in classes), "mean", "false alarms", "detected"]
    print_table(f"image-level AUROC of class {normal} (normal) against each other class", columns, rows)
    print(f"{result.active} of {result.latents} latents active; false alarms and detections at a promised rate of 5 %")


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
