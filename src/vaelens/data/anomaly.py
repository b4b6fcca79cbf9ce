"""Data for anomaly localization: normal images to train and to calibrate on, and test images with masks where there are any."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vaelens.data.download import Progress
from vaelens.data.images import ImageSet
from vaelens.data.preparation import Preparation
from vaelens.errors import UsageError

GOOD = "good"
NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1


@dataclass(frozen=True)
class AnomalyOptions:
    """What a loader of an anomaly data set is asked for.

    Attributes:
        root: folder of the data set's files; None: the cache folder, with a download into it where that is possible.
        category: which of several objects, for data sets that have such (MVTec AD).
        preparation: how files become images; None: what suits the data set (`loader.default_preparation`).
        held_out: share of the normal training images kept for calibration, in (0, 1).
        seed: seed of the choice of held-out images.
        progress: called during a download with (file name, bytes so far, bytes in all or None).
        workers: threads that decode; None: one for each core, 8 at most.
        reading: called while images are decoded with (images so far, images in all), anew for each part.
        notice: called with one line for people: a licence before a download, a damaged file that is left out. None:
            such a line is a warning.
    """

    root: Path | None = None
    category: str | None = None
    preparation: Preparation | None = None
    held_out: float = 0.1
    seed: int = 0
    progress: Progress | None = None
    workers: int | None = None
    reading: Callable[[int, int], None] | None = None
    notice: Callable[[str], None] | None = None

    def tell(self, line: str) -> None:
        """Pass one line on to people."""
        if self.notice is None:
            warnings.warn(line, stacklevel=2)
        else:
            self.notice(line)


@dataclass(frozen=True, eq=False)
class AnomalySplit:
    """What an anomaly experiment reads. Everything has one size (H, W).

    Attributes:
        dataset: such as "mvtec/screw", "ucsd-ped2" or "folder".
        train: normal images to train on.
        calibration: normal images that training never sees, for thresholds and reference statistics.
        test: images with labels 0 normal, 1 anomalous, -1 unknown; None where there are no test images.
        defects: one for each test image: "good", the name of its defect, "anomalous" where defects have no names, or
            "unknown"; "good" if and only if the label is 0, "unknown" if and only if it is -1.
        masks: bool, (N, H, W), True where a test image is anomalous, nowhere on good ones and where the mask is not known;
            None where no mask at all is known, so that there is nothing to measure localization by.
        has_mask: bool, (N,), the test images whose mask is known: all good ones, and those that have a mask file (which may
            be all False, for instance after shrinking); None where `masks` is.
        held_out_clips: of how many clips of a video the calibration images are the frames; 0 where they are no frames.

    Raises:
        UsageError: the sets differ in image shape, are empty, share images, or the other fields do not fit the test set.
    """

    dataset: str
    train: ImageSet
    calibration: ImageSet
    test: ImageSet | None = None
    defects: tuple[str, ...] = field(default=())
    masks: Tensor | None = None
    has_mask: Tensor | None = None
    held_out_clips: int = 0

    def __post_init__(self) -> None:
        sets = [one for one in (self.train, self.calibration, self.test) if one is not None]
        shapes = {one.image_shape for one in sets}
        if len(shapes) > 1:
            raise UsageError(f"train, calibration and test images must have one shape (C, H, W), not {sorted(shapes)}")
        if not all(len(one) for one in sets):
            raise UsageError("train and calibration need images, and test as well where it is given")
        shared = set(self.train.names) & set(self.calibration.names)
        if shared:
            raise UsageError(f"{min(shared)!r} is in both train and calibration: hold out other images")
        if self.test is None:
            if self.defects or self.masks is not None or self.has_mask is not None:
                raise UsageError("defects and masks are of test images, and there are none")
            return
        _check_defects(self.test, self.defects)
        _check_masks(self.test, self.masks, self.has_mask)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.image_shape

    @property
    def counts(self) -> dict[str, int]:
        """Number of images: train, calibration, test, test_normal, test_anomalous, test_unknown."""
        labels = torch.empty(0) if self.test is None or self.test.labels is None else self.test.labels
        return {
            "train": len(self.train),
            "calibration": len(self.calibration),
            "test": len(labels),
            "test_normal": int((labels == NORMAL).sum()),
            "test_anomalous": int((labels == ANOMALOUS).sum()),
            "test_unknown": int((labels == UNKNOWN).sum()),
        }

    def describe(self) -> str:
        """One line for people: how many images each part has."""
        n = self.counts
        line = f"{self.dataset}: {n['train']:,} normal images to train on, {n['calibration']:,} held out"
        if self.test is None:
            return f"{line}, none to test on"
        line += f", {n['test']:,} to test on ({n['test_normal']:,} normal, {n['test_anomalous']:,} anomalous"
        line += f", {n['test_unknown']:,} unknown)" if n["test_unknown"] else ")"
        if self.masks is None:
            return f"{line}, no masks"
        assert self.test.labels is not None
        assert self.has_mask is not None
        lacking = int((~self.has_mask & (self.test.labels == ANOMALOUS)).sum())
        return f"{line}, {lacking:,} of them without a mask" if lacking else line


def _check_defects(test: ImageSet, defects: tuple[str, ...]) -> None:
    if test.labels is None or not set(test.classes) <= {NORMAL, ANOMALOUS, UNKNOWN}:
        found = "none" if test.labels is None else test.classes
        raise UsageError(f"test images need labels 0 (normal), 1 (anomalous) or -1 (unknown), not {found}")
    if len(defects) != len(test):
        raise UsageError(f"{len(test)} test images need {len(test)} defects, not {len(defects)}")
    for name, label, defect in zip(test.names, test.labels.tolist(), defects, strict=True):
        if (defect == GOOD) != (label == NORMAL) or (defect == "unknown") != (label == UNKNOWN):
            raise UsageError(f"{name} has the label {label} but the defect {defect!r}")


def _check_masks(test: ImageSet, masks: Tensor | None, has_mask: Tensor | None) -> None:
    if masks is None or has_mask is None:
        if masks is not has_mask:
            raise UsageError("masks and has_mask belong together: give both or neither")
        return
    assert test.labels is not None
    shape = (len(test), *test.image_shape[1:])
    if masks.dtype != torch.bool or masks.shape != shape:
        raise UsageError(f"masks must be torch.bool {shape} like the test images, not {masks.dtype} {tuple(masks.shape)}")
    if has_mask.dtype != torch.bool or has_mask.shape != shape[:1]:
        raise UsageError(f"has_mask must be torch.bool {shape[:1]}, not {has_mask.dtype} {tuple(has_mask.shape)}")
    marked = masks.flatten(1).any(dim=1)
    for wrong, why in (
        (marked & (test.labels != ANOMALOUS), "is not anomalous but its mask has pixels"),
        (marked & ~has_mask, "has a mask that counts as not known"),
        (~has_mask & (test.labels == NORMAL), "is normal, so its mask is known"),
    ):
        if wrong.any():
            raise UsageError(f"{test.names[int(wrong.nonzero()[0])]} {why}")
