"""Data sets. Listing their names imports no torch: the command line does that at its start.

    split = load_one_class("mnist", normal=1, root=Path("data/mnist"))
    split.train, split.calibration, split.test      # ImageSets

A new data set is one file in this folder with a function `load(root, progress) -> (train, test)`, and one line in
DATASETS.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vaelens.errors import unknown

if TYPE_CHECKING:
    from vaelens.data.download import Progress
    from vaelens.data.images import ImageSet
    from vaelens.data.one_class import OneClassSplit

    Loader = Callable[[Path | None, Progress | None], tuple[ImageSet, ImageSet]]

__all__ = ["DATASETS", "load_one_class"]


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
    from vaelens.data.one_class import check_held_out, one_class

    check_held_out(held_out)  # before a download, not after it
    train, test = DATASETS[dataset](None if root is None else Path(root), progress)
    return one_class(dataset, train, test, normal, held_out, seed)
