"""The layout of MVTec AD, which others share: train/good, test/<defect>, ground_truth/<defect>.

root/train/good/000.png
     test/good/000.png
     test/scratch/000.png
     ground_truth/scratch/000_mask.png      (or 000.png, 000.bmp, ...)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vaelens.data.anomaly import ANOMALOUS, GOOD, NORMAL, UNKNOWN, AnomalyOptions, AnomalySplit
from vaelens.data.cache import decoded, decoded_masks
from vaelens.data.files import list_images, shown
from vaelens.data.held_out import hold_out
from vaelens.data.images import ImageSet
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError

TRAIN, TEST, GROUND_TRUTH = "train", "test", "ground_truth"
_MASK_END = re.compile(r"[_-](mask|gt)$", re.IGNORECASE)


@dataclass(frozen=True)
class TestFile:
    """One test image: its file, its defect ("good", a folder's name, or "unknown"), and its mask file or None."""

    path: Path
    defect: str
    mask: Path | None

    @property
    def label(self) -> int:
        return {GOOD: NORMAL, "unknown": UNKNOWN}.get(self.defect, ANOMALOUS)


def split_tree(
    dataset: str,
    root: Path,
    training: Sequence[Path],
    test: Sequence[TestFile],
    preparation: Preparation,
    options: AnomalyOptions,
    prefix: str = "",
) -> AnomalySplit:
    """Hold out a part of the training files, then decode each part by itself.

    Args:
        dataset: the split's name.
        root: what the names of images are relative to.
        training: files of normal images.
        test: the test files, none for no test set.
        preparation: what files become.
        options: see `AnomalyOptions`.
        prefix: of the names of images.

    Raises:
        UsageError: a held-out share that leaves nothing to train or to calibrate on.
        DataError: a file that cannot be read, or a mask that does not fit its image.
    """
    what = f"{dataset}: held_out {options.held_out} of the {len(training):,} training images"
    for_training, held_out = hold_out(len(training), options.held_out, options.seed, what)

    def images(paths: Sequence[Path], labels: list[int] | None = None) -> ImageSet:
        names = tuple(prefix + path.relative_to(root).as_posix() for path in paths)
        kinds = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        return ImageSet(decoded(paths, preparation, options.workers, options.reading), names, kinds)

    train = images([training[i] for i in for_training.tolist()])
    calibration = images([training[i] for i in held_out.tolist()])
    if not test:
        return AnomalySplit(dataset, train, calibration)
    tested = images([one.path for one in test], [one.label for one in test])
    defects = tuple(one.defect for one in test)
    if all(one.mask is None for one in test):
        return AnomalySplit(dataset, train, calibration, tested, defects)
    pairs = [None if one.mask is None else (one.mask, one.path) for one in test]
    masks, _ = decoded_masks(pairs, preparation.size, options.workers, options.reading)
    known = torch.tensor([one.mask is not None or one.label == NORMAL for one in test], dtype=torch.bool)
    return AnomalySplit(dataset, train, calibration, tested, defects, masks, known)


def test_files(root: Path, options: AnomalyOptions) -> list[TestFile]:
    """The test images below root/test with their masks in root/ground_truth, in a fixed order.

    Images that lie in root/test itself, or in root/test/unknown, are of unknown kind. A mask belongs to the image with its
    place and its name, but for the suffix and a `_mask` or `_gt` at its end; good images have none.

    Raises:
        DataError: a folder that cannot be read, or two masks for one image.
    """
    top = root / TEST
    if not is_folder(top):
        return []
    files: list[TestFile] = []
    for path in images_below(top):
        inside = path.relative_to(top).parts
        defect = inside[0] if len(inside) > 1 else "unknown"
        files.append(TestFile(path, defect, None))
    masks = _masks(root / GROUND_TRUTH)
    found = []
    for file in files:
        mask = None
        if file.label == ANOMALOUS:
            mask = masks.pop(_place(file.path, top), None)
        found.append(TestFile(file.path, file.defect, mask))
    if masks:
        first = min(masks.values())
        options.tell(f"{len(masks):,} masks belong to no image in {shown(top)}, such as {shown(first)}; name them alike")
    return found


def images_below(folder: Path) -> list[Path]:
    """Sorted image files in a folder and below it, none if there are none.

    Raises:
        DataError: a folder that cannot be read.
    """
    if not any(os.scandir(folder)):
        return []
    try:
        return list_images(folder)
    except ValueError:  # UsageError: it holds no images
        return []


def is_folder(path: Path) -> bool:
    """Whether it is a folder; never raises, however long the path."""
    return os.path.isdir(path)  # noqa: PTH112


def _masks(top: Path) -> dict[tuple[str, str], Path]:
    """Mask files by the place and the name of the image that they belong to."""
    masks: dict[tuple[str, str], Path] = {}
    if not is_folder(top):
        return masks
    for path in images_below(top):
        if path.relative_to(top).parts[0] == GOOD:
            continue
        place = _place(path, top, _MASK_END)
        if place in masks:
            raise DataError(f"{shown(masks[place])} and {shown(path)} are masks of one image; keep one of them")
        masks[place] = path
    return masks


def _place(path: Path, top: Path, end: re.Pattern[str] | None = None) -> tuple[str, str]:
    stem = path.stem if end is None else end.sub("", path.stem)
    return path.parent.relative_to(top).as_posix(), stem
