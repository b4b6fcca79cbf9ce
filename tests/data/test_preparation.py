"""Sizes, channels, frames and brightness of what the network sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaelens.data.brightness import normalise
from vaelens.data.masks import read_mask
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError, UsageError


def test_to_dict_and_back() -> None:
    for preparation in (Preparation((100, 120)), Preparation((8, 9), frames=5), Preparation((8, 9), 3, brightness=True)):
        assert Preparation.from_dict(preparation.to_dict()) == preparation
    assert Preparation((4, 5)).to_dict() == {"size": [4, 5], "channels": 1, "frames": 1, "brightness": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (0, 5)},
        {"size": (5,)},
        {"size": 5},
        {"size": (1.5, 2)},
        {"size": (100_000, 100_000)},
        {"channels": 2},
        {"channels": True},
        {"frames": 2},
        {"frames": 0},
        {"frames": 33},
        {"frames": 3, "channels": 3},
        {"brightness": 1},
        {"more": 1},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Preparation.from_dict(Preparation((4, 5)).to_dict() | changes)


def test_what_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="size, channels, frames, brightness"):
        Preparation.from_dict({"size": [4, 5]})
    with pytest.raises(UsageError):
        Preparation.from_dict([1, 2])  # type: ignore[arg-type]


def test_shapes() -> None:
    assert Preparation((4, 5)).image_shape == (1, 4, 5)
    assert Preparation((4, 5), 3).image_shape == (3, 4, 5)
    assert Preparation((4, 5), frames=3).image_shape == (3, 4, 5)
    assert Preparation((4, 5), frames=3).single == Preparation((4, 5))


def test_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((10, 20), 4660, np.uint16)).save(tmp_path / "a.png")
    preparation = Preparation((5, 6), 3)
    assert preparation.read(tmp_path / "a.png").tolist() == np.full((3, 5, 6), 18).tolist()  # 4660 / 257 = 18.1
    with pytest.raises(DataError, match="pass --convert"):
        preparation.read(tmp_path / "a.png", convert=False)
    bright = replace(preparation, brightness=True)
    assert bright.read(tmp_path / "a.png").unique().tolist() == [128]


def test_brightness_by_hand() -> None:
    """5th percentile 80, median 100, 95th percentile 120: the spread is 40 / 3.29, the gain 28 / that = 2.303."""
    image = torch.tensor([80] * 10 + [90] * 30 + [100] * 21 + [110] * 28 + [120] * 10 + [255], dtype=torch.uint8).view(
        1, 10, 10
    )
    expected = {80: 82, 90: 105, 100: 128, 110: 151, 120: 174, 255: 255}
    assert normalise(image).flatten().tolist() == [expected[value] for value in image.flatten().tolist()]


def test_brightness_takes_off_lamp_and_exposure() -> None:
    """Two exposures of one scene come out nearly alike, and a small bright defect changes nothing elsewhere."""
    scene = torch.rand(1, 60, 60, generator=torch.Generator().manual_seed(0)) * 120
    dark, light = (scene * 0.6 + 10).to(torch.uint8), (scene * 1.2 + 60).to(torch.uint8)
    difference = normalise(dark).int() - normalise(light).int()
    assert difference.abs().max() <= 4
    defect = dark.clone()
    defect[:, 5:13, 5:13] = 255
    changed = normalise(defect).int() - normalise(dark).int()
    changed[:, 5:13, 5:13] = 0
    assert changed.abs().max() <= 8


@given(st.lists(st.integers(0, 255), min_size=1, max_size=60))
def test_brightness_keeps_order_and_its_bounds(values: list[int]) -> None:
    image = torch.tensor(values, dtype=torch.uint8)
    out = normalise(image)
    order = image.int().argsort()
    assert (out[order].int().diff() >= 0).all()
    assert out.shape == image.shape
    assert out.dtype == torch.uint8
    # the median becomes 128, and no two values go further apart than the bound on the gain allows
    assert int(out.sort().values[(len(values) - 1) // 2]) == 128
    apart = out[order].int().diff()
    assert (apart <= 4 * image[order].int().diff()).all()


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_image_stays_constant(value: int) -> None:
    assert normalise(torch.full((3, 4, 4), value, dtype=torch.uint8)).unique().tolist() == [128]


def test_brightness_of_other_types_is_refused() -> None:
    with pytest.raises(UsageError):
        normalise(torch.rand(3, 3))
    with pytest.raises(UsageError):
        normalise(torch.zeros(0, dtype=torch.uint8))


def save(pixels: np.ndarray, path: Path, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("kind", ["L", "L one", "1", "P", "RGB", "RGBA", "LA", "16", "blue"])
def test_masks_of_every_kind(kind: str, tmp_path: Path) -> None:
    on = np.zeros((6, 8), bool)
    on[2:4, 4:8] = True
    image = save(np.zeros((6, 8), np.uint8), tmp_path / "image.png")
    if kind == "16":
        mask = save(on.astype(np.uint16), tmp_path / "mask.png")  # the value 1 of 65535
    elif kind == "blue":
        mask = save(np.stack([on * 0, on * 0, on * 1], -1).astype(np.uint8), tmp_path / "mask.png")
    elif kind == "L one":
        mask = save(on.astype(np.uint8), tmp_path / "mask.png")
    else:
        mask = save(on.astype(np.uint8) * 255, tmp_path / "mask.png", kind)
    pixels, marks = read_mask(mask, image, (3, 4))
    assert marks
    assert pixels.dtype == torch.bool
    assert pixels.int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_a_mask_that_vanishes_by_shrinking_still_marks(tmp_path: Path) -> None:
    on = np.zeros((8, 8), np.uint8)
    on[0, 0] = 255
    image = save(on, tmp_path / "image.png")
    pixels, marks = read_mask(image, image, (2, 2))
    assert marks
    assert not pixels.any()


def test_a_mask_is_shrunk_to_its_nearest_pixels(tmp_path: Path) -> None:
    on = np.zeros((6, 6), np.uint8)
    on[1, 1] = 255  # the middle of nine
    on[:, 3:] = 255
    on[4, 4] = 0
    image = save(on, tmp_path / "image.png")
    assert read_mask(image, image, (2, 2))[0].tolist() == [[True, True], [False, False]]


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    image = save(np.zeros((6, 8), np.uint8), tmp_path / "image.png")
    mask = save(np.zeros((8, 6), np.uint8), tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png is 6x8 .*image\.png is 8x6") as caught:
        read_mask(mask, image, (3, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_mask_fits_the_image_that_stands_upright(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = tmp_path / f"image.{suffix}"
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(image, exif=exif)
    mask = save(np.full((8, 6), 255, np.uint8), tmp_path / "mask.png")
    assert read_mask(mask, image, (4, 3))[0].all()
    with pytest.raises(DataError):
        read_mask(save(np.zeros((6, 8), np.uint8), tmp_path / "lying.png"), image, (3, 4))
