"""The official dSprites file: small ones of its make, every way such a file can be wrong, and one of the real size."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import math
import os
import re
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaelens.data.sprites import Sprites, load, load_official, official, render
from vaelens.errors import DataError, UsageError

SMALL = (3, 2, 4, 3, 3)  # so many values of each factor
COUNT = math.prod(SMALL)
GRID = np.stack(np.unravel_index(np.arange(COUNT), (1, *SMALL)), axis=1)
IMAGES = render(GRID[:, 1:]).astype(np.uint8)
PACKED = np.packbits(IMAGES.reshape(COUNT, -1), axis=1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official file has as few images as the ones written here, and what is loaded are its packed images."""
    monkeypatch.setattr(official, "SIZES", SMALL)
    monkeypatch.setattr(official, "Sprites", lambda packed: packed)


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str, version: bytes = b"\1\0") -> bytes:
    """The start of an npy file whose header has this text."""
    content = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(content).to_bytes(2 if version[0] == 1 else 4, "little") + content


def write(path: Path, compression: int = zipfile.ZIP_DEFLATED, **changes: bytes | None) -> Path:
    """A small official file; `changes` are contents of members by name, None to leave one out."""
    members: dict[str, bytes | None] = {
        "metadata": npy(np.array({"title": "dSprites dataset"}, dtype=object)),
        "imgs": npy(IMAGES),
        "latents_classes": npy(GRID),
        "latents_values": npy(GRID.astype(float)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (members | changes).items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        official._read(path, SMALL)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("at_once", [1, 50, COUNT, 4096])
def test_reads_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: int, at_once: int) -> None:
    monkeypatch.setattr(official, "_AT_ONCE", at_once)
    monkeypatch.setattr(official, "_PIECE", 1000)
    packed = official._read(write(tmp_path / "file.npz", compression), SMALL)
    assert packed.dtype == np.uint8
    assert packed.flags.writeable
    assert np.array_equal(packed, PACKED)


def test_as_numpy_and_python_2_write_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "numpy.npz"
    np.savez_compressed(path, imgs=IMAGES, latents_classes=GRID, metadata=np.array({"a": 1}, dtype=object))
    assert np.array_equal(official._read(path, SMALL), PACKED)
    old = header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({COUNT}L, 64L, 64L), }}") + IMAGES.tobytes()
    assert np.array_equal(official._read(write(tmp_path / "old.npz", imgs=old), SMALL), PACKED)
    columns = npy(np.asfortranarray(GRID))  # such small ones are read whole, in either order
    assert np.array_equal(official._read(write(tmp_path / "columns.npz", latents_classes=columns), SMALL), PACKED)
    assert not recwarn.list


def test_roots(tmp_path: Path, small: None) -> None:
    write(tmp_path / "folder" / official.FILE)
    before = sorted(tmp_path.rglob("*"))
    assert load_official(tmp_path / "folder").numpy().tolist() == PACKED.tolist()
    renamed = write(tmp_path / "my sprites.npz")
    assert torch.equal(load_official(renamed), torch.from_numpy(PACKED))
    assert torch.equal(load(renamed), torch.from_numpy(PACKED))
    assert sorted(tmp_path.rglob("*")) == [*before, renamed]


def test_roots_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "x" * 5000, "a\0b", "two\nlines", "pipe"):
        for refuse in (load_official, load):
            with pytest.raises(UsageError, match=r"does not exist or is neither.*--root") as caught:
                refuse(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "data" / official.FILE).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for refuse in (load_official, load):
        with pytest.raises(DataError) as caught:
            refuse(tmp_path / "data")
        assert f"{tmp_path / 'data'} lacks {official.FILE}; put it there" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_root_all_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "Sprites", lambda: "drawn")
    assert load() == "drawn"


def test_cache_folder_filled_by_hand(tmp_path: Path, small: None) -> None:
    write(tmp_path / "cache" / "dsprites" / official.FILE)
    assert torch.equal(load_official(mirrors=["http://127.0.0.1:9/"]), torch.from_numpy(PACKED))


