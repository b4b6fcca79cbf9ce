"""The runs that figures and tables need, trained where they are not there yet; those that were stopped go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError
from vaelens.paper.asked import Asked
from vaelens.runs import Run
from vaelens.runs.config import CONFIG, RunConfig
from vaelens.runs.folder import METRICS
from vaelens.runs.new import configured
from vaelens.runs.train import check_layer, train_run

_OF_RUN = (
    *("normal", "category", "held_out", "size", "frames", "brightness", "fixed_camera"),
    *("network", "latent_dim", "layer", "localizer", "objective", "augmentation", "steps", "recipe"),
)


@dataclass(frozen=True)
class Recipe:
    """A run to be trained.

    Attributes:
        name: of its folder in OUT/runs, such as "ucsd-ped2-seed0".
        dataset: to train on.
        options: of `train_run`, training settings included; None for the default.
    """

    name: str
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def config(self, root: Path | None) -> RunConfig:
        """The configuration that the run gets.

        Raises:
            UsageError: an option that cannot be.
        """
        settings = {k: v for k, v in self.options.items() if k not in _OF_RUN and v is not None}
        return configured(self.dataset, root, {name: self.options.get(name) for name in _OF_RUN}, settings)

    def folder(self, out: Path) -> Path:
        """The run's folder."""
        return out / "runs" / self.name

    def done(self, out: Path, root: Path | None) -> bool:
        """Whether the run is there, as wanted and trained to its end."""
        return (self.folder(out) / METRICS).is_file() and _agrees(self.folder(out), self.config(root))


def check_agrees(recipe: Recipe, out: Path, asked: Asked) -> None:
    """Refuse settings that cannot be, and a run in OUT/runs that was trained otherwise, unless it may be overwritten.

    Raises:
        UsageError: names the setting or the folder.
    """
    folder, wanted = recipe.folder(out), recipe.config(asked.root)
    check_layer(wanted)
    if (folder / CONFIG).is_file() and not asked.overwrite and not _agrees(folder, wanted):
        raise UsageError(f"{folder} was trained with other settings; choose another --out, or pass --overwrite")


def trained(recipe: Recipe, out: Path, asked: Asked) -> Run:
    """The run in OUT/runs: loaded, gone on with, or trained.

    Raises:
        UsageError: see `check_agrees`.
        DataError, RunError, TrainingError, TrainingInterrupted: see `train_run`.
    """
    check_agrees(recipe, out, asked)
    folder = recipe.folder(out)
    resume = (folder / CONFIG).is_file() and _agrees(folder, recipe.config(asked.root))
    return train_run(
        folder,
        recipe.dataset,
        root=asked.root,
        resume=resume,
        overwrite=asked.overwrite and not resume,
        progress=asked.progress,
        notice=asked.notice,
        **({} if resume else recipe.options),
    )


def _agrees(folder: Path, wanted: RunConfig) -> bool:
    """Whether the run that is there has the wanted configuration, but for the data's place and the version."""
    return _plain(RunConfig.load(folder)) == _plain(wanted)


def _plain(config: RunConfig) -> tuple[Any, ...]:
    data = {name: value for name, value in config.dataset.items() if name != "root"}
    return data, dict(config.network), dict(config.training), dict(config.explain), config.objective
