"""Figure 8: reconstruction error against the FactorVAE score, a point a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaelens.output import write_bytes, write_json, write_text
from vaelens.paper.asked import Asked
from vaelens.paper.reported import PAPER_FIGURE8
from vaelens.paper.result import Reproduced
from vaelens.paper.sprite_rows import SpriteFigures, all_measured, steps_named
from vaelens.paper.table3 import OBJECTIVES, to_csv
from vaelens.report.scatter import Points, scatter
from vaelens.report.sheet import to_png

_KINDS = {"vae": "VAE", "beta": "beta-VAE", "factor": "FactorVAE", "ad-beta": "AD-beta-VAE", "ad-factor": "AD-FactorVAE"}


def make(asked: Asked, out: Path) -> Reproduced:
    """Write OUT/figure8.png, .json and .csv: a point for each model of each seed and weight, next to the paper's.

    Raises:
        UsageError: given runs of another data set, or two of one label and seed.
    """
    measured = all_measured(OBJECTIVES, out, asked)
    files = tuple(out / f"figure8.{ending}" for ending in ("png", "json", "csv"))
    chart = scatter(kinds(measured), "reconstruction error, nats per image", "FactorVAE score")
    write_bytes(files[0], to_png(chart))
    points = [{"label": one.label, "seed": one.seed, "steps": one.steps, **one.values} for one in measured]
    write_json(files[1], {"name": "figure8", "points": points})
    write_text(files[2], to_csv(measured))
    text = (
        f"Figure 8: {len(measured)} models of {steps_named(measured)} by reconstruction error and "
        "FactorVAE score; hollow: the paper's, of 300,000 steps, as others read them off its figure."
    )
    return Reproduced("figure8", text, files, tuple(one.settings for one in measured))


def kinds(measured: Sequence[SpriteFigures]) -> list[Points]:
    """The models by objective and recipe, and the paper's of the same objectives."""
    pairs = {(one.objective, one.paced) for one in measured}
    there = [(name, paced) for name in _KINDS for paced in (False, True) if (name, paced) in pairs]
    ours = [
        Points(_KINDS[name] + (", paced" if paced else ""), _points(measured, name, paced), style)
        for style, (name, paced) in enumerate(there)
    ]
    style_of = {name: style for style, (name, _) in reversed(list(enumerate(there)))}
    papers = [
        Points(f"{_KINDS[name]}, the paper", [(error, score) for _, error, score in PAPER_FIGURE8[name]], style, hollow=True)
        for name, style in reversed(style_of.items())
        if name in PAPER_FIGURE8
    ]
    return [*ours, *papers]


def _points(measured: Sequence[SpriteFigures], objective: str, paced: bool) -> list[tuple[float, float]]:
    ours = [one.values for one in measured if (one.objective, one.paced) == (objective, paced)]
    return [(float(values["reconstruction"] or 0), float(values["factor_vae_score"] or 0)) for values in ours]
