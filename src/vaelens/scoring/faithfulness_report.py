"""How far a run's maps can be trusted, as a report in the run's folder."""

from __future__ import annotations

from pathlib import Path

from vaelens.metrics.faithfulness import BASELINES
from vaelens.output import result_folder, write_json
from vaelens.report.content import Figure, Report
from vaelens.report.followed import followed_curves
from vaelens.report.html import write_report
from vaelens.report.sheet import to_png
from vaelens.runs import Run
from vaelens.runs.folder import faithfulness_report_of
from vaelens.scoring.faithfulness import Faithfulness
from vaelens.scoring.faithfulness_curves import KINDS
from vaelens.scoring.faithfulness_wording import NAMES, drawn, explained, tables_of, verdicts


def write_faithfulness(run: Run, found: Faithfulness) -> Path:
    """Write `faithfulness.json` and `report.html` into the run's folder `report-faithfulness`.

    Args:
        run: whose maps were judged.
        found: what came out.

    Returns:
        The report's path.
    """
    report = faithfulness_report(run, found)
    out = faithfulness_report_of(run.path)
    with result_folder(out, "evaluate", overwrite=True, inside_ours=True) as folder:
        write_json(folder / "faithfulness.json", found.to_dict())
        write_report(report, folder / "report.html")
    return out / "report.html"


def faithfulness_report(run: Run, found: Faithfulness) -> Report:
    """The report: the verdicts, the curves, and the tables."""
    charts = {
        kind.capitalize(): {NAMES[name]: found.baselines[name][kind]["curve"] for name in BASELINES}
        | {name: method.curves[kind].curve.mean.tolist() for name, method in found.methods.items()}
        for kind in KINDS
    }
    baselines = [NAMES[name] for name in BASELINES]
    figures = [
        Figure(
            "How far the latents go",
            "|z_i - z_i(original)| over each latent's mean distance under the replacement, in the mean over latents and "
            "images: as the most attended pixels are replaced (the higher the better), and as they are put back (the lower "
            "the better).",
            to_png(followed_curves(charts, found.fractions, baselines)),
        )
    ]
    if found.anomalies is not None:
        for name, curves in found.anomalies.curves.items():
            known = found.anomalies.baselines[name]
            lines = {
                kind.capitalize(): {NAMES[base]: known[base][kind]["curve"] for base in BASELINES}
                | {name: curves[kind].curve.mean.tolist()}
                for kind in KINDS
            }
            figures.append(
                Figure(
                    f"How far the score of {name} goes",
                    "As the most abnormal pixels are replaced by those of the nearest normal image, and as they are put back.",
                    to_png(followed_curves(lines, found.fractions, baselines)),
                )
            )
    return Report(
        title=f"{found.dataset}: how far can its maps be trusted?",
        lead=f"Measured on {drawn(found)}.",
        summary=tuple(
            (name, "; ".join(f"{kind}: {one.verdict}" for kind, one in method.curves.items()))
            for name, method in found.methods.items()
        ),
        settings=run.settings(),
        tables=tuple(tables_of(found)),
        figures=tuple(figures),
        images=(),
        map_limit=None,
        notes=(
            *(f"{line}." for line in verdicts(found)),
            *explained(found),
            *found.notes,
            "Better than chance means above random and centre-weighted maps, each by a 95 % interval over images that lies "
            "above 0; intervals are not corrected for how many there are, and frames of one clip make them too narrow.",
            "Blurred and mixed images are none that the model has seen: what it does there is part of what is measured.",
        ),
    )
