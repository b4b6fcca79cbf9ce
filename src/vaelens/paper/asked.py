"""What a person asks of a figure or table, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError, unknown, whole
from vaelens.runs.recipes import RECIPES

PRESETS = ("paper", "small")
VIDEOS = ("ucsd-ped1", "ucsd-ped2")
SEEDS = (0, 1, 2)
_SWEPT = ("gammas", "betas", "ad_weights", "ad_pairs", "ad_rectifiers", "layers", "recipes")
# Where an option is not called as the argument is.
_OPTION = {
    "categories": "--category",
    "gammas": "--gamma",
    "betas": "--beta",
    "ad_weights": "--ad-weight",
    "ad_pairs": "--ad-pairs",
    "ad_rectifiers": "--ad-rectifier",
    "layers": "--layer",
    "recipes": "--recipe",
}


@dataclass(frozen=True)
class Asked:
    """The options of `reproduce`; None, or nothing, for what was not asked for.

    Attributes:
        root: folder of the data set's files.
        runs: folders of trained runs to use.
        epochs: of training.
        seed: of the one run of each kind that a figure takes.
        seeds: of the runs that a table takes the mean of.
        dataset: one of `VIDEOS`.
        categories: of MVTec AD.
        steps: of training, of runs of dSprites.
        gammas: weights of the total correlation, a run for each.
        betas: weights of the KL divergence, a run for each.
        ad_weights: weights of the attention disentanglement loss, a run for each.
        ad_pairs: which pairs of latents that loss compares, a run for each.
        ad_rectifiers: what makes a signed map a map there, a run for each.
        layers: whose maps that loss compares, a run for each.
        recipes: of `RECIPES`, how FactorVAE is trained with and without that loss, a run for each.
        preset: "paper" for the paper's networks and settings, "small" for a compact network.
        overwrite: train anew where there are runs with other settings.
        progress: show the progress of training.
        notice: called with lines for people.

    Raises:
        UsageError: a value that cannot be, or one that is there twice.
    """

    root: Path | None = None
    runs: tuple[Path, ...] = ()
    epochs: int | None = None
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    dataset: str | None = None
    categories: tuple[str, ...] = ()
    steps: int | None = None
    gammas: tuple[float, ...] = ()
    betas: tuple[float, ...] = ()
    ad_weights: tuple[float, ...] = ()
    ad_pairs: tuple[str, ...] = ()
    ad_rectifiers: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    preset: str | None = None
    overwrite: bool = False
    progress: bool = True
    notice: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        for recipe in self.recipes:
            if recipe not in RECIPES:
                raise unknown("recipe", recipe, RECIPES)
        if self.dataset is not None and self.dataset not in VIDEOS:
            raise unknown("data set of this table or figure", self.dataset, VIDEOS)
        if self.categories:
            from vaelens.data.mvtec import CATEGORIES

            for category in self.categories:
                if category not in CATEGORIES:
                    raise unknown("category of MVTec AD", category, CATEGORIES)
        for seed in self.seeds or ():
            whole("a seed", seed, least=0)
        if self.seeds is not None and not self.seeds:
            raise UsageError("a table takes at least one seed, such as --seeds 0,1,2")
        _check_once("seed", self.seeds or ())
        _check_once("category", self.categories)
        _check_once("run", self.runs)
        for name in _SWEPT:
            _check_once(_OPTION[name].removeprefix("--"), getattr(self, name))

    def check_takes(self, what: str, takes: Sequence[str]) -> None:
        """Refuse an option that this figure or table has no use for.

        Args:
            what: its name.
            takes: the options that it takes beside those that all take.
        """
        for name in ("seed", "seeds", "dataset", "categories", "preset", "steps", *_SWEPT):
            if name not in takes and getattr(self, name) not in (None, ()):
                raise UsageError(f"{what} takes no {_OPTION.get(name, f'--{name}')}; leave it out")
        if "steps" in takes and self.epochs is not None:
            raise UsageError(f"{what} takes no --epochs: give --steps")
        for name in ("seeds", "preset", "steps", *_SWEPT):
            if self.runs and getattr(self, name) not in (None, ()):
                raise UsageError(f"{_OPTION.get(name, f'--{name}')} is for runs to be trained; with --run leave it out")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of a table's runs."""
        return SEEDS if self.seeds is None else self.seeds

    @property
    def one_seed(self) -> int:
        """The seed of a figure's runs."""
        return self.seed or 0

    @property
    def preset_used(self) -> str:
        """The preset, the paper's where none was asked for."""
        return self.preset or PRESETS[0]

    def tell(self, line: str) -> None:
        """Pass one line on to the person."""
        if self.notice is not None:
            self.notice(line)


def _check_once(what: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{what} {value} is given twice; name each once")