def test_without_download_the_cache_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_official(download=False)
    assert f"{tmp_path / 'cache' / 'dsprites'} lacks {official.FILE}; put it there, or allow" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_offline_says_where_to_put_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_official(mirrors=["http://127.0.0.1:9/a/", "http://127.0.0.1:9/b"])  # the discard port: nobody listens
    message = str(caught.value)
    assert f"cannot download {official.FILE}" in message
    assert message.endswith(f"put it into {tmp_path / 'cache' / 'dsprites'} by hand")
    assert "\n" not in message


def test_damaged_file_in_the_cache_says_to_delete_it(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "dsprites" / official.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"no npz file.*delete it from the cache to have it downloaded again"):
        load_official()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which this machine serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_downloaded_once(served: tuple[Path, str], tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write(served[0] / official.FILE).read_bytes()
    monkeypatch.setattr(official, "MD5", hashlib.md5(content).hexdigest())
    steps: list[tuple[str, int, int | None]] = []
    packed = load_official(progress=lambda *step: steps.append(step), mirrors=["http://127.0.0.1:9", served[1]])
    assert torch.equal(packed, torch.from_numpy(PACKED))
    assert steps[-1] == (official.FILE, len(content), len(content))
    assert [path.name for path in (tmp_path / "cache" / "dsprites").iterdir()] == [official.FILE]
    assert torch.equal(load_official(mirrors=["http://127.0.0.1:9"]), packed)


def test_a_download_with_another_checksum_is_refused(served: tuple[Path, str], tmp_path: Path, small: None) -> None:
    write(served[0] / official.FILE)
    with pytest.raises(DataError, match=f"wrong checksum.*md5 {official.MD5}.*put it into .* by hand"):
        load_official(mirrors=[served[1]])
    assert list((tmp_path / "cache" / "dsprites").iterdir()) == []


GREY = IMAGES.copy()
GREY[100, 30, 30] = 255
SWAPPED = np.ascontiguousarray(GRID[:, [0, 1, 2, 3, 5, 4]])
SHIFTED = GRID.copy()
SHIFTED[7, 0] = 1
ONE_WRONG = IMAGES.copy()
ONE_WRONG[150] = IMAGES[3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imgs": None}, "lacks imgs, so it is not the official"),
        ({"latents_classes": None}, "lacks latents_classes, so it is not the official"),
        ({"imgs": npy(IMAGES[:-1])}, r"imgs is uint8 \(215, 64, 64\) and must be uint8 \(216, 64, 64\)"),
        ({"imgs": npy(IMAGES[:, :, :32])}, r"imgs is uint8 \(216, 64, 32\)"),
        ({"imgs": npy(IMAGES[..., None])}, r"imgs is uint8 \(216, 64, 64, 1\)"),
        ({"imgs": npy(IMAGES.astype(bool))}, "imgs is bool .* must be uint8"),
        ({"imgs": npy(IMAGES.astype(np.float32))}, "imgs is float32 .* must be uint8"),
        ({"imgs": npy(np.asfortranarray(IMAGES))}, "imgs is in Fortran order"),
        ({"imgs": npy(np.array([{}, {}], dtype=object))}, r"imgs is object \(2,\)"),
        ({"imgs": npy(GREY)}, "image 100 has the value 255, and sprites only 0 and 1"),
        ({"imgs": npy(IMAGES)[:-1]}, "imgs takes 884,735 bytes where there must be 884,736"),
        ({"imgs": npy(IMAGES) + b"\0"}, "imgs takes 884,737 bytes where there must be 884,736"),
        ({"imgs": npy(IMAGES) + bytes(50_000_000)}, "imgs takes 50,884,736 bytes"),  # a zip bomb
        ({"imgs": b""}, "imgs is damaged or cut short"),
        ({"imgs": b"\x93NUM"}, "imgs is damaged or cut short"),
        ({"imgs": b"<!DOCTYPE html>"}, "imgs is damaged or cut short"),
        ({"imgs": header("{'descr': '|u1'}")}, "imgs is damaged or cut short"),
        ({"imgs": header("{'descr': ")}, "imgs is damaged or cut short"),
        ({"imgs": header("{'a': '''")}, "imgs is damaged or cut short"),
        ({"imgs": header("(" * 9000)}, "imgs is damaged or cut short"),
        ({"imgs": header("-" * 9000 + "1")}, "imgs is damaged or cut short"),
        ({"imgs": header("{}" + " " * 60_000)}, "imgs is damaged or cut short"),
        ({"imgs": header("{'descr': '|u1', 'fortran_order': False, 'shape': (216, 64, 64), }", b"\2\0")}, "not npy format 1.0"),
        ({"imgs": b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(50_000_000)}, "not npy format 1.0"),
        ({"latents_classes": npy(GRID[:-1])}, r"latents_classes is int64 \(215, 6\) and must be int64 \(216, 6\)"),
        ({"latents_classes": npy(GRID[:, 1:])}, r"latents_classes is int64 \(216, 5\)"),
        ({"latents_classes": npy(GRID.astype(float))}, "latents_classes is float64"),
        ({"latents_classes": npy(GRID.astype(object))}, r"latents_classes is object \(216, 6\)"),
        (
            {"latents_classes": npy(SWAPPED)},
            r"factors that do not match: image 1 has colour, shape, .*posY = \[0, 0, 0, 0, 1, 0\], not \[0, 0, 0, 0, 0, 1\]",
        ),
        ({"latents_classes": npy(SHIFTED)}, r"image 7 has colour, .* = \[1, 0, 0, 0, 2, 1\], not \[0, 0, 0, 0, 2, 1\]"),
        ({"latents_classes": npy(GRID[::-1])}, "factors that do not match: image 0"),
        ({"imgs": npy(IMAGES[::-1])}, r"images that do not match their factors: \d+ pixels of image \d+ differ from what"),
        ({"imgs": npy(np.roll(IMAGES, 1, axis=0))}, "images that do not match their factors"),
        ({"imgs": npy(ONE_WRONG)}, r"images that do not match their factors: \d+ pixels of image 150 differ"),
        ({"imgs": npy(np.roll(IMAGES, 1, axis=2))}, "images that do not match their factors"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str) -> None:
    monkeypatch.setattr(official, "_AT_ONCE", 50)
    path = write(tmp_path / "bad.npz", **changes)
    tracemalloc.start()
    try:
        message = complaint(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert re.search(words, message)
    assert "; replace it with an intact copy of the official file" in message


def test_no_memory_is_taken_for_images_that_are_not_there(tmp_path: Path) -> None:
    """A file that promises the real size in its headers and sizes, and has nothing of it."""
    liar = header("{'descr': '|u1', 'fortran_order': False, 'shape': (737280, 64, 64), }")
    path = tmp_path / "liar.npz"
    grid = (3, 6, 40, 32, 32)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("latents_classes.npy", npy(np.stack(np.unravel_index(np.arange(737_280), (1, *grid)), axis=1)))
        archive.writestr("imgs.npy", liar + bytes(10_000))
        archive.infolist()[1].file_size = len(liar) + 737_280 * 4096
    with pytest.raises(DataError, match="imgs is damaged or cut short"):
        official._read(path, grid)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path: Path, compression: int) -> None:
    assert "latents_classes is encrypted, or compressed as numpy" in complaint(write(tmp_path / "file.npz", compression))


def test_encryption_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file.npz")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        places = [content.index(b"PK\1\2", archive.start_dir)]
    for _ in range(3):
        places.append(content.index(b"PK\1\2", places[-1] + 1))
    for place in places:
        content[place + 8] |= 1
    path.write_bytes(content)
    assert "latents_classes is encrypted" in complaint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no npz file"),
        (b"<!DOCTYPE html><html>", "is no npz file"),
        (b"version https://git-lfs.github.com/spec/v1", "is no npz file"),
        (npy(IMAGES[:1]), "is no npz file"),
        (b"PK\5\6" + bytes(18), "lacks latents_classes"),
    ],
)
def test_no_npz_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    assert words in complaint(path)


