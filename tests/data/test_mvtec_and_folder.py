"""MVTec AD and folders of images: the real screw and magnetic tile, and made-up trees of every kind."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens.data import default_preparation, load_anomaly, mvtec
from vaelens.data.anomaly import AnomalyOptions
from vaelens.data.archive import unpack
from vaelens.data.mvtec import categories
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError, UsageError

SMALL = Preparation((6, 8))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))


def save(path: Path, value: int = 100, size: tuple[int, int] = (12, 16), dtype: type = np.uint8, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, dtype)).save(path, **options)


def save_mask(path: Path, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[: size[0] // 2] = 255
    Image.fromarray(pixels).save(path)


def make(root: Path, train: int = 10) -> Path:
    """The layout of MVTec AD with two defects, a good and two defective test images of each."""
    for i in range(train):
        save(root / "train" / "good" / f"{i:03d}.png", i)
    for i in range(3):
        save(root / "test" / "good" / f"{i:03d}.png", 50 + i)
    for defect in ("bent", "scratch"):
        for i in range(2):
            save(root / "test" / defect / f"{i:03d}.png", 60 + i)
            save_mask(root / "ground_truth" / defect / f"{i:03d}_mask.png")
    return root


def load(dataset: str, root: Path | None, **options: Any) -> Any:
    options = {"preparation": SMALL, "held_out": 0.2, "category": "screw" if dataset == "mvtec" else None} | options
    return load_anomaly(dataset, AnomalyOptions(root=root, **options))


@pytest.mark.parametrize("below", ["", "screw"])
def test_mvtec(tmp_path: Path, below: str) -> None:
    make(tmp_path / "screw")
    split = load("mvtec", tmp_path / below)
    assert split.dataset == "mvtec/screw"
    assert split.counts == {
        "train": 8, "calibration": 2, "test": 7, "test_normal": 3, "test_anomalous": 4, "test_unknown": 0
    }  # fmt: skip
    assert split.defects == ("bent", "bent", "good", "good", "good", "scratch", "scratch")
    assert split.test.names[0] == "mvtec/screw/test/bent/000.png"
    assert split.test.labels.tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert split.has_mask.all()
    assert split.masks.flatten(1).sum(1).tolist() == [24, 24, 0, 0, 0, 24, 24]
    assert split.masks[0, :3].all()
    # names and pixels belong together, and nothing is lost
    both = {**named(split.train), **named(split.calibration)}
    assert both == {f"mvtec/screw/train/good/{i:03d}.png": i for i in range(10)}


def named(images: Any) -> dict[str, int]:
    return dict(zip(images.names, images.images[:, 0, 0, 0].tolist(), strict=True))


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    make(tmp_path / "screw")
    choices = {load("mvtec", tmp_path, seed=seed).calibration.names for seed in range(5)}
    assert len(choices) > 2
    assert load("mvtec", tmp_path, seed=3).calibration.names == load("mvtec", tmp_path, seed=3).calibration.names
    assert load("mvtec", tmp_path).calibration.images.shape == (2, 1, 6, 8)


def test_what_is_missing_from_mvtec(tmp_path: Path) -> None:
    root = make(tmp_path / "screw")
    assert categories(tmp_path) == ("screw",)
    with pytest.raises(UsageError, match=r"name a category .* bottle"):
        load("mvtec", tmp_path, category=None)
    with pytest.raises(UsageError, match=r"unknown category .*spoon.*bottle"):
        load("mvtec", tmp_path, category="spoon")
    with pytest.raises(DataError, match=r"lacks bottle/train/good; it has screw"):
        load("mvtec", tmp_path, category="bottle")
    with pytest.raises(DataError, match=r"mvtec\.com.*CC BY-NC-SA"):
        load("mvtec", tmp_path / "screw" / "train")
    with pytest.raises(UsageError, match="no folder"):
        load("mvtec", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no video"):
        load("mvtec", tmp_path, preparation=Preparation((6, 8), frames=3))
    (root / "ground_truth" / "bent" / "001_mask.png").unlink()
    with pytest.raises(DataError, match=r"bent/001\.png lacks its mask .*ground_truth/bent/001_mask\.png"):
        load("mvtec", tmp_path)
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match=r"screw/test holds no images"):
        load("mvtec", tmp_path)


def test_mvtec_from_an_archive_put_into_the_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("mvtec", None)
    assert str(tmp_path / "cache" / "mvtec") in str(caught.value)
    assert "screw.tar.xz" in str(caught.value)
    assert mvtec.PAGE in str(caught.value)
    assert "\n" not in str(caught.value)
    make(tmp_path / "screw")
    (tmp_path / "cache" / "mvtec").mkdir(parents=True)
    archive = tmp_path / "cache" / "mvtec" / "screw.tar.xz"
    archive.write_bytes(b"no archive at all")
    with pytest.raises(DataError, match=r"screw\.tar\.xz cannot be unpacked"):
        load("mvtec", None)
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tmp_path / "screw", "screw")
    assert load("mvtec", None).counts["test"] == 7
    archive.unlink()
    assert load("mvtec", None).counts["test"] == 7


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_an_archive_that_is_cut_leaves_nothing(tmp_path: Path, cut: float) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(make(tmp_path / "tree"), "tree")
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name != ".unpacking.lock"] == []


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "good/../../evil.txt"])
def test_an_archive_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "evil", "good/a.txt")
        member = tar.gettarinfo(tmp_path / "evil")
        member.name = name
        with (tmp_path / "evil").open("rb") as file:
            tar.addfile(member, file)
    before = set(tmp_path.rglob("*"))
    if name.startswith("/"):  # the data filter makes it relative
        unpack(tmp_path / "a.tar", tmp_path / "below" / "out")
    else:
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpack(tmp_path / "a.tar", tmp_path / "below" / "out")
    new = set(tmp_path.rglob("*")) - before
    assert not Path("/tmp/evil.txt").exists()
    assert all(path.is_relative_to(tmp_path / "below") for path in new)


def test_what_cannot_be_unpacked_into(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(make(tmp_path / "tree"), "tree")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot unpack .*VAELENS_CACHE"):
        unpack(tmp_path / "a.tar", tmp_path / "file")


def test_folder_in_the_layout_of_mvtec(tmp_path: Path) -> None:
    make(tmp_path)
    split = load("folder", tmp_path)
    assert split.dataset == "folder"
    assert split.counts["test_anomalous"] == 4
    assert split.has_mask.all()
    assert split.test.names[0] == "test/bent/000.png"
    make(tmp_path / "bolts")
    split = load("folder", tmp_path, category="bolts")
    assert split.dataset == "folder/bolts"
    assert split.test.names[0] == "test/bent/000.png"


def test_folder_of_images_alone_of_every_kind(tmp_path: Path) -> None:
    """Formats, depths and sizes, in folders below, with macOS's leavings; every one comes out as the grey it is."""
    save(tmp_path / "a.png", 100)
    save(tmp_path / "b.JPG", 100, (20, 30), format="JPEG")
    save(tmp_path / "c.tif", 100, (7, 5))
    save(tmp_path / "d.bmp", 100)
    save(tmp_path / "e.webp", 100, lossless=True)
    save(tmp_path / "f.tiff", 100 * 257, (9, 9), np.uint16)
    save(tmp_path / "g.png", 100 * 257, (9, 9), np.uint16)
    save(tmp_path / "below" / "deep" / "a.png", 100, (500, 400))
    Image.fromarray(np.full((8, 9, 3), 100, np.uint8)).save(tmp_path / "rgb.png")
    (tmp_path / "._a.png").write_bytes(b"\0")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "readme.txt").write_text("text")
    split = load("folder", tmp_path)
    assert split.test is None
    assert len(split.train) + len(split.calibration) == 9
    assert split.train.images.unique().tolist() == [100]
    assert "below/deep/a.png" in split.train.names + split.calibration.names
    assert default_preparation("folder", AnomalyOptions(root=tmp_path)).channels == 1


