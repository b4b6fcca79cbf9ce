"""What was found of a run's maps, as tables and sentences: the same on the terminal, in the report and in the docs."""

from __future__ import annotations

import math

from vaelens.metrics.faithfulness import BASELINES, PairedDifference
from vaelens.report.content import Table
from vaelens.scoring.explainers import METHODS
from vaelens.scoring.faithfulness import RANDOMIZED, RANDOMIZED_LATENTS, Faithfulness
from vaelens.scoring.faithfulness_curves import CHANCE, Judged

NAMES = {"random": "random", "centre": "the centre", "difference": "|image - replacement|"}
GAINS = "± is the 95 % interval over images; above 0 is better than that baseline, in shares of what replacing all pixels does."


def tables_of(found: Faithfulness) -> list[Table]:
    """Curves, what randomization and overlap come to, agreement with other runs, and anomaly maps."""
    tables = [curves_table(found, kind) for kind in ("deletion", "insertion")]
    tables.append(_maps_table(found))
    if (agreed := _agreement_table(found)) is not None:
        tables.append(agreed)
    if found.anomalies is not None:
        tables.append(_score_table(found))
        if found.anomalies.inside:
            tables.append(_inside_table(found))
    return tables


def curves_table(found: Faithfulness, kind: str) -> Table:
    """One row for each method, behind those of the maps that know nothing of the model."""
    better = "larger" if kind == "deletion" else "smaller"
    rows: list[tuple[object, ...]] = [
        (NAMES[name], _number(found.baselines[name][kind]["area"]), *("-",) * 4) for name in BASELINES
    ]
    rows += [(name, *_row(method.curves[kind])) for name, method in found.methods.items()]
    columns = ("maps", f"area ({better} is better)", *(f"above {NAMES[name]}" for name in BASELINES), "verdict")
    return Table(
        f"{kind.capitalize()} on z_i, {_count(found.images, 'image')}, {_count(len(found.latents), 'latent')}",
        columns,
        tuple(rows),
        GAINS,
    )


def _row(judged: Judged) -> tuple[object, ...]:
    gains = (interval(judged.gains[name]) for name in BASELINES)
    return (_number(float(judged.curve.share.nanmean())), *gains, judged.verdict)


def interval(gain: PairedDifference) -> str:
    """A gain with half the width of its interval."""
    if math.isnan(gain.mean):
        return "-"
    half = "" if math.isnan(gain.high) else f" ± {gain.high - gain.mean:.3f}"
    return f"{gain.mean:+.3f}{half}"


def _maps_table(found: Faithfulness) -> Table:
    rows = []
    for name, method in found.methods.items():
        random, overlap = method.randomized, method.overlap
        rows.append(
            (
                name,
                method.empty,
                *((overlap.pearson, overlap.spearman, overlap.cosine) if overlap else (None,) * 3),
                _number(random.spearman[0]),
                _number(random.spearman[-1]),
                _number(random.by_chance["spearman"]),
            )
        )
    columns = ("maps", "empty", "Pearson", "Spearman", "cosine", "last layer random", "all random", "other image")
    note = (
        "Pearson, Spearman and cosine between latents, lower where they look at different things. Then Spearman's correlation "
        f"with the original map (of {_count(min(RANDOMIZED, found.images), 'image')} and "
        f"{_count(min(RANDOMIZED_LATENTS, len(found.latents)), 'latent')}): with the weights of the last layer shuffled, of "
        "all layers, and, for comparison, of the same latent's map of another image."
    )
    return Table(
        "Maps: empty ones, overlap between latents, and what is left when weights are randomized", columns, tuple(rows), note
    )


def _agreement_table(found: Faithfulness) -> Table | None:
    rows = [
        (
            name,
            other,
            f"{len(one.pairs)} of {len(found.latents)}",
            _number(one.pearson),
            _number(one.spearman),
            _number(one.cosine),
            _number(one.by_chance["spearman"]),
        )
        for name, method in found.methods.items()
        for other, one in method.agreements.items()
    ]
    columns = ("maps", "against", "latents matched", "Pearson", "Spearman", "cosine", "Spearman by chance")
    note = "Latents whose codes correlate by 0.5 or more; by chance: with the map of a latent of another pair."
    return Table("Agreement between runs", columns, tuple(rows), note) if rows else None


