"""What came of a command, on stdout: lines, and evaluations as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaelens.console import print_table

if TYPE_CHECKING:
    from vaelens.runs import Run
    from vaelens.scoring.disentanglement import Disentanglement
    from vaelens.scoring.evaluate import Evaluation
    from vaelens.scoring.explain import Explained
    from vaelens.scoring.faithfulness import Faithfulness
    from vaelens.scoring.localization import LocalizationEvaluation


def print_trained(run: Run) -> None:
    """What training came to."""
    metrics = run.metrics
    loss = metrics["losses"].get("val/loss", metrics["losses"]["train/loss"])
    each = run.config.training.get("steps_per_epoch")
    length = f"{metrics['epochs']} epochs" if each is None else f"{metrics['epochs'] * each} steps"
    done = f"{run.path}: {length} in {metrics['seconds']:.0f} s"
    if not run.has_posterior:
        print(f"{done}, loss {loss:.4g}; localizer {run.main_localizer}")
        return
    print(f"{done}, {'training' if run.config.of_factors else 'held-out'} loss {loss:.2f} nats per image,")
    print(f"{metrics['active_latents']} of {run.model.latent_dim} latents active; layer {run.attention.layer} by ", end="")
    print(run.attention.method.replace("_", " "))
    _print_cautions(run)


def print_fired(result: Explained) -> None:
    """For each image the latents that fired, the farthest from normal first."""
    from vaelens.data.files import shown

    for i, name in enumerate(result.names):
        z_scores = result.explanation.z_scores[i]
        fired = sorted(result.explanation.fired[i].nonzero().flatten().tolist(), key=lambda d: -abs(float(z_scores[d])))
        listed = ", ".join(f"z{d} ({float(z_scores[d]):+.1f} sd)" for d in fired) or "no latent"
        print(f"{shown(name)}: {listed} fired; {result.files[i]}")


def print_localization(result: LocalizationEvaluation, run: Run) -> None:
    """Figures over pixels and images and by type of defect, which localizers are not above every floor, and what thresholds do
    not promise."""
    from vaelens.scoring.localization_report import per_defect_table, table_of

    for table in (table_of(result), per_defect_table(result)):
        if table is not None:
            print_table(table.title, list(table.columns), [[_figure(cell) for cell in row] for row in table.rows])
    for name, floors in result.below_floors().items():
        print(f"{name} is not above {' and '.join(floors)} in both AUROC and AP: it has not localized anything")
    _print_cautions(run)


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


def print_disentanglement(result: Disentanglement) -> None:
    """The metrics of disentanglement with their spread, and what each latent knows most of."""
    from vaelens.scoring.disentanglement_report import latents_table, overlap_of, parts_of, table_of

    for table in (table_of(result), latents_table(result)):
        print_table(table.title, list(table.columns), [[_figure(cell) for cell in row] for row in table.rows])
    active = f"{int(result.active.sum())} of {len(result.kl)} latents active"
    print(f"reconstruction {result.reconstruction:.1f} nats per image; {active}")
    print(f"KL divergence {float(result.kl.sum()):.1f} nats per image: {parts_of(result)}")
    print(f"attention maps overlap by {overlap_of(result)}")


def print_faithfulness(result: Faithfulness) -> None:
    """On what maps were judged, every table, and what is to be said of each method in words."""
    from vaelens.scoring.faithfulness_wording import drawn, tables_of, verdicts

    print(drawn(result))
    for table in tables_of(result):
        print_table(table.title, list(table.columns), [[_figure(cell) for cell in row] for row in table.rows])
    for line in (*verdicts(result), *result.notes):
        print(line)


def _print_cautions(run: Run) -> None:
    if run.config.of_factors:
        return
    for caution in filter(None, (run.caution, run.too_few())):
        print(caution)


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
