"""The one-class split: which image lands where, and that nothing leaks from one part into another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.data.images import ImageSet
from vaelens.data.one_class import OneClassSplit, one_class
from vaelens.errors import DataError, UsageError


def make(labels: list[int], prefix: str) -> ImageSet:
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    return ImageSet(images, tuple(f"{prefix}/{i}" for i in range(len(labels))), torch.tensor(labels, dtype=torch.int64))


TRAIN = make([i % 4 for i in range(80)], "train")
TEST = make([i % 4 for i in range(20)], "test")


@settings(deadline=None)
@given(normal=st.integers(0, 3), held_out=st.floats(0.05, 0.95), seed=st.integers(0, 2**32), count=st.integers(40, 120))
def test_train_and_calibration_partition_the_normal_class(normal: int, held_out: float, seed: int, count: int) -> None:
    train = make([i % 4 for i in range(count)], "train")
    of_class = [f"train/{i}" for i in range(count) if i % 4 == normal]
    expected = round(len(of_class) * held_out)
    if not 0 < expected < len(of_class):
        with pytest.raises(UsageError, match="at least one"):
            one_class("toy", train, TEST, normal, held_out, seed)
        return
    split = one_class("toy", train, TEST, normal, held_out, seed)
    assert sorted(split.train.names + split.calibration.names) == sorted(of_class)
    assert not set(split.train.names) & set(split.calibration.names)
    assert len(split.calibration) == expected
    for part in (split.train, split.calibration):
        assert part.labels is not None
        assert part.labels.unique().tolist() == [normal]
        positions = [int(name.removeprefix("train/")) for name in part.names]
        assert positions == sorted(positions)
    assert split.test is TEST


def test_seed_decides_and_nothing_else() -> None:
    held = one_class("toy", TRAIN, TEST, 1, 0.25, seed=7).calibration.names
    torch.manual_seed(123)
    torch.rand(5)
    assert one_class("toy", TRAIN, TEST, 1, 0.25, seed=7).calibration.names == held
    others = {one_class("toy", TRAIN, TEST, 1, 0.25, seed=s).calibration.names for s in range(10)}
    assert len(others) == 10


def test_same_held_out_images_on_every_machine() -> None:
    # written down from one run: a change of these names is a change of every published split
    held = one_class("toy", TRAIN, TEST, 1, 0.25, seed=0).calibration.names
    assert held == ("train/17", "train/21", "train/29", "train/53", "train/77")


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    one_class("toy", TRAIN, TEST, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_counts_and_description() -> None:
    split = one_class("toy", TRAIN, TEST, 2, 0.1)
    assert split.counts == {"train": 18, "calibration": 2, "test": 20, "test_normal": 5, "test_anomalous": 15}
    assert split.classes == (0, 1, 2, 3)
    assert split.image_shape == (1, 4, 4)
    assert split.describe() == (
        "toy, class 2 normal: 18 to train on, 2 held out, 20 to test on (5 normal, 15 of other classes)"
    )


def test_classes_of_both_sets() -> None:
    split = one_class("toy", make([1] * 10, "train"), make([1, 5, 7], "test"), 1)
    assert split.classes == (1, 5, 7)


@pytest.mark.parametrize("normal", [4, -1, True, None, "1"])
def test_unknown_class_names_those_there_are(normal: Any) -> None:
    with pytest.raises(UsageError, match=rf"unknown toy class {normal!r}; there are: 0, 1, 2, 3"):
        one_class("toy", TRAIN, TEST, normal)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_share_outside_the_open_interval(held_out: float) -> None:
    with pytest.raises(UsageError, match=r"held_out .* in \(0, 1\), not"):
        one_class("toy", TRAIN, TEST, 1, held_out)


@pytest.mark.parametrize(("held_out", "words"), [(0.01, "20 to train and 0 to cal"), (0.99, "0 to train and 20 to cal")])
def test_too_few_images(held_out: float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        one_class("toy", TRAIN, TEST, 1, held_out)


@pytest.mark.parametrize("labels", [[0, 2, 3], [1, 1]])
def test_test_set_needs_both_kinds(labels: list[int]) -> None:
    with pytest.raises(DataError, match="test set has no image"):
        one_class("toy", TRAIN, make(labels, "test"), 1)


@pytest.mark.parametrize("seed", [2**70, 1.5, "x"])
def test_bad_seed(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        one_class("toy", TRAIN, TEST, 1, seed=seed)


def test_labels_are_needed() -> None:
    bare = ImageSet(TRAIN.images, TRAIN.names)
    with pytest.raises(UsageError, match="needs labels"):
        one_class("toy", bare, TEST, 1)
    with pytest.raises(UsageError, match="needs labels"):
        one_class("toy", TRAIN, ImageSet(TEST.images, TEST.names), 1)


def test_split_checks_itself() -> None:
    split = one_class("toy", TRAIN, TEST, 1)
    with pytest.raises(UsageError, match="both train and calibration"):
        OneClassSplit("toy", 1, split.train, split.train, TEST, (0, 1))
    other = ImageSet(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ("x",), torch.tensor([1]))
    with pytest.raises(UsageError, match="one shape"):
        OneClassSplit("toy", 1, split.train, other, TEST, (0, 1))
    with pytest.raises(UsageError, match="needs labels"):
        OneClassSplit("toy", 1, split.train, split.calibration, ImageSet(TEST.images, TEST.names), (0, 1))
