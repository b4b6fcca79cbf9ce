"""How far the maps of a run can be trusted, on its test images: every method against maps that know nothing of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vaelens.data.files import shown
from vaelens.errors import UsageError, whole
from vaelens.metrics.faithfulness import (
    Agreement,
    Randomization,
    SaliencyOverlap,
    agreement,
    randomization,
    saliency_overlap,
)
from vaelens.metrics.faithfulness.curves import STEPS
from vaelens.metrics.faithfulness.inputs import is_empty, values_of
from vaelens.runs import Run
from vaelens.scoring.explainers import METHODS, Opposite, methods_of
from vaelens.scoring.faithfulness_anomalies import JudgedAnomalies, check_localizers, judge_anomalies
from vaelens.scoring.faithfulness_curves import Judge, Judged, areas
from vaelens.scoring.faithfulness_sample import Sample, draw_latents, draw_sample, replacement_of

IMAGES = 50
LATENTS = 8
RANDOMIZED = 8  # images whose maps are taken anew for each layer that is randomized, and of so many latents:
RANDOMIZED_LATENTS = 4
_AT_ONCE = 128
_SAME = ("name", "category", "normal", "preparation")  # of the data of runs that are compared


@dataclass(frozen=True, eq=False)
class JudgedMethod:
    """One method's maps of the latents that were judged.

    Attributes:
        curves: deletion and insertion.
        empty: the share of maps that have one value everywhere and rank nothing; no curve counts them.
        overlap: between latents; None of a single one.
        randomized: what is left of the maps as layers are randomized.
        agreements: with each other run, by its path.
    """

    curves: dict[str, Judged]
    empty: float
    overlap: SaliencyOverlap | None
    randomized: Randomization
    agreements: dict[str, Agreement]

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {
            **{kind: judged.to_dict() for kind, judged in self.curves.items()},
            "empty_maps": self.empty,
            "overlap": None if self.overlap is None else self.overlap.to_dict(),
            "randomization": self.randomized.to_dict(),
            "agreement": {name: found.to_dict() for name, found in self.agreements.items()},
        }


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What was found of a run's maps.

    Attributes:
        dataset: such as "mnist, 1 normal" or "mvtec/screw".
        images: how many were drawn.
        drawn_from: of what.
        seed: of all that was drawn.
        replacement: "blur" or "neighbour".
        latents: those judged.
        active: how many are active.
        of: how many latents there are.
        layer: whose map eq. 2, its variants and the deviation are at.
        fractions: of pixels, behind each step of a curve.
        baselines: areas and curves of the maps that know nothing of the model, by name and kind.
        methods: by name.
        anomalies: what was found of anomaly maps; None where no image is normal.
        notes: what was left out, in sentences.
    """

    dataset: str
    images: int
    drawn_from: str
    seed: int
    replacement: str
    latents: list[int]
    active: int
    of: int
    layer: str
    fractions: list[float]
    baselines: dict[str, dict[str, dict[str, Any]]]
    methods: dict[str, JudgedMethod]
    anomalies: JudgedAnomalies | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --faithfulness --json` prints it."""
        return {
            "faithfulness": {
                "dataset": self.dataset,
                "images": self.images,
                "drawn_from": self.drawn_from,
                "seed": self.seed,
                "replacement": self.replacement,
                "layer": self.layer,
                "latents": self.latents,
                "active_latents": self.active,
                "latents_in_all": self.of,
                "fractions": self.fractions,
                "randomized_images": min(RANDOMIZED, self.images),
                "randomized_latents": self.latents[:RANDOMIZED_LATENTS],
                "baselines": self.baselines,
                "methods": {name: found.to_dict() for name, found in self.methods.items()},
                "anomaly_maps": None if self.anomalies is None else self.anomalies.to_dict(),
                "notes": self.notes,
            }
        }


def evaluate_faithfulness(
    run: Run,
    methods: Sequence[str] | None = None,
    images: int = IMAGES,
    replacement: str = "blur",
    against: Sequence[Run] = (),
    localizers: Sequence[str] | None = None,
    latents: int = LATENTS,
    steps: int = STEPS,
    seed: int = 0,
    root: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Judge the maps of a run's active latents, and its anomaly maps, on test images drawn by a seed.

    Args:
        run: whose model has a posterior.
        methods: of `scoring.explainers.METHODS`; None: all that the run and what is installed allow.
        images: how many are drawn.
        replacement: of pixels, "blur" or "neighbour".
        against: runs of the same data and network from other seeds, to see whether their maps agree.
        localizers: whose anomaly maps are judged, too; None: the main one, the deviation and the reconstruction.
        latents: how many active latents are judged at most, drawn by the seed where there are more.
        steps: of the curves.
        seed: of all that is drawn.
        root: folder of the data set, where it has moved.
        progress: called with parts of the work done and to be done.

    Raises:
        UsageError: a model without a posterior or without active latents, an unknown name, fewer than one image, or another
            run of other data, or whose images or maps have another size.
        DataError: the data set is not where it was.
    """
    layer = run.attention.layer  # refuses what has no latents
    names, notes = methods_of(run, None if methods is None else list(methods))
    spots = check_localizers(run, None if localizers is None else list(localizers))
    for other in against:
        _check_alike(run, other)
    chosen = draw_latents(run, whole("latents", latents), seed)
    sample = draw_sample(run, whole("images", images), root, seed)
    seen = sample.images.to(run.device)
    count = _Count(6 + len(names) * (4 + len(against)) + 8 * len(spots), progress)
    replaced = replacement_of(run, sample.images, replacement, root, seed).to(run.device)

    judge = Judge.prepare(run.model.encode, seen, replaced, chosen, steps, seed, count)
    found, overall = {}, {}
    for name in names:
        found[name], overall[name] = _judged(run, name, judge, sample, against, seed, count)
    anomalies = None
    if not run.config.of_factors:
        anomalies = judge_anomalies(run, spots, sample, overall, steps, seed, count)
    fractions = judge.baselines["deletion"]["random"].fractions.tolist()
    return Faithfulness(
        dataset=_called(run),
        images=len(seen),
        drawn_from=sample.drawn_from,
        seed=seed,
        replacement=replacement,
        latents=chosen,
        active=int(run.active.sum()),
        of=run.model.latent_dim,
        layer=layer,
        fractions=fractions,
        baselines=areas(judge.baselines),
        methods=found,
        anomalies=anomalies,
        notes=notes,
    )


def _judged(
    run: Run, name: str, judge: Judge, sample: Sample, against: Sequence[Run], seed: int, count: _Count
) -> tuple[JudgedMethod, Tensor | None]:
    """A method, and its maps in the mean over latents of the images that have masks."""
    make = METHODS[name].make(run, judge.latents)
    explain = make(run.model)
    maps = explain(judge.images)
    curves = judge.judge(maps, count)
    few = METHODS[name].make(run, judge.latents[:RANDOMIZED_LATENTS])
    randomized = randomization(run.model, judge.images[:RANDOMIZED], lambda model, images: few(model)(images), seed)
    count()
    agreements = {}
    for other in against:
        agreements[shown(other.path)] = _agreement(run, other, name, judge, sample, maps)
        count()
    overall = None if sample.masked is None else explain(sample.masked.to(run.device)).mean(1)
    count()
    empty = float(is_empty(maps).double().mean())
    overlap = saliency_overlap(maps) if len(judge.latents) > 1 else None
    return JudgedMethod(curves, empty, overlap, randomized, agreements), overall


def _agreement(run: Run, other: Run, name: str, judge: Judge, sample: Sample, maps: Tensor) -> Agreement:
    """With the latents of another run that are active; indices are those of the runs' latents."""
    theirs = other.active.nonzero().flatten().tolist()
    method = METHODS[name].make(other, theirs)
    images = sample.images.to(other.device)
    found = method(other.model)(images)
    lowering = method(Opposite(other.model))(images) if METHODS[name].signed else None
    codes = values_of(run.model.encode, sample.further.to(run.device), _AT_ONCE)[:, judge.latents]
    others = values_of(other.model.encode, sample.further.to(other.device), _AT_ONCE)[:, theirs]
    return agreement(codes, others, maps, found, lowering).named(judge.latents, theirs)


def _called(run: Run) -> str:
    """The data set, with what of it is normal or which of its objects it is."""
    data = run.config.dataset
    name = data["name"] if data["category"] is None else f"{data['name']}/{data['category']}"
    return str(name) if data["normal"] is None else f"{name}, {data['normal']} normal"


def _check_alike(run: Run, other: Run) -> None:
    """Refuse to compare with a run of other images or maps."""
    theirs = other.attention.plan.shape[1:]  # refuses what has no latents
    mine = run.attention.plan.shape[1:]
    if other.input_shape != run.input_shape or theirs != mine:
        raise UsageError(
            f"{shown(other.path)} takes images {other.input_shape} and has maps {tuple(theirs)}, {shown(run.path)} "
            f"{run.input_shape} and {tuple(mine)}; compare runs of the same data and network"
        )
    apart = [part for part in _SAME if other.config.dataset[part] != run.config.dataset[part]]
    if apart:
        raise UsageError(
            f"{shown(other.path)} is of other data than {shown(run.path)} ({', '.join(apart)}); compare runs of the same data "
            "and network"
        )
    if not bool(other.active.any()):
        raise UsageError(f"none of the latents of {shown(other.path)} is active, so there is nothing to agree with")


class _Count:
    """Parts of the work done, told as they are."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(min(self.done, self.total), self.total)
