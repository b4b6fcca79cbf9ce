"""What an anomaly split refuses and says."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from vaelens.data import ANOMALY_DATASETS, default_preparation, load_anomaly
from vaelens.data.anomaly import AnomalyOptions, AnomalySplit
from vaelens.data.images import ImageSet
from vaelens.errors import UsageError


def images(name: str, count: int, labels: list[int] | None = None, side: int = 4) -> ImageSet:
    pixels = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    return ImageSet(pixels, tuple(f"{name}/{i}" for i in range(count)), None if labels is None else torch.tensor(labels))


def fields(**changes: Any) -> dict[str, Any]:
    masks = torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[1, 1, 1] = True
    return {
        "dataset": "toy",
        "train": images("train", 3),
        "calibration": images("calibration", 2),
        "test": images("test", 4, [0, 1, 1, -1]),
        "defects": ("good", "crack", "fray", "unknown"),
        "masks": masks,
        "has_mask": torch.tensor([True, True, False, False]),
    } | changes


def test_counts_and_words() -> None:
    split = AnomalySplit(**fields())
    assert split.image_shape == (1, 4, 4)
    assert split.counts == {
        "train": 3, "calibration": 2, "test": 4, "test_normal": 1, "test_anomalous": 2, "test_unknown": 1
    }  # fmt: skip
    assert split.describe() == (
        "toy: 3 normal images to train on, 2 held out, 4 to test on (1 normal, 2 anomalous, 1 unknown), "
        "1 of them without a mask"
    )


def test_without_test_images_or_masks() -> None:
    split = AnomalySplit("toy", images("train", 3), images("calibration", 2))
    assert split.counts["test"] == split.counts["test_normal"] == 0
    assert split.describe() == "toy: 3 normal images to train on, 2 held out, none to test on"
    split = AnomalySplit(**fields(masks=None, has_mask=None))
    assert split.describe().endswith("1 unknown), no masks")


MASK = torch.zeros(4, 4, 4, dtype=torch.bool)
EVERYWHERE = torch.ones(4, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": images("calibration", 2, side=5)}, "one shape"),
        ({"calibration": images("train", 2)}, "'train/0' is in both"),
        ({"calibration": images("calibration", 0)}, "need images"),
        ({"test": images("test", 4)}, "need labels"),
        ({"test": images("test", 4, [0, 1, 2, -1])}, "need labels"),
        ({"defects": ("good",)}, "4 defects, not 1"),
        ({"defects": ("good", "good", "fray", "unknown")}, "test/1 has the label 1 but the defect 'good'"),
        ({"defects": ("crack", "crack", "fray", "unknown")}, "test/0 has the label 0"),
        ({"defects": ("good", "crack", "fray", "fray")}, "test/3 has the label -1"),
        ({"masks": None}, "belong together"),
        ({"has_mask": None}, "belong together"),
        ({"masks": MASK.to(torch.uint8)}, "torch.bool"),
        ({"masks": MASK[:, :3]}, r"\(4, 4, 4\) like the test images"),
        ({"has_mask": torch.ones(3, dtype=torch.bool)}, r"has_mask must be torch.bool \(4,\)"),
        ({"masks": EVERYWHERE}, "test/0 is not anomalous but"),
        ({"has_mask": torch.tensor([True, False, False, False])}, "test/1 has a mask that counts as not known"),
        ({"has_mask": torch.tensor([False, True, False, False])}, "test/0 is normal, so its mask is known"),
        ({"test": None}, "there are none"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AnomalySplit(**fields(**changes))


def test_lines_for_people() -> None:
    heard: list[str] = []
    AnomalyOptions(notice=heard.append).tell("one")
    assert heard == ["one"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AnomalyOptions().tell("two")
    assert [str(one.message) for one in caught] == ["two"]


def test_registry() -> None:
    assert list(ANOMALY_DATASETS) == ["ucsd-ped1", "ucsd-ped2", "mvtec", "folder"]
    with pytest.raises(UsageError, match=r"unknown data set .* there are: ucsd-ped1"):
        load_anomaly("mnist", AnomalyOptions())
    assert default_preparation("ucsd-ped1", AnomalyOptions()).image_shape == (1, 100, 100)
    assert default_preparation("mvtec", AnomalyOptions(category="zipper")).image_shape == (1, 256, 256)
    assert default_preparation("mvtec", AnomalyOptions(category="wood")).image_shape == (3, 256, 256)
