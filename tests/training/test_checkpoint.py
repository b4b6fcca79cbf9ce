"""Checkpoints are whole or absent, and nothing in them runs."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vaelens.errors import RunError
from vaelens.training.checkpoint import KEY, RunState, read_checkpoint, write_checkpoint
from vaelens.training.fit import CHECKPOINT


def content() -> dict[str, Any]:
    weights = torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    return {"weights": weights, KEY: RunState({"epochs": 3}, {}, [{"epoch": 1, "train/loss": 2.5}], [0.1]).to_dict()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint(found, content())
    return found


def test_round_trip(path: Path) -> None:
    read, state = read_checkpoint(path)
    assert torch.equal(read["weights"], content()["weights"])
    assert state == RunState({"epochs": 3}, {}, [{"epoch": 1, "train/loss": 2.5}], [0.1])
    assert state.epochs_done == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RunError, match=r"last\.ckpt is damaged .*delete it and train from the start") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_one_changed_byte_in_a_weight(path: Path, place: float) -> None:
    whole = bytearray(path.read_bytes())
    whole[int(len(whole) * place)] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], content()["weights"])  # torch is content
    with pytest.raises(RunError, match="damaged"):
        read_checkpoint(path)


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_nothing_is_unpickled(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    torch.save({**content(), "more": Evil(target)}, path)
    with pytest.raises(RunError, match="damaged or no checkpoint"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # the trap works


@pytest.mark.parametrize("other", [{"weights": torch.zeros(1)}, {KEY: {"format": 99}}, {KEY: 3}])
def test_of_another_version(path: Path, other: dict[str, Any]) -> None:
    torch.save(other, path)
    with pytest.raises(RunError, match=r"last\.ckpt is not of this version"):
        read_checkpoint(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read checkpoint .*absent\.ckpt \(No such file"):
        read_checkpoint(tmp_path / "absent.ckpt")


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_a_full_disk_leaves_the_old_checkpoint(path: Path, size: int) -> None:
    before = path.read_bytes()
    with small_disk(size), pytest.raises(RunError, match=r"cannot write .*last\.ckpt \(File too large\): free space"):
        write_checkpoint(path, content())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_while_training(small: ModuleType, tmp_path: Path) -> None:
    with small_disk(50_000), pytest.raises(RunError, match=r"cannot write .*last\.ckpt"):
        small.train(tmp_path)
    assert small.train(tmp_path, resume=True)[1].epochs == 3


def test_a_file_in_the_way(small: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write .*taken.* \(Not a directory\): .*another output folder"):
        small.train(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file"


def test_resuming_from_a_damaged_checkpoint(small: ModuleType, tmp_path: Path) -> None:
    small.train(tmp_path, epochs=1)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
        small.train(tmp_path, resume=True)
    assert path.stat().st_size == 1000
