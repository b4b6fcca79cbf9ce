"""What was measured of runs of dSprites, kept as each is measured, and rows of it over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError
from vaelens.paper.asked import Asked
from vaelens.paper.kept import keep, kept
from vaelens.paper.sprite_runs import (
    OBJECTIVES,
    given_sprite_runs,
    label_of,
    seeds_of,
    sprite_recipes,
    sprite_runs,
    told_apart,
)
from vaelens.runs import Run
from vaelens.runs.recipes import PACED, recipe_of
from vaelens.scoring.disentanglement import evaluate_disentanglement
from vaelens.training.settings import GAMMA, steps_of

REPEATS = 3
FIGURES = (
    "factor_vae_score",
    "factor_vae_score_infogan_cr",
    "beta_vae_score",
    "mig",
    "modularity",
    "sap",
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
    "reconstruction",
    "total_correlation",
    "attention_overlap",
    "attention_overlap_of_drawn",
    "empty_maps",
    "active_latents",
)
_MAY_LACK = ("attention_overlap_of_drawn",)  # where every map is empty
_KEY = "disentanglement"


@dataclass(frozen=True)
class SpriteFigures:
    """What was measured of one run.

    Attributes:
        label: of its objective and weights, and of what else tells it from runs beside it.
        objective: of the run.
        seed: of the run.
        steps: that it was trained for.
        paced: whether by that recipe.
        settings: how the run was made.
        values: each of FIGURES, metrics that draw at random in the mean over 3 repeats.
        spread: of those, the sample standard deviation over the repeats; None where nothing is drawn.
    """

    label: str
    objective: str
    seed: int
    steps: int
    paced: bool
    settings: Mapping[str, Any]
    values: Mapping[str, float | None]
    spread: Mapping[str, float | None]


def measured_sprites(run: Run, out: Path, asked: Asked) -> SpriteFigures:
    """The figures of a run: those that OUT/results has of these very weights and data, else measured now and kept there.

    Raises:
        DataError: files of the data set that are missing or damaged.
    """
    path, of, found = kept(run, out, asked.root, _KEY)
    if not _is_whole(found):
        asked.tell(f"{run.path.name}: encoding all images and measuring")
        result = evaluate_disentanglement(run, root=asked.root, repeats=REPEATS).to_dict()
        values = {**result["disentanglement"], **{name: result[name] for name in FIGURES if name in result}}
        found = {"values": values, "spread": result["spread"]}
        keep(path, of, _KEY, found)
    training = run.config.training
    return SpriteFigures(
        label=label_of(run),
        objective=run.config.objective,
        seed=run.config.dataset["seed"],
        steps=steps_of(training),
        paced=recipe_of(training) == PACED,
        settings=run.settings(),
        values=found["values"],
        spread=found["spread"],
    )


def _is_whole(found: Mapping[str, Any]) -> bool:
    """Whether kept figures are all there, and are numbers; what is damaged is measured again."""
    values, spread = found.get("values"), found.get("spread")
    if not (isinstance(values, dict) and isinstance(spread, dict) and set(values) == set(FIGURES)):
        return False
    there = [value for name, value in values.items() if name not in _MAY_LACK or value is not None]
    return all(isinstance(value, int | float) for value in (*there, *(each for each in spread.values() if each is not None)))


def all_measured(objectives: Sequence[str], out: Path, asked: Asked) -> list[SpriteFigures]:
    """The figures of the runs that a person gave, else of a run of each objective, weight and seed, as each is trained.

    Raises:
        UsageError: given runs of another data set, or two that differ in nothing.
        DataError: files of the data set that are missing or damaged.
    """
    given = given_sprite_runs(asked)
    _check_twins(given)
    runs = given or sprite_runs(sprite_recipes(objectives, seeds_of(asked), asked), out, asked)
    measured = [measured_sprites(run, out, asked) for run in runs]
    labels = told_apart([one.label for one in measured], [one.settings for one in measured])
    return [replace(one, label=label) for one, label in zip(measured, labels, strict=True)]


def _check_twins(runs: Sequence[Run]) -> None:
    labels = told_apart([label_of(run) for run in runs], [run.settings() for run in runs])
    seen = set()
    for run, label in zip(runs, labels, strict=True):
        seed = run.config.dataset["seed"]
        if (label, seed) in seen:
            raise UsageError(f"two runs are {label} with seed {seed}; give one of them")
        seen.add((label, seed))


def steps_named(measured: Sequence[SpriteFigures]) -> str:
    """The numbers of steps that runs were trained for: `15,000 and 300,000 steps`."""
    return f"{' and '.join(f'{n:,}' for n in sorted({one.steps for one in measured}))} steps"


@dataclass(frozen=True)
class SpriteRow:
    """Runs that differ by their seeds alone.

    Attributes:
        label: of their objective and weights.
        objective: of the runs.
        runs: in order of their seeds.
        paper: what the paper reports as FactorVAE score; None where nothing is known.
        others: what others who made it anew report; None likewise.
    """

    label: str
    objective: str
    runs: tuple[SpriteFigures, ...]
    paper: float | None = None
    others: float | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(run.seed for run in self.runs)

    def values(self, figure: str) -> tuple[float, ...]:
        """One of FIGURES, a value for each seed that defines it."""
        return tuple(value for run in self.runs if (value := run.values[figure]) is not None)

    def mean(self, figure: str) -> float | None:
        """Over seeds; None where none defines the figure."""
        values = self.values(figure)
        return statistics.fmean(values) if values else None

    def spread(self, figure: str) -> float | None:
        """Sample standard deviation over seeds; None for one."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        figures: dict[str, Any] = {}
        for name in FIGURES:
            figures |= {name: self.mean(name), f"{name}_spread": self.spread(name), f"{name}_seeds": list(self.values(name))}
        return {
            "label": self.label,
            "objective": self.objective,
            "seeds": list(self.seeds),
            "steps": [run.steps for run in self.runs],
            **figures,
            "paper_factor_vae_score": self.paper,
            "others_factor_vae_score": self.others,
        }


def sprite_rows(measured: Iterable[SpriteFigures], paper: Mapping[str, float], others: Mapping[str, float]) -> list[SpriteRow]:
    """A row for each label, objectives in the order vae, beta, factor, ad-beta, ad-factor.

    Args:
        measured: of any number of runs.
        paper: what the paper reports for a gamma of 40, by objective.
        others: what others report for that, by objective.
    """
    by_label: dict[str, list[SpriteFigures]] = {}
    for one in measured:
        by_label.setdefault(one.label, []).append(one)
    rows = [_row(label, runs, paper, others) for label, runs in by_label.items()]
    return sorted(rows, key=lambda row: OBJECTIVES.index(row.objective))


def _row(label: str, runs: Sequence[SpriteFigures], paper: Mapping[str, float], others: Mapping[str, float]) -> SpriteRow:
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    objective = runs[0].objective
    training = runs[0].settings["training"]
    if (training.get("gamma"), training["kl_weight"]) != (GAMMA, 1):  # what is reported is of those
        return SpriteRow(label, objective, ordered)
    return SpriteRow(label, objective, ordered, paper.get(objective), others.get(objective))
