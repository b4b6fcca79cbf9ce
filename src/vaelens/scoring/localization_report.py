"""An evaluation of anomaly localization as a report: the table, and the test images with maps and outlines, worst first."""

from __future__ import annotations

from pathlib import Path

import torch

from vaelens.data.images import to_float
from vaelens.localizers import FLOORS
from vaelens.output import result_folder, write_json
from vaelens.report.content import Report, ReportImage, Table
from vaelens.report.html import write_report
from vaelens.runs import FALSE_ALARMS, Run
from vaelens.runs.data import load_defects
from vaelens.runs.folder import report_of
from vaelens.scoring.gallery import cards
from vaelens.scoring.localization import LocalizationEvaluation
from vaelens.scoring.synthetic import synthetic_test

SHOWN = 120  # test images in the gallery, those of highest score
_COLUMNS = ("localizer", "AUROC", "AP", "best IoU (oracle)", "IoU at 5 %", "AUPRO", "image AUROC", "false alarms", "detected")


def write_localization(run: Run, evaluation: LocalizationEvaluation, root: Path | None = None) -> Path:
    """Write `evaluation.json` and `report.html` into the run's folder `report`, or `report-synthetic`.

    Args:
        run: that was evaluated.
        evaluation: what came out.
        root: folder of the data set, where it has moved.

    Returns:
        The report's path.
    """
    report = localization_report(run, evaluation, root)
    out = report_of(run.path, evaluation.synthetic)
    with result_folder(out, "evaluate", overwrite=True, inside_ours=True) as folder:
        write_json(folder / "evaluation.json", evaluation.to_dict())
        write_report(report, folder / "report.html")
    return out / "report.html"


def table_of(evaluation: LocalizationEvaluation) -> Table:
    """One row for each localizer, figures over pixels and over images."""
    rows = []
    for name, one in evaluation.localizers.items():
        f = one.figures
        figures = (f.auroc, f.average_precision, f.best_iou, f.calibrated_iou, f.aupro, f.image_auroc)
        rows.append((name, *figures, one.false_alarms, one.detected))
    return Table(f"{evaluation.dataset}: AUROC, AP, IoU and AUPRO over pixels", _COLUMNS, tuple(rows))


def per_defect_table(evaluation: LocalizationEvaluation) -> Table | None:
    """AUROC and AP over pixels for each type of defect against the normal images; None where there is one type."""
    defects = sorted({name for one in evaluation.localizers.values() for name in one.figures.per_defect})
    if len(defects) < 2:
        return None
    rows = []
    for name, one in evaluation.localizers.items():
        found = [one.figures.per_defect.get(defect) for defect in defects]
        cells = [(f.auroc, f.average_precision) if f else (None, None) for f in found]
        means = (one.figures.mean_over_defects("auroc"), one.figures.mean_over_defects("average_precision"))
        rows.append((name, *(_pair(*cell) for cell in (*cells, means))))
    return Table("By type of defect: AUROC / AP over pixels", ("localizer", *defects, "mean"), tuple(rows))


def localization_report(run: Run, evaluation: LocalizationEvaluation, root: Path | None = None) -> Report:
    """The report of an evaluation, with a gallery of the test images of highest score."""
    n = evaluation.counts
    name = run.main_localizer if run.main_localizer in evaluation.localizers else next(iter(evaluation.localizers))
    tables = [table_of(evaluation)]
    if (by_defect := per_defect_table(evaluation)) is not None:
        tables.append(by_defect)
    summary = [
        ("trained on", f"{n['train']} normal images"),
        ("calibrated on", f"{n['calibration']} held-out normal images"),
        ("tested on", f"{n['test']} images, {n['test_normal']} of them normal"),
        ("localizer shown", name),
    ]
    if evaluation.latents:
        summary.append(("active latents", f"{evaluation.active} of {evaluation.latents}"))
    return Report(
        title=f"{evaluation.dataset}: where is it not normal?",
        lead=_lead(evaluation, name),
        summary=tuple(summary),
        settings=run.settings(),
        tables=tuple(tables),
        figures=(),
        images=tuple(_gallery(run, evaluation, name, root)),
        map_limit=None,
        notes=(
            f"Flagged regions are the pixels above what {FALSE_ALARMS:.0%} of normal images have anywhere, by held-out normal "
            "images alone. The best IoU takes its threshold from the test images themselves: an oracle figure.",
            *filter(None, [run.caution, run.too_few()]),
            *_below(evaluation),
        ),
    )


def _below(evaluation: LocalizationEvaluation) -> list[str]:
    return [
        f"{name} is not above {' and '.join(floors)} in both AUROC and AP: it has not localized anything."
        for name, floors in evaluation.below_floors().items()
    ]


def _lead(evaluation: LocalizationEvaluation, name: str) -> str:
    shown = {n: one.figures for n, one in evaluation.localizers.items() if one.figures.auroc is not None}
    if not shown:
        return "There are no masks to measure localization by; the table has what can be said of whole images."
    main = name if name in shown else next(iter(shown))
    figures = shown[main]
    text = (
        f"By {main}, abnormal pixels score above normal ones with an AUROC of {figures.auroc:.3f} and an average precision of "
    )
    text += f"{figures.average_precision:.3f}"
    floors = [(shown[f].average_precision, f) for f in FLOORS if f in shown]
    if floors:
        best = max(floors, key=lambda pair: pair[0] or 0)
        text += f"; the best floor, which learns nothing, reaches {shown[best[1]].auroc:.3f} and {best[0]:.3f} ({best[1]})"
    return text + "."


def _gallery(run: Run, evaluation: LocalizationEvaluation, name: str, root: Path | None) -> list[ReportImage]:
    if evaluation.synthetic:
        test, truth = synthetic_test(run, evaluation.counts["test"], evaluation.seed)
        labels = ["synthetic" if label else "good" for label in (test.labels if test.labels is not None else [])]
    else:
        split = load_defects(run.config, root)
        assert split.test is not None
        test, labels = split.test, list(split.defects)
        truth = split.masks if split.masks is not None else torch.zeros(len(test), *test.image_shape[1:], dtype=torch.bool)
    chosen = evaluation.localizers[name].scores.argsort(descending=True, stable=True)[:SHOWN].tolist()
    gallery: list[ReportImage] = []
    for start in range(0, len(chosen), 32):
        at = chosen[start : start + 32]
        images = test.images[at]
        floats = to_float(images)
        verdict = run.localize(floats, name)
        explanation = run.explain(floats) if run.has_posterior else None
        names = [test.names[i] for i in at]
        gallery += cards(run, names, images, verdict, explanation, [labels[i] for i in at], truth[at])
    return gallery


def _pair(auroc: float | None, precision: float | None) -> str:
    return "-" if auroc is None or precision is None else f"{auroc:.3f} / {precision:.3f}"
