"""MNIST: the real files, every layout they come in, and folders that hold something else."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from vaelens.data.mnist import FILES, load, load_mnist
from vaelens.errors import DataError, UsageError

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8), "t10k": RNG.integers(0, 256, (3, 28, 28), np.uint8)}
LABELS = {"train": np.array([0, 1, 2, 9, 1, 1, 0], np.uint8), "t10k": np.array([1, 0, 9], np.uint8)}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, dotted: bool = False, zipped: bool = True, **changes: bytes) -> None:
    """The four files of a tiny MNIST; `changes` replaces contents by name with _ for -."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for kind, arrays in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
            name = f"{part}-{kind}-ubyte"
            content = changes.get(name.replace("-", "_"), idx(arrays[part]))
            spelled = name.replace("-idx", ".idx") if dotted else name
            (folder / (spelled + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("below", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_layout(tmp_path: Path, below: str, dotted: bool, zipped: bool) -> None:
    write(tmp_path / below, dotted, zipped)
    train, test = load_mnist(tmp_path)
    assert np.array_equal(train.images[:, 0].numpy(), IMAGES["train"])
    assert np.array_equal(test.images[:, 0].numpy(), IMAGES["t10k"])
    assert train.labels is not None
    assert train.labels.tolist() == LABELS["train"].tolist()
    assert test.names == ("mnist/test/00000", "mnist/test/00001", "mnist/test/00002")
    assert train.names[6] == "mnist/train/00006"


def test_folders_that_bear_a_files_name_are_passed_over(tmp_path: Path) -> None:
    """One popular archive unpacks to folders named like the files, beside the files with a dot."""
    write(tmp_path, dotted=True, zipped=False)
    for name in FILES:
        (tmp_path / name).mkdir()
    assert len(load_mnist(tmp_path)[0]) == 7


def test_missing_root(tmp_path: Path) -> None:
    for name in ("gone", "x" * 5000):
        with pytest.raises(UsageError, match="does not exist"):
            load_mnist(tmp_path / name)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="is no folder"):
        load_mnist(file)


def test_missing_files_are_named_and_nothing_is_written_into_the_root(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError) as caught:
        load_mnist(tmp_path, download=True)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "t10k-labels-idx1-ubyte.gz" in message
    assert "train" not in message.replace(str(tmp_path), "")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images_idx3_ubyte": idx(np.zeros((7, 32, 32), np.uint8))}, r"train-images.*\(7, 32, 32\)"),
        ({"train_images_idx3_ubyte": idx(LABELS["train"])}, r"train-images.*\(7,\)"),
        ({"train_labels_idx1_ubyte": idx(IMAGES["train"])}, r"train-labels.*\(7, 28, 28\)"),
        ({"train_labels_idx1_ubyte": idx(LABELS["t10k"])}, "7 images but .*train-labels.* 3 labels"),
        ({"t10k_labels_idx1_ubyte": idx(np.array([1, 2, 10], np.uint8))}, "t10k-labels.*label 10"),
        ({"t10k_images_idx3_ubyte": idx(IMAGES["t10k"])[:-1]}, "t10k-images.*truncated"),
        ({"train_images_idx3_ubyte": b"<html>"}, "train-images.*no idx file"),
        ({"train_labels_idx1_ubyte": b"\0\0\x0d\1\0\0\0\1\0\0\0\0"}, "train-labels.*float32"),
    ],
)
def test_wrong_content_names_the_file(tmp_path: Path, changes: dict[str, bytes], words: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as caught:
        load_mnist(tmp_path)
    assert "\n" not in str(caught.value)


def test_cache_folder_filled_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    write(tmp_path / "mnist", zipped=False)
    assert len(load(None)[0]) == 7


def test_without_download_the_cache_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load_mnist(download=False)
    assert str(tmp_path / "mnist") in str(caught.value)
    assert all(f"{name}.gz" in str(caught.value) for name in FILES)
    assert not (tmp_path / "mnist").exists()


def test_offline_names_the_folder_and_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError) as caught:
        load_mnist(mirrors=["http://127.0.0.1:9/mnist/"])  # the discard port: nobody listens
    message = str(caught.value)
    assert str(tmp_path / "mnist") in message
    assert all(f"{name}.gz" in message for name in FILES)
    assert "\n" not in message


def test_damaged_file_in_the_cache_says_to_delete_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    write(tmp_path / "mnist", train_images_idx3_ubyte=b"")
    with pytest.raises(DataError, match=r"train-images.*delete it from the cache"):
        load_mnist()


def test_real_mnist(real_data: Path) -> None:
    train, test = load_mnist(real_data / "mnist")
    assert train.labels is not None
    assert test.labels is not None
    assert torch.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (train.names[-1], test.names[-1]) == ("mnist/train/59999", "mnist/test/09999")
    for part, md5 in ((train, "6bbc9ace898e44ae57da46a324031adb"), (test, "2646ac647ad5339dbf082846283269ea")):
        assert hashlib.md5(idx(part.images[:, 0].numpy())).hexdigest() == md5
    # the published mean and standard deviation of the training pixels
    pixels = train.images.double() / 255
    assert round(float(pixels.mean()), 4) == 0.1307
    assert round(float(pixels.std()), 4) == 0.3081
