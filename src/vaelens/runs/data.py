"""The data of a run: what its configuration says, loaded and split as it was for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vaelens.data import ANOMALY_DATASETS, DATASETS, FACTOR_DATASETS, load_anomaly, load_factors, load_one_class
from vaelens.data.anomaly import AnomalyOptions, AnomalySplit
from vaelens.data.factors import FactorSplit
from vaelens.data.one_class import OneClassSplit
from vaelens.data.preparation import Preparation
from vaelens.errors import UsageError
from vaelens.runs.config import RunConfig

if TYPE_CHECKING:
    from vaelens.data.download import Progress

Split: TypeAlias = OneClassSplit | AnomalySplit | FactorSplit


def load_split(
    config: RunConfig,
    root: Path | None = None,
    downloading: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Split:
    """The run's data, split as it was for training.

    Args:
        config: of the run.
        root: the folder of the data set's files, where it has moved.
        downloading: called during a download, see `data.download`.
        notice: called with lines for people, such as a licence or a damaged file that is left out.
    """
    data = config.dataset
    root = root or (None if data["root"] is None else Path(data["root"]))
    if data["name"] in FACTOR_DATASETS:
        return load_factors(data["name"], root, downloading)
    if data["name"] not in ANOMALY_DATASETS:
        return load_one_class(
            data["name"], data["normal"], root, held_out=data["held_out"], seed=data["seed"], progress=downloading
        )
    options = AnomalyOptions(
        root=root,
        category=data["category"],
        preparation=Preparation.from_dict(data["preparation"]),
        held_out=data["held_out"],
        seed=data["seed"],
        progress=downloading,
        notice=notice,
    )
    return load_anomaly(data["name"], options)


def load_classes(config: RunConfig, root: Path | None = None) -> OneClassSplit:
    """The data of a run of a data set of classes.

    Raises:
        UsageError: the run's data set has no classes.
    """
    split = load_split(config, root)
    if not isinstance(split, OneClassSplit):
        raise UsageError(f"{split.dataset} has no classes; this takes a run of {' or '.join(DATASETS)}")
    return split


def load_known_factors(config: RunConfig, root: Path | None = None) -> FactorSplit:
    """The data of a run of a data set with known factors.

    Raises:
        UsageError: the run's data set has none.
    """
    if not config.of_factors:
        raise UsageError(f"{config.dataset['name']} has no known factors; this takes a run of {' or '.join(FACTOR_DATASETS)}")
    split = load_split(config, root)
    assert isinstance(split, FactorSplit)
    return split


def load_defects(config: RunConfig, root: Path | None = None) -> AnomalySplit:
    """The data of a run of normal images and images with defects.

    Raises:
        UsageError: the run's data set has none.
    """
    split = load_split(config, root)
    if not isinstance(split, AnomalySplit):
        raise UsageError(f"{split.dataset} has no images with defects; this takes a run of {', '.join(ANOMALY_DATASETS)}")
    return split


def preparation_of(config: RunConfig) -> Preparation | None:
    """How an image file becomes what the run's network sees; None where files must be as they should."""
    values = config.dataset["preparation"]
    return None if values is None else Preparation.from_dict(values)
