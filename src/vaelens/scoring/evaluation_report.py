"""An evaluation as a report: the table, a chart, and a gallery of test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from vaelens.data.images import ImageSet, to_float
from vaelens.output import result_folder, write_json
from vaelens.report.charts import auroc_bars, score_histogram
from vaelens.report.content import Figure, Report, ReportImage, Table
from vaelens.report.html import write_report
from vaelens.report.sheet import to_png
from vaelens.runs import FALSE_ALARMS, Run
from vaelens.runs.data import load_classes
from vaelens.runs.folder import report_of
from vaelens.scoring.evaluate import Evaluation
from vaelens.scoring.gallery import cards

PER_CLASS = 12  # test images of each class in the gallery


def write_evaluation(run: Run, evaluation: Evaluation, root: Path | None = None, figures: Sequence[Figure] = ()) -> Path:
    """Write `report/evaluation.json` and `report/report.html` into the run's folder.

    Args:
        run: that was evaluated.
        evaluation: what came out.
        root: folder of the data set, where it has moved.
        figures: more pictures for the report.

    Returns:
        The report's path.
    """
    report = evaluation_report(run, evaluation, root, figures)
    out = report_of(run.path)
    with result_folder(out, "evaluate", overwrite=True, inside_ours=True) as folder:
        write_json(folder / "evaluation.json", evaluation.to_dict())
        write_report(report, folder / "report.html")
    return out / "report.html"


def evaluation_report(run: Run, evaluation: Evaluation, root: Path | None = None, figures: Sequence[Figure] = ()) -> Report:
    """The report of an evaluation, with a gallery of the first twelve test images of each class."""
    split = load_classes(run.config, root)
    chosen = _first_of_each(split.test)
    images = to_float(chosen.images)
    verdict = run.localize(images)
    labels = [] if chosen.labels is None else [str(label) for label in chosen.labels.tolist()]
    gallery: list[ReportImage] = cards(run, chosen.names, chosen.images, verdict, run.explain(images), labels)
    table = _table(evaluation)
    normal = split.normal
    return Report(
        title=f"{split.dataset}: is it a {normal}, and where is it not?",
        lead=_lead(run, evaluation, split.dataset, normal),
        summary=(
            ("trained on", f"{evaluation.counts['train']} images of class {normal}"),
            ("calibrated on", f"{evaluation.counts['calibration']} held-out images of it"),
            ("tested on", f"{evaluation.counts['test']} images of all classes"),
            ("active latents", f"{evaluation.active} of {evaluation.latents}"),
            ("layer", f"{run.attention.layer} ({run.attention.method.replace('_', ' ')})"),
        ),
        settings=run.settings(),
        tables=(table,),
        figures=(*_charts(run, evaluation, split.test, normal), *figures),
        images=tuple(gallery),
        map_limit=None,
        notes=(
            f"False alarms and detections are the shares of normal and of other test images whose p-value is at most "
            f"{FALSE_ALARMS:.0%}; the p-values come from held-out normal images alone.",
            "No setting was chosen on test images.",
        ),
    )


def _lead(run: Run, evaluation: Evaluation, dataset: str, normal: int) -> str:
    aurocs = {name: result.mean for name, result in evaluation.scores.items()}
    main = run.main_localizer if run.main_localizer in aurocs else next(iter(aurocs))
    others = ", ".join(f"{name} {value:.4f}" for name, value in aurocs.items() if name != main)
    return (
        f"A variational autoencoder that has seen class {normal} of {dataset} alone tells it from the other classes with an "
        f"image-level AUROC of {aurocs[main]:.4f} in the mean by {main}" + (f" (other scores: {others})." if others else ".")
    )


def _first_of_each(test: ImageSet) -> ImageSet:
    assert test.labels is not None
    first = [(test.labels == label).nonzero().flatten()[:PER_CLASS] for label in test.classes]
    return test.subset(torch.cat(first))


def _table(evaluation: Evaluation) -> Table:
    classes = sorted({label for result in evaluation.scores.values() for label in result.per_class})
    rows = tuple(
        (name, *(result.per_class[label] for label in classes), result.mean, result.false_alarms, result.detected)
        for name, result in evaluation.scores.items()
    )
    columns = ("score", *(str(label) for label in classes), "mean", "false alarms", "detected")
    return Table("Image-level AUROC against each other class", columns, rows)


def _charts(run: Run, evaluation: Evaluation, test: ImageSet, normal: int) -> list[Figure]:
    bars = {name: {str(k): v for k, v in result.per_class.items()} for name, result in evaluation.scores.items()}
    charts = [Figure("AUROC by class", "Each score against each class that is not normal.", to_png(auroc_bars(bars)))]
    main = run.main_localizer
    if main in evaluation.scores:
        values = evaluation.scores[main].values
        assert test.labels is not None
        is_normal = test.labels == normal
        groups = {f"class {normal}": values[is_normal].numpy(), "other classes": values[~is_normal].numpy()}
        threshold = run.calibration(main).score_threshold(FALSE_ALARMS)
        caption = f"Scores of the test images by {main}. The threshold comes from held-out normal images alone."
        line = threshold if math.isfinite(threshold) else None
        if line is None:
            caption = f"Scores of the test images by {main}. Too few normal images were held out for a threshold."
        charts.append(Figure("Scores", caption, to_png(score_histogram(groups, line))))
    return charts
