"""Data sets. Listing their names imports no torch: the command line does that at its start.

    split = load_one_class("mnist", normal=1, root=Path("data/mnist"))
    split.train, split.calibration, split.test      # ImageSets

    data = load_anomaly("mvtec", AnomalyOptions(root=Path("mvtec_ad"), category="screw"))
    data.train, data.calibration, data.test, data.masks

    sprites = load_factors("dsprites").train        # images by number, with the factors that each was made from

A new data set is one file in this folder with a function `load(root, progress) -> (train, test)`, and one line in
DATASETS; for anomaly localization, with `load_anomaly(options) -> AnomalySplit`, `default_preparation(options)` and a line
in _ANOMALY; with known factors, with `load(root, progress) -> FactorImages` and a line in FACTOR_DATASETS.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vaelens.errors import unknown

if TYPE_CHECKING:
    from vaelens.data.anomaly import AnomalyOptions, AnomalySplit
    from vaelens.data.augment import Augmentation
    from vaelens.data.download import Progress
    from vaelens.data.factors import FactorImages, FactorSplit
    from vaelens.data.images import ImageSet
    from vaelens.data.one_class import OneClassSplit
    from vaelens.data.preparation import Preparation

    Loader = Callable[[Path | None, Progress | None], tuple[ImageSet, ImageSet]]
    AnomalyLoader = Callable[[AnomalyOptions], AnomalySplit]
    FactorLoader = Callable[[Path | None, Progress | None], FactorImages]

__all__ = [
    "ANOMALY_DATASETS",
    "DATASETS",
    "FACTOR_DATASETS",
    "default_augmentation",
    "default_preparation",
    "load_anomaly",
    "load_factors",
    "load_one_class",
]


def _in_module(name: str) -> Loader:
    """The `load` function of `vaelens.data.<name>`, whose module is imported when it is called."""

    def load(root: Path | None, progress: Progress | None) -> tuple[ImageSet, ImageSet]:
        loader = cast("Loader", import_module(f"vaelens.data.{name}").load)
        return loader(root, progress)

    return load


DATASETS: dict[str, Loader] = {
    "digits": _in_module("digits"),
    "mnist": _in_module("mnist"),
}


def _factors_in(name: str) -> FactorLoader:
    """The `load` function of `vaelens.data.<name>`, whose module is imported when it is called."""

    def load(root: Path | None, progress: Progress | None) -> FactorImages:
        return cast("FactorLoader", import_module(f"vaelens.data.{name}").load)(root, progress)

    return load


FACTOR_DATASETS: dict[str, FactorLoader] = {"dsprites": _factors_in("sprites")}


def _anomaly_in(module: str, name: str) -> AnomalyLoader:
    """A loader of `vaelens.data.<module>`, which is imported when it is called."""

    def load(options: AnomalyOptions) -> AnomalySplit:
        return cast("AnomalyLoader", getattr(import_module(f"vaelens.data.{module}"), name))(options)

    return load


# The module of each, and its loader.
_ANOMALY = {
    "ucsd-ped1": ("ucsd", "load_ped1"),
    "ucsd-ped2": ("ucsd", "load_ped2"),
    "mvtec": ("mvtec", "load_anomaly"),
    "folder": ("folder", "load_anomaly"),
}

ANOMALY_DATASETS: dict[str, AnomalyLoader] = {name: _anomaly_in(*where) for name, where in _ANOMALY.items()}


def load_one_class(
    dataset: str,
    normal: int = 1,
    root: Path | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> OneClassSplit:
    """Load a data set and split it for one-class learning.

    Args:
        dataset: "digits" or "mnist".
        normal: label of the normal class.
        root: folder of the data set's files; None: the embedded data, or the cache folder with a download into it.
        held_out: share of the normal training images kept for calibration, in (0, 1).
        seed: seed of the choice of held-out images.
        progress: called during a download with (file name, bytes so far, bytes in all or None).

    Raises:
        UsageError: an unknown data set or class, or a share outside (0, 1).
        DataError: files that are missing, damaged or cannot be downloaded.
    """
    if dataset not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    from vaelens.data.held_out import check_held_out
    from vaelens.data.one_class import one_class

    check_held_out(held_out)  # before a download, not after it
    train, test = DATASETS[dataset](None if root is None else Path(root), progress)
    return one_class(dataset, train, test, normal, held_out, seed)


def load_factors(dataset: str, root: Path | None = None, progress: Progress | None = None) -> FactorSplit:
    """Load a data set whose images come with the factors that they were made from.

    Args:
        dataset: "dsprites".
        root: of the official file, or the folder that holds it; None: drawn from the shapes' geometry, which takes seconds.
        progress: called during a download with (file name, bytes so far, bytes in all or None).

    Raises:
        UsageError: an unknown data set.
        DataError: files that are missing or damaged.
    """
    if dataset not in FACTOR_DATASETS:
        raise unknown("data set with known factors", dataset, FACTOR_DATASETS)
    from vaelens.data.factors import FactorSplit

    return FactorSplit(dataset, FACTOR_DATASETS[dataset](None if root is None else Path(root), progress))


def load_anomaly(dataset: str, options: AnomalyOptions) -> AnomalySplit:
    """Load a data set for anomaly localization.

    Args:
        dataset: one of ANOMALY_DATASETS: "ucsd-ped1", "ucsd-ped2", "mvtec" or "folder".
        options: where its files are and what they become (see `vaelens.data.anomaly.AnomalyOptions`).

    Raises:
        UsageError: an unknown data set or category, or an option that cannot be.
        DataError: files that are missing, damaged or cannot be downloaded.
    """
    _check_anomaly(dataset)
    return ANOMALY_DATASETS[dataset](options)


def default_preparation(dataset: str, options: AnomalyOptions) -> Preparation:
    """What the files of a data set become where nothing else is said; for "folder" this looks at some of its images.

    Raises:
        UsageError, DataError: see `load_anomaly`.
    """
    _check_anomaly(dataset)
    module = import_module(f"vaelens.data.{_ANOMALY[dataset][0]}")
    return cast("Preparation", module.default_preparation(options))


def default_augmentation(dataset: str, category: str | None = None) -> Augmentation:
    """What "auto" stands for: by the category for MVTec AD, nothing for the others.

    Raises:
        UsageError: an unknown data set or category, or none where one is needed.
    """
    _check_anomaly(dataset)
    module = import_module(f"vaelens.data.{_ANOMALY[dataset][0]}")
    if dataset != "mvtec":
        return cast("Augmentation", module.AUGMENTATION)
    return cast("Augmentation", module.AUGMENTATIONS[module.check_category(category)])


def _check_anomaly(dataset: str) -> None:
    if dataset not in ANOMALY_DATASETS:
        raise unknown("data set for anomaly localization", dataset, ANOMALY_DATASETS)