def test_every_kind_of_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in [*range(0, len(whole), 97), *range(len(whole) - 100, len(whole))]:
        path.write_bytes(whole[:length])
        assert "is no npz file, or not all of one" in complaint(path)


def test_a_file_of_which_the_middle_is_missing(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "hole.npz"
    for start in range(0, len(whole) - 2000, 499):
        path.write_bytes(whole[:start] + whole[start + 300 :])
        assert "intact copy" in complaint(path)


def test_a_flipped_pixel_is_caught_by_the_checksum(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "file.npz", zipfile.ZIP_STORED).read_bytes())
    place = content.index(IMAGES[0].tobytes()[1000:2000]) + 5000
    content[place] ^= 1
    path = tmp_path / "flipped.npz"
    path.write_bytes(content)
    assert "imgs is damaged or cut short (Bad CRC-32" in complaint(path)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), tail=st.booleans())
def test_a_changed_byte_never_raises_another_error(tmp_path: Path, place: float, value: int, tail: bool) -> None:
    path = tmp_path / "whole.npz"
    content = bytearray(path.read_bytes() if path.exists() else write(path).read_bytes())
    # the directory of the archive is its last few hundred bytes
    at = len(content) - 1 - int(place * 400) if tail else int(place * len(content))
    content[at] = value
    changed = tmp_path / "changed.npz"
    changed.write_bytes(content)
    try:
        packed, message = official._read(changed, SMALL), ""
    except DataError as error:
        packed, message = None, str(error)
    assert "\n" not in message
    assert packed is None or np.array_equal(packed, PACKED)  # the checksums guard the content


