"""Decoding in parallel, and the cache of what was decoded: damaged, full, read-only, too large, shared."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens.data import cache, row_cache
from vaelens.data.brightness import normalise
from vaelens.data.cache import decode_all, decoded, decoded_masks, stacked
from vaelens.data.decode import read_image
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError, UsageError

SIZE = (5, 6)
PLAIN = Preparation(SIZE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(row_cache.LIMIT, raising=False)
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = []
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (10 + i, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
        made.append(tmp_path / f"{i:02d}.png")
    return made


def expected(paths: list[Path]) -> torch.Tensor:
    return torch.stack([read_image(path, 1, SIZE, convert=True) for path in paths])


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    seen: list[Path] = []
    read = Preparation.read
    monkeypatch.setattr(Preparation, "read", lambda self, path: seen.append(path) or read(self, path))
    return seen


@pytest.mark.parametrize("workers", [None, 1, 3, 30])
def test_decoded_once_and_in_order(
    paths: list[Path], workers: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = decodes(monkeypatch)
    steps: list[tuple[int, int]] = []
    first = decoded(paths[::-1], PLAIN, workers, lambda *step: steps.append(step))
    assert torch.equal(first, expected(paths[::-1]))
    assert sorted(seen) == paths
    assert steps == [(i + 1, 12) for i in range(12)]
    again = decoded(paths[::-1], PLAIN, workers, lambda *step: steps.append(step))
    assert torch.equal(again, first)
    assert len(seen) == len(steps) == 12
    assert len(files(folder)) == 1


def test_what_the_result_depends_on_is_in_the_key(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded(paths, PLAIN)
    seen = decodes(monkeypatch)
    decoded(paths[:-1], PLAIN)
    decoded([*paths[1:], paths[0]], PLAIN)
    decoded(paths, Preparation(SIZE, 3))
    decoded(paths, Preparation((6, 5)))
    bright = decoded(paths, Preparation(SIZE, brightness=True))
    assert torch.equal(bright, torch.stack([normalise(image) for image in expected(paths)]))
    assert len(seen) == 11 + 4 * 12
    Image.fromarray(np.full((10, 20), 9, np.uint8)).save(paths[0])
    os.utime(paths[0], ns=(0, 1))
    assert decoded(paths, PLAIN)[0].unique().tolist() == [9]
    assert len(seen) == 11 + 5 * 12
    decoded(paths, Preparation(SIZE, frames=3))  # neighbours are stacked afterwards
    assert len(seen) == 11 + 5 * 12


def test_writing_to_what_is_given_changes_no_file(paths: list[Path]) -> None:
    decoded(paths, PLAIN)
    decoded(paths, PLAIN).zero_()
    assert torch.equal(decoded(paths, PLAIN), expected(paths))


@pytest.mark.parametrize("how", ["empty", "cut head", "cut rows", "cut tail", "flip a bit", "another file", "longer"])
def test_a_damaged_file_is_made_anew(how: str, paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded(paths, PLAIN)
    (file,) = files(folder)
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[200] ^= 1
    file.write_bytes(
        {
            "empty": b"",
            "cut head": good[:50],
            "cut rows": good[:300],
            "cut tail": good[:-5],
            "flip a bit": bytes(flipped),
            "another file": b"text" * 999,
            "longer": good + b"x",
        }[how]
    )
    seen = decodes(monkeypatch)
    assert torch.equal(decoded(paths, PLAIN), expected(paths))
    assert len(seen) == 12
    decoded(paths, PLAIN)
    assert len(seen) == 12
    assert file.read_bytes() == good


def test_a_folder_in_the_place_of_the_file(paths: list[Path], folder: Path) -> None:
    decoded(paths, PLAIN)
    (file,) = files(folder)
    file.unlink()
    file.mkdir()
    assert torch.equal(decoded(paths, PLAIN), expected(paths))
    assert files(folder) == [file]


def test_a_cache_that_cannot_be_made(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "file"))
    assert torch.equal(decoded(paths, PLAIN), expected(paths))
    monkeypatch.setattr(row_cache, "cache_folder", lambda _: (_ for _ in ()).throw(DataError("no home")))
    assert torch.equal(decoded(paths, PLAIN), expected(paths))


@pytest.mark.parametrize("fallocate", [True, False])
def test_a_full_disk_costs_the_cache_alone(fallocate: bool, paths: list[Path], folder: Path) -> None:
    """In another process, in which no file may grow beyond 200 bytes; also where it is found out on the way only."""
    code = (
        "import os, resource, signal, sys; from pathlib import Path; from vaelens.data.cache import decoded\n"
        "from vaelens.data.preparation import Preparation\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        f"{'' if fallocate else 'del os.posix_fallocate'}\n"
        "print(int(decoded([Path(p) for p in sys.argv[1:]], Preparation((5, 6))).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(expected(paths).sum())
    assert files(folder) == []


def test_the_limit(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(row_cache.LIMIT, "0")
    decoded(paths, PLAIN)
    assert files(folder) == []
    monkeypatch.setenv(row_cache.LIMIT, str(359 / 2**30))  # 12 images of 30 bytes are more
    decoded(paths, PLAIN)
    assert files(folder) == []
    for text in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv(row_cache.LIMIT, text)
        with pytest.raises(UsageError, match=row_cache.LIMIT):
            decoded(paths, PLAIN)


def test_the_least_recently_used_goes_first(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    for size in (40, 41, 42):  # 20 kB each
        before = set(files(folder))
        decoded(paths, Preparation((40, size)))
        (made[size],) = set(files(folder)) - before
        os.utime(made[size], (size, size))
    stale = folder / (row_cache._STAGED + "killed")
    fresh = folder / (row_cache._STAGED + "busy")
    for path in (stale, fresh):
        path.touch()
    os.utime(stale, (1, 1))
    decoded(paths, Preparation((40, 40)))  # used again, so now the newest
    monkeypatch.setenv(row_cache.LIMIT, str(65_000 / 2**30))
    decoded(paths, Preparation((40, 43)))
    left = set(files(folder))
    assert made[41] not in left
    assert {made[40], made[42], fresh} <= left
    assert stale not in left
    assert sum(path.stat().st_size for path in left) <= 65_000


def test_what_is_in_use_outlives_its_removal(paths: list[Path], folder: Path) -> None:
    decoded(paths, PLAIN)
    held = decoded(paths, PLAIN)
    for path in files(folder):
        path.unlink()
    assert torch.equal(held, expected(paths))


def test_a_damaged_image_is_named_and_nothing_stays(paths: list[Path], folder: Path) -> None:
    paths[5].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"05\.png is no image"):
        decoded(paths, PLAIN)
    assert files(folder) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vaelens-decode")]
    with pytest.raises(DataError, match=r"cannot read .*gone\.png"):
        decoded([*paths[:3], paths[0].with_name("gone.png")], PLAIN)


def test_damaged_images_are_left_out_where_they_may_be(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for i in (0, 5):
        paths[i].write_bytes(b"no image")
    good = [path for i, path in enumerate(paths) if i not in (0, 5)]
    first = decode_all(paths, PLAIN)
    seen = decodes(monkeypatch)
    for result in (first, decode_all(paths, PLAIN)):
        assert torch.equal(result.images, expected(good))
        assert result.whole == tuple(i not in (0, 5) for i in range(12))
        assert [line.partition(" is no image")[0] for line in result.damaged] == [str(paths[0]), str(paths[5])]
    assert seen == []
    for path in paths:
        path.write_bytes(b"no image")
    for _ in range(2):
        assert decode_all(paths, PLAIN).images.shape == (0, 1, *SIZE)


def test_no_images() -> None:
    assert decoded([], PLAIN).shape == (0, 1, *SIZE)


def test_threads_never_run_far_ahead(paths: list[Path]) -> None:
    begun: list[int] = []
    made = cache._in_order(lambda i: begun.append(i) or i, range(1000), 2, None)  # type: ignore[func-returns-value]
    assert next(made) == 0
    time.sleep(0.05)
    assert len(begun) <= 2 * cache._AHEAD
    assert list(made) == list(range(1, 1000))


def test_workers_are_checked(paths: list[Path]) -> None:
    with pytest.raises(UsageError, match="workers"):
        decoded(paths, PLAIN, workers=0)


def test_several_at_once(paths: list[Path], folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: decoded(paths, PLAIN), range(16)))
    assert all(torch.equal(result, expected(paths)) for result in results)
    assert len(files(folder)) == 1


def test_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on = np.zeros((10, 12), np.uint8)
    image, empty, full, speck = (tmp_path / f"{name}.png" for name in ("image", "empty", "full", "speck"))
    Image.fromarray(on).save(image)
    Image.fromarray(on).save(empty)
    Image.fromarray(on + 255).save(full)
    on[0, 0] = 1
    Image.fromarray(on).save(speck)
    pairs = [(full, image), None, (empty, image), (speck, image)]
    for _ in range(2):
        masks, marks = decoded_masks(pairs, SIZE)
        assert masks.dtype == torch.bool
        assert masks.flatten(1).sum(1).tolist() == [30, 0, 0, 0]
        assert marks.tolist() == [True, False, False, True]
        monkeypatch.setattr("vaelens.data.masks.read_mask", None)  # from the cache the second time


def test_stacked_by_hand(paths: list[Path]) -> None:
    frames = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 1, *SIZE)
    for _ in range(2):
        three = stacked(paths, frames, [5, 1, 6], Preparation(SIZE, frames=3))
        assert three.shape == (12, 3, *SIZE)
        assert three[:, :, 2, 3].tolist() == [
            [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4], [5, 5, 5],
            [6, 6, 7], [6, 7, 8], [7, 8, 9], [8, 9, 10], [9, 10, 11], [10, 11, 11],
        ]  # fmt: skip
    five = stacked(paths, frames, [12], Preparation(SIZE, frames=5))
    assert five[0, :, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert stacked(paths, frames, [12], PLAIN) is frames
    with pytest.raises(UsageError, match="11 frames, not 12"):
        stacked(paths, frames, [5, 6], Preparation(SIZE, frames=3))
