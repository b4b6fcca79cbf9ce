"""An evaluation of disentanglement as a report: the metrics, what each latent knows of each factor, and its traversal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vaelens.output import result_folder, write_json
from vaelens.report.charts import share_table
from vaelens.report.content import Figure, Report, Table
from vaelens.report.html import write_report
from vaelens.report.sheet import to_png
from vaelens.report.wording import NOTHING
from vaelens.runs import Run
from vaelens.runs.folder import report_of
from vaelens.scoring.disentanglement import Disentanglement

TITLES = {
    "factor_vae_score": "FactorVAE score",
    "factor_vae_score_infogan_cr": "FactorVAE score, as InfoGAN-CR takes it",
    "beta_vae_score": "beta-VAE score",
    "mig": "MIG",
    "modularity": "modularity",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
}


def write_disentanglement(run: Run, result: Disentanglement) -> Path:
    """Write `evaluation.json` and `report.html` into the run's folder `report`.

    Args:
        run: that was evaluated.
        result: what came out.

    Returns:
        The report's path.
    """
    report = disentanglement_report(run, result)
    out = report_of(run.path)
    with result_folder(out, "evaluate", overwrite=True, inside_ours=True) as folder:
        write_json(folder / "evaluation.json", result.to_dict())
        write_report(report, folder / "report.html")
    return out / "report.html"


def table_of(result: Disentanglement) -> Table:
    """One row for each metric: mean and spread over its repeats."""
    rows = tuple((TITLES.get(name, name), one.mean, one.std, len(one.values)) for name, one in result.scores.items())
    return Table(f"Disentanglement, on {result.images:,} images", ("metric", "mean", "spread", "repeats"), rows)


def latents_table(result: Disentanglement) -> Table:
    """One row for each latent: what it carries, and of which factor it knows most."""
    rows = []
    for latent, (kl, information) in enumerate(zip(result.kl.tolist(), result.information, strict=True)):
        best = int(np.argmax(information))
        known = result.factor_names[best] if bool(result.active[latent]) else "-"
        rows.append((f"z{latent}", kl, known, float(information[best])))
    return Table("Latents", ("latent", "KL, nats", "knows most of", "mutual information, nats"), tuple(rows))


def overlap_of(result: Disentanglement) -> str:
    """How far attention maps overlap, with how many are empty: an empty one overlaps with nothing."""
    found = result.overlaps
    parts = [
        f"{value:.3f} {of}"
        for value, of in (
            (found.attention_overlap, "over all pairs"),
            (found.attention_overlap_of_drawn, "over pairs of maps that are not empty"),
        )
        if value is not None
    ]
    return ", ".join([*parts, f"{found.empty_maps:.0%} of maps are empty"])


def parts_of(result: Disentanglement) -> str:
    """What the KL divergence consists of."""
    parts = result.parts
    return (
        f"{parts.information:.1f} ± {parts.information_error:.1f} of information, of {np.log(result.images):.1f} there are, "
        f"{parts.total_correlation:.1f} ± {parts.total_correlation_error:.1f} of total correlation, and "
        f"{parts.marginal.sum():.1f} by which latents differ from the prior"
    )


def disentanglement_report(run: Run, result: Disentanglement) -> Report:
    """The report of an evaluation."""
    config = run.config
    entropy = np.log(np.array(result.factor_sizes, dtype=float))
    shares = result.information / entropy
    chart = share_table(
        shares, [f"z{i}" for i in range(len(shares))], list(result.factor_names), "share of the factor's entropy"
    )
    active, found = int(result.active.sum()), result.overlaps
    main = next(iter(result.scores.items()), None)
    scored = "" if main is None else f" Its {TITLES.get(main[0], main[0])} is {main[1].mean:.3f}."
    return Report(
        title=f"{config.dataset['name']}: is there one latent for each factor?",
        lead=f"A model of objective '{config.objective}', measured on all {result.images:,} images.{scored}",
        summary=(
            ("reconstruction", f"{result.reconstruction:.1f} ± {result.reconstruction_error:.1f} nats per image"),
            ("total correlation", f"{result.parts.total_correlation:.1f} ± {result.parts.total_correlation_error:.1f} nats"),
            ("active latents", f"{active} of {len(result.kl)}"),
            ("overlap of maps (eq. 5)", NOTHING if found.attention_overlap is None else f"{found.attention_overlap:.3f}"),
            ("maps that are empty", f"{found.empty_maps:.0%}"),
            ("layer", f"{run.attention.layer} ({run.attention.method.replace('_', ' ')})"),
        ),
        settings=run.settings(),
        tables=(table_of(result), latents_table(result)),
        figures=(
            Figure(
                "What each latent knows of each factor",
                "Mutual information as a share of the factor's entropy; a disentangled code has one large number in a column.",
                to_png(chart),
            ),
        ),
        images=(),
        map_limit=None,
        notes=(
            f"The KL divergence, {float(result.kl.sum()):.1f} nats per image, consists of {parts_of(result)}. These are taken "
            "from the posteriors of all images; what FactorVAE's discriminator estimates in training may be far below.",
            f"Overlap of attention maps: {overlap_of(result)}. An empty map overlaps with nothing.",
            "The spread is the sample standard deviation over a metric's own draws on the same codes; it says nothing of other "
            "seeds of training.",
            "Every image was trained on: dSprites has no test set, and these metrics measure the code, not generalization.",
        ),
    )