@pytest.mark.parametrize("layout", ["", "train", "train/good", "train/good/shift1"])
def test_where_the_normal_images_may_lie(tmp_path: Path, layout: str) -> None:
    for i in range(10):
        save(tmp_path / layout / f"{i}.png", i)
    save(tmp_path / "test" / "good" / "0.png")
    save(tmp_path / "test" / "dent" / "0.jpg", format="JPEG")
    save(tmp_path / "test" / "dent" / "line2" / "1.png")
    save(tmp_path / "test" / "new.png")
    save(tmp_path / "test" / "unknown" / "new.png")
    save_mask(tmp_path / "ground_truth" / "dent" / "line2" / "1.bmp")
    save_mask(tmp_path / "ground_truth" / "good" / "0.png")  # of no use
    heard: list[str] = []
    split = load("folder", tmp_path, notice=heard.append)
    assert heard == []
    assert len(split.train) + len(split.calibration) == 10
    kinds = dict(zip(split.test.names, split.defects, strict=True))
    assert kinds == {
        "test/dent/0.jpg": "dent",
        "test/dent/line2/1.png": "dent",
        "test/good/0.png": "good",
        "test/new.png": "unknown",
        "test/unknown/new.png": "unknown",
    }
    assert dict(zip(split.test.names, split.has_mask.tolist(), strict=True)) == {
        "test/dent/0.jpg": False,
        "test/dent/line2/1.png": True,
        "test/good/0.png": True,
        "test/new.png": False,
        "test/unknown/new.png": False,
    }
    assert split.masks.any((1, 2)).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("name", ["000.png", "000_mask.png", "000-mask.bmp", "000_gt.tif", "000_Mask.PNG"])