def test_metadata_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    trap = npy(np.array(Trap(), dtype=object))
    assert np.array_equal(official._read(write(tmp_path / "file.npz", metadata=trap), SMALL), PACKED)
    complaint(write(tmp_path / "bad.npz", imgs=trap, latents_classes=trap))
    assert not (tmp_path / "sprung").exists()


def test_no_file_a_folder_a_pipe_and_one_that_may_not_be_read(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "missing")
    assert "Is a directory" in complaint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "pipe").open("r+b", buffering=0):  # a writer at the other end, or opening it would wait
        assert "no regular file" in complaint(tmp_path / "pipe")
    if os.geteuid():  # root may read all
        path = write(tmp_path / "secret.npz")
        path.chmod(0)
        assert "Permission denied" in complaint(path)


LOADING = """
import re, sys, time
from pathlib import Path
import numpy as np
from vaelens.data.sprites import load_official

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before, start = peak(), time.perf_counter()
sprites = load_official(Path(sys.argv[1]))
print(peak() - before, time.perf_counter() - start)
np.save(sys.argv[2], sprites.packed.numpy())
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory held from /proc")
def test_a_file_of_the_real_size(tmp_path: Path) -> None:
    drawn = Sprites()
    path = tmp_path / official.FILE
    shape = f"({len(drawn)}L, 64L, 64L)"  # as Python 2 wrote it
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("imgs.npy", "w", force_zip64=True) as member:
            member.write(header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"))
            for part in drawn.packed.split(4096):
                member.write(np.unpackbits(part.numpy(), axis=1).tobytes())
        factors = np.concatenate([np.zeros((len(drawn), 1), np.int64), drawn.factors()], axis=1)
        archive.writestr("latents_classes.npy", npy(factors))
        archive.writestr("metadata.npy", npy(np.array({}, dtype=object)))
    command = [sys.executable, "-c", LOADING, str(tmp_path), str(tmp_path / "packed.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    print(f"{path.stat().st_size / 2**20:.0f} MiB; MiB taken and seconds: {done.stdout}")
    assert np.array_equal(np.load(tmp_path / "packed.npy", mmap_mode="r"), drawn.packed.numpy())
    assert float(done.stdout.split()[0]) < 450