def _score_table(found: Faithfulness) -> Table:
    assert found.anomalies is not None
    rows = [
        (name, kind, *_row(curves[kind]))
        for name, curves in found.anomalies.curves.items()
        for kind in ("deletion", "insertion")
    ]
    columns = ("anomaly maps of", "curve", "area", *(f"above {NAMES[name]}" for name in BASELINES), "verdict")
    note = f"Pixels are replaced by those of the nearest normal image, and the score is followed. {GAINS}"
    return Table(f"Deletion and insertion on the score, {_count(found.anomalies.scored, 'image')}", columns, tuple(rows), note)


def _inside_table(found: Faithfulness) -> Table:
    assert found.anomalies is not None
    chance = found.anomalies.chance
    rows: list[tuple[object, ...]] = [
        (NAMES[name], chance[name]["pointing"], "-", "-", chance[name]["energy"], "-", "-") for name in CHANCE
    ]
    for name, one in found.anomalies.inside.items():
        cells = []
        for figure, value in (("pointing", one.pointing), ("energy", one.energy)):
            cells += [value, *(interval(one.gains[figure][base]) for base in CHANCE)]
        rows.append((name, *cells))
    each = [f"above {NAMES[name]}" for name in CHANCE]
    columns = ("maps", "pointing game", *each, "energy inside", *each)
    note = "The share of images whose highest pixel lies in the mask, and the mean share of the map's sum that does."
    return Table(f"Inside the masks of {_count(found.anomalies.masked, 'image')}", columns, tuple(rows), note)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def drawn(found: Faithfulness) -> str:
    """On what it was measured."""
    which = (
        ("the one active latent" if found.active == 1 else f"all {found.active} active latents") + f" of {found.of}"
        if len(found.latents) == found.active
        else f"{len(found.latents)} of the {found.active} active latents of {found.of}, drawn by the same seed"
    )
    by = "the image blurred" if found.replacement == "blur" else "the nearest normal image"
    if found.replacement == "neighbour" and found.anomalies is None:
        by = "the nearest other image"
    return (
        f"{found.images} of {found.drawn_from}, drawn by seed {found.seed}; {which}; layer {found.layer}; pixels replaced by "
        f"{by} in {len(found.fractions) - 1} steps"
    )


def verdicts(found: Faithfulness) -> list[str]:
    """A sentence on the curves of each method, and on anomaly maps."""
    lines = [f"{name}: {_verdict(method.curves)}" + _emptiness(method.empty) for name, method in found.methods.items()]
    if found.anomalies is not None:
        lines += [f"anomaly maps of {name}: {_verdict(curves)}" for name, curves in found.anomalies.curves.items()]
        lines += [f"{name}: {_inside(found, name)}" for name in found.anomalies.inside]
    return lines


def _verdict(curves: dict[str, Judged]) -> str:
    deletion, insertion = (_of_curve(curves[kind]) for kind in ("deletion", "insertion"))
    what = (
        f"{deletion} in deletion and insertion"
        if deletion == insertion
        else f"{deletion} in deletion, {insertion} in insertion"
    )
    beaten = [curve.gains["difference"].verdict == "better" for curve in curves.values()]
    if any(curve.verdict == "better than chance" for curve in curves.values()) and not all(beaten):
        what += "; not better in both than |image - replacement|, which knows no model"
    return what


def _of_curve(judged: Judged) -> str:
    """The verdict, with what keeps it from being better where it is above random alone."""
    above_random = judged.gains["random"].verdict == "better" and judged.verdict == "no better than chance"
    return f"{judged.verdict} (above random, not above the centre)" if above_random else judged.verdict


def _inside(found: Faithfulness, name: str) -> str:
    assert found.anomalies is not None
    parts = []
    for figure, what in (("pointing", "points at the defect"), ("energy", "has its energy there")):
        gains = [found.anomalies.inside[name].gains[figure][base].verdict for base in CHANCE]
        better = "better" if gains == ["better", "better"] else "worse" if gains[0] == "worse" else "no better"
        parts.append(f"{what} {'too few images' if 'too few images' in gains else better + ' than chance'}")
    return ", ".join(parts)


def _emptiness(share: float) -> str:
    return f" ({share:.0%} of its maps are empty and left out)" if share else ""


def explained(found: Faithfulness) -> list[str]:
    """What each method is."""
    return [f"{name}: {METHODS[name].explains}." for name in found.methods]