def test_names_of_masks(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    shutil.rmtree(tmp_path / "ground_truth")
    save_mask(tmp_path / "ground_truth" / "bent" / name)
    assert load("folder", tmp_path).has_mask.tolist() == [True, False, True, True, True, False, False]


def test_two_masks_of_one_image_and_masks_of_none(tmp_path: Path) -> None:
    make(tmp_path)
    save_mask(tmp_path / "ground_truth" / "bent" / "017_mask.png")
    heard: list[str] = []
    load("folder", tmp_path, notice=heard.append)
    assert len(heard) == 1
    assert "1 masks belong to no image" in heard[0]
    save_mask(tmp_path / "ground_truth" / "bent" / "000.png")
    with pytest.raises(DataError, match=r"000\.png and .*000_mask\.png are masks of one image"):
        load("folder", tmp_path)


def test_no_masks_at_all(tmp_path: Path) -> None:
    shutil.rmtree(make(tmp_path) / "ground_truth")
    split = load("folder", tmp_path)
    assert split.masks is split.has_mask is None
    assert split.describe().endswith("(3 normal, 4 anomalous), no masks")


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    make(tmp_path)
    save_mask(tmp_path / "ground_truth" / "bent" / "000_mask.png", (16, 12))
    with pytest.raises(DataError, match=r"000_mask\.png is 12x16 .*bent/000\.png is 16x12"):
        load("folder", tmp_path)


def test_a_damaged_training_image_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "train" / "good" / "004.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"train/good/004\.png.*replace it or leave it out") as caught:
        load("folder", tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--root"):
        load("folder", None)
    with pytest.raises(UsageError, match="no folder"):
        load("folder", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no images to train on.*\*\.png"):
        load("folder", tmp_path)
    save(tmp_path / "test" / "good" / "0.png")
    with pytest.raises(DataError, match="holds no images"):
        load("folder", tmp_path)
    save(tmp_path / "0.png")
    with pytest.raises(DataError, match="holds one image"):
        load("folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train holds no images"):
        load("folder", tmp_path)
    with pytest.raises(UsageError, match="leaves 10 to train and 0 to calibrate on"):
        load("folder", make(tmp_path / "x"), held_out=0.01)
    with pytest.raises(UsageError, match="no order"):
        load("folder", tmp_path / "x", preparation=Preparation((6, 8), frames=3))


def test_one_coloured_image_makes_the_set_coloured(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{i}.png", i)
    pixels = np.full((5, 5, 3), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "3.png")
    options = AnomalyOptions(root=tmp_path)
    assert default_preparation("folder", options).channels == 1
    pixels[2, 2, 0] = 101
    Image.fromarray(pixels).save(tmp_path / "3.png")
    assert default_preparation("folder", options).channels == 3
    assert load("folder", tmp_path, preparation=None).image_shape == (3, 256, 256)


def test_real_screw(real_data: Path) -> None:
    split = load("mvtec", real_data / "mvtec_ad", preparation=Preparation((128, 128)), held_out=0.1)
    assert split.counts == {
        "train": 288, "calibration": 32, "test": 160, "test_normal": 41, "test_anomalous": 119, "test_unknown": 0
    }  # fmt: skip
    assert len(set(split.defects)) == 6
    assert split.has_mask.all()
    at = split.test.names.index("mvtec/screw/test/thread_top/003.png")
    folder = real_data / "mvtec_ad" / "screw"
    mask = np.array(Image.open(folder / "ground_truth" / "thread_top" / "003_mask.png"))
    assert np.array_equal(split.masks[at].numpy(), mask[1::2, 1::2] > 0)
    image = np.array(Image.open(folder / "test" / "thread_top" / "003.png").convert("L")).astype(float)
    halved = image.reshape(128, 2, 128, 2).mean((1, 3))
    assert np.abs(split.test.images[at, 0].numpy() - halved).mean() < 3


def test_brightness_takes_the_lamp_off_the_real_screw(real_data: Path) -> None:
    """The good test images of this copy are darker than all others; afterwards they are not."""

    def apart(brightness: bool) -> float:
        preparation = Preparation((64, 64), brightness=brightness)
        test = load("mvtec", real_data / "mvtec_ad", preparation=preparation).test
        means = test.images.float().mean((1, 2, 3))
        return float(means[test.labels == 1].mean() - means[test.labels == 0].mean())

    assert apart(False) > 10
    assert abs(apart(True)) < 1


def test_real_magnetic_tile(real_data: Path) -> None:
    split = load("folder", real_data / "magnetic_tile", preparation=Preparation((64, 64)), held_out=0.1)
    assert split.counts == {
        "train": 450, "calibration": 50, "test": 492, "test_normal": 100, "test_anomalous": 392, "test_unknown": 0
    }  # fmt: skip
    assert len(set(split.defects)) == 6
    assert split.has_mask.all()
    share = split.masks.float().mean((1, 2))
    assert torch.equal(share > 0, (split.test.labels == 1) & (share > 0))
    assert (share[split.test.labels == 1] > 0).float().mean() > 0.95
    assert default_preparation("folder", AnomalyOptions(root=real_data / "magnetic_tile")).channels == 1
