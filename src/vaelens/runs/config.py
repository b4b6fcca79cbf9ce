"""What a run was made from: the `config.yaml` of its folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from vaelens._version import __version__
from vaelens.data import ANOMALY_DATASETS, DATASETS, FACTOR_DATASETS
from vaelens.data.files import shown
from vaelens.data.preparation import Preparation
from vaelens.errors import RunError, brief
from vaelens.models import NETWORKS
from vaelens.output import write_text
from vaelens.training.settings import TrainSettings

FORMAT = 2
CONFIG = "config.yaml"
OBJECTIVES = ("vae", "beta", "factor", "ad-beta", "ad-factor", "ae", "ae-ssim", "anogan")
MOST_LATENTS = 4096
_MOST_BYTES = 1 << 16
# Settings that runs of this format may lack, for they are younger; each has a default that changes nothing.
_YOUNGER = (
    *("steps_per_epoch", "rate_warmup_epochs", "rate_cooldown_epochs", "kl_start", "gamma", "discriminator_learning_rate"),
    *("standardize_after", "pooled_until", "gather_after", "turn_after", "wake_after"),
    *("ad_weight", "ad_pairs", "ad_rectifier", "ad_layer"),
)


@dataclass(frozen=True)
class RunConfig:
    """What `config.yaml` holds.

    Attributes:
        dataset: name, root (None where embedded or in the cache), normal (None but for data sets of classes), category,
            held_out (None where the factors of images are known), seed, preparation (how files become images; None but for
            data sets for anomaly localization).
        network: name, input_shape, latent_dim.
        training: the training settings (see `vaelens.training.TrainSettings`).
        explain: layer (None for the last feature map), fixed_camera (whether a place shows the same thing in every image) and,
            where one was chosen, localizer (which scores where none is named).
        objective: one of `OBJECTIVES`.
        vaelens: the version that wrote it.
        format: of the run folder.
    """

    dataset: Mapping[str, Any]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    explain: Mapping[str, Any] = field(default_factory=lambda: {"layer": None, "fixed_camera": False})
    objective: str = "vae"
    vaelens: str = __version__
    format: int = FORMAT

    @property
    def of_classes(self) -> bool:
        """Whether the data set has classes, one of which is normal; else it has normal images, and defects in others."""
        return self.dataset["name"] in DATASETS

    @property
    def of_factors(self) -> bool:
        """Whether the factors of the data set's images are known: then none of them is normal, or held out."""
        return self.dataset["name"] in FACTOR_DATASETS

    def save(self, folder: Path) -> None:
        """Write `config.yaml` into the folder."""
        write_text(folder / CONFIG, yaml.safe_dump(_plain(asdict(self)), sort_keys=False), durable=True)

    @classmethod
    def load(cls, folder: Path) -> RunConfig:
        """Read and check `config.yaml`.

        Raises:
            RunError: it is missing, no YAML, from another version, lacks something, or holds what it cannot.
        """
        path = folder / CONFIG
        values = cls.read(folder)
        if values["format"] != FORMAT or isinstance(values["format"], bool):
            by = f"format {brief(values['format'])} (vaelens {brief(values.get('vaelens'))})"
            raise RunError(
                f"{shown(path)} has {by}, this is vaelens {__version__} with format {FORMAT}; "
                "use that version, or train the run again"
            )
        missing = [one.name for one in fields(cls) if one.name not in values]
        if missing:
            raise RunError(f"{shown(path)} is damaged: it lacks {', '.join(missing)}; train the run again")
        try:
            config = cls(**values)
            config._check()
        except (TypeError, KeyError, ValueError) as error:  # UsageError is a ValueError
            what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
            raise RunError(f"{shown(path)} is damaged: {what}; train the run again") from error
        return config

    @staticmethod
    def read(folder: Path) -> dict[str, Any]:
        """The values of `config.yaml`, of whatever format, unchecked.

        Raises:
            RunError: it is missing, no YAML, or not the configuration of a run.
        """
        path = folder / CONFIG
        try:
            if not folder.exists():
                raise RunError(f"there is no run at {shown(folder)}; make one with: {train_command('DATASET', folder)}")
            if not path.is_file():
                raise RunError(f"{shown(folder)} is no run: it has no {CONFIG}; make one with: vaelens train DATASET --out RUN")
            values = _parse(path)
        except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
            raise RunError(f"{shown(path)} cannot be read ({first_line(error)}); train the run again") from error
        if not isinstance(values, dict) or "format" not in values:
            raise RunError(f"{shown(path)} is not the configuration of a run: it names no format; train the run again")
        return values

    def _check(self) -> None:
        """Raise TypeError, KeyError or ValueError for what no run has."""
        data, network = self.dataset, self.network
        of_images = data["name"] in ANOMALY_DATASETS
        if not (self.of_classes or self.of_factors or of_images):
            raise ValueError(f"dataset.name is {brief(data['name'])}")
        for name, allowed in (
            ("name", str),
            ("root", str | None),
            ("normal", int if self.of_classes else type(None)),
            ("category", str | None),
            ("held_out", type(None) if self.of_factors else float),
            ("seed", int),
            ("preparation", dict if of_images else type(None)),
        ):
            _check_type(f"dataset.{name}", data[name], allowed)
        _check_type("network.name", network["name"], str)
        _check_type("network.latent_dim", network["latent_dim"], int)
        _check_type("network.input_shape", network["input_shape"], list)
        for size in network["input_shape"]:
            _check_type("network.input_shape", size, int)
        _check_type("explain.layer", self.explain["layer"], str | None)
        _check_type("explain.localizer", self.explain.get("localizer"), str | None)
        if not isinstance(self.explain["fixed_camera"], bool):
            raise TypeError(f"explain.fixed_camera is {brief(self.explain['fixed_camera'])}")
        _check_type("objective", self.objective, str)
        _check_type("vaelens", self.vaelens, str)
        if of_images and list(Preparation.from_dict(data["preparation"]).image_shape) != network["input_shape"]:
            raise ValueError(f"dataset.preparation is {brief(data['preparation'])}, which does not fit network.input_shape")
        if network["name"] not in NETWORKS:
            raise ValueError(f"network.name is {brief(network['name'])}")
        if not self.of_factors and not 0 < data["held_out"] < 1:
            raise ValueError(f"dataset.held_out is {data['held_out']!r}")
        if not 1 <= network["latent_dim"] <= MOST_LATENTS or len(network["input_shape"]) != 3:
            raise ValueError(f"network is {brief(dict(network))}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {brief(self.objective)}")
        for name in TrainSettings.from_dict(self.training).to_dict():
            if name not in _YOUNGER:
                self.training[name]


def train_command(dataset: str, folder: Path, *options: str) -> str:
    """A line that a person can paste into a shell (unless the folder's name holds what cannot be printed)."""
    text = str(folder)
    return " ".join(["vaelens train", dataset, "--out", shlex.quote(text) if text.isprintable() else shown(text), *options])


def first_line(error: BaseException) -> str:
    """The gist of an error of a library, for a message of one line."""
    lines = str(error).strip().splitlines() or [""]
    return " ".join(lines[0].split())[:200] or type(error).__name__


def _parse(path: Path) -> Any:
    """What a YAML file holds, without the aliases by which a few lines can stand for more than fits into memory.

    Raises:
        ValueError: it has aliases, or is too long for a configuration.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES:,} bytes")
    text = content.decode("utf-8")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("it has aliases")
    return yaml.safe_load(text)


def _check_type(name: str, value: object, allowed: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise TypeError(f"{name} is {brief(value)}")


def _plain(value: Any) -> Any:
    """Mappings, tuples and paths as what YAML has."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
