"""The one-class split: train on one class, calibrate on its held-out part, test on all classes."""

from __future__ import annotations

from dataclasses import dataclass

from vaelens.data.held_out import check_held_out, hold_out
from vaelens.data.images import ImageSet
from vaelens.errors import DataError, UsageError, unknown


@dataclass(frozen=True, eq=False)
class OneClassSplit:
    """What a one-class experiment reads.

    Attributes:
        dataset: the data set's name.
        normal: the label of the normal class.
        train: normal images to train on.
        calibration: normal images that training never sees, for thresholds and reference statistics.
        test: images of all classes, with labels.
        classes: every label of the data set, ascending.

    Raises:
        UsageError: the three sets differ in image shape, the test set has no labels, or train and calibration overlap.
    """

    dataset: str
    normal: int
    train: ImageSet
    calibration: ImageSet
    test: ImageSet
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        shapes = {self.train.image_shape, self.calibration.image_shape, self.test.image_shape}
        if len(shapes) > 1:
            raise UsageError(f"train, calibration and test images must have one shape (C, H, W), not {sorted(shapes)}")
        if self.test.labels is None:
            raise UsageError("the test set of a one-class split needs labels")
        shared = set(self.train.names) & set(self.calibration.names)
        if shared:
            raise UsageError(f"{min(shared)!r} is in both train and calibration: hold out other images")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.image_shape

    @property
    def counts(self) -> dict[str, int]:
        """Number of images: train, calibration, test, test_normal and test_anomalous."""
        assert self.test.labels is not None
        normal = int((self.test.labels == self.normal).sum())
        return {
            "train": len(self.train),
            "calibration": len(self.calibration),
            "test": len(self.test),
            "test_normal": normal,
            "test_anomalous": len(self.test) - normal,
        }

    def describe(self) -> str:
        """One line for people: what is normal and how many images each part has."""
        n = self.counts
        return (
            f"{self.dataset}, class {self.normal} normal: {n['train']:,} to train on, {n['calibration']:,} held out, "
            f"{n['test']:,} to test on ({n['test_normal']:,} normal, {n['test_anomalous']:,} of other classes)"
        )


def one_class(
    dataset_name: str, train: ImageSet, test: ImageSet, normal: int, held_out: float = 0.1, seed: int = 0
) -> OneClassSplit:
    """Split a labelled data set for one-class learning.

    The normal class is taken out of `train`; a seeded permutation chooses the held-out part, the same on every machine.
    Both parts keep the order of `train`, and `test` is passed on untouched.

    Args:
        dataset_name: for names and messages.
        train: labelled training images.
        test: labelled test images of the same shape.
        normal: label of the normal class.
        held_out: share of the normal training images kept for calibration, in (0, 1), rounded to whole images.
        seed: seed of the permutation.

    Raises:
        UsageError: no labels, a class that is not in `train` (the message names those that are), a share outside
            (0, 1), or one that leaves nothing to train or to calibrate on.
        DataError: a test set without normal images, or with nothing else.
    """
    check_held_out(held_out)
    if train.labels is None or test.labels is None:
        raise UsageError(f"{dataset_name}: a one-class split needs labels on its training and its test images")
    if isinstance(normal, bool) or normal not in train.classes:
        raise unknown(f"{dataset_name} class", normal, train.classes)
    normal = int(normal)
    of_class = (train.labels == normal).nonzero().flatten()
    what = f"{dataset_name}: held_out {held_out} of the {len(of_class)} training images of class {normal}"
    training, calibration = hold_out(len(of_class), held_out, seed, what)
    normals = int((test.labels == normal).sum())
    if normals in (0, len(test)):
        lack = f"image of class {normal}" if normals == 0 else f"image of a class other than {normal}"
        raise DataError(f"{dataset_name}: the test set has no {lack}, so nothing can be told apart")
    return OneClassSplit(
        dataset=dataset_name,
        normal=normal,
        train=train.subset(of_class[training]),
        calibration=train.subset(of_class[calibration]),
        test=test,
        classes=tuple(sorted({*train.classes, *test.classes})),
    )
