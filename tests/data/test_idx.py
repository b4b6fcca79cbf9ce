"""The idx reader against files written here by hand: every type, and every way a file can lie about itself."""

from __future__ import annotations

import gzip
import math
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaelens.data.idx import read_idx
from vaelens.errors import DataError


def packed(content: bytes) -> bytes:
    """The same bytes at any time: they are part of the tests' names, on which all workers must agree."""
    return gzip.compress(content, mtime=0)


CODES = {"B": 0x08, "b": 0x09, "h": 0x0B, "i": 0x0C, "f": 0x0D, "d": 0x0E}
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def header(code: int, *shape: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("letter", CODES)
def test_reads_every_element_type(tmp_path: Path, letter: str, zipped: bool) -> None:
    low, high = (0, 255) if letter == "B" else (-100, 100)
    values = [low, high, 1, 2, 3, 4]
    content = header(CODES[letter], 3, 2) + struct.pack(f">6{letter}", *values)
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content) if zipped else content)
    array = read_idx(path)
    assert array.shape == (3, 2)
    assert array.dtype == np.dtype(letter)
    assert array.dtype.isnative
    assert array.flags.writeable
    assert array.ravel().tolist() == values


@quick
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_round_trip(tmp_path: Path, shape: list[int], data: st.DataObject) -> None:
    payload = data.draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
    path = tmp_path / "data"
    path.write_bytes(header(0x08, *shape) + payload)
    assert np.array_equal(read_idx(path), np.array(list(payload), np.uint8).reshape(shape))


GOOD = header(0x08, 2, 3) + bytes(range(6))


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_truncation_of_a_plain_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut"
    path.write_bytes(GOOD[:length])
    assert "intact copy" in complaint(path)


@pytest.mark.parametrize("length", range(len(packed(GOOD))))
def test_every_truncation_of_a_gzip_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(packed(GOOD)[:length])
    assert "intact copy" in complaint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (GOOD + b"x", "too long"),
        (packed(GOOD + b"x"), "too long"),
        (packed(GOOD[:-2]), "truncated.*6 bytes.*ends after 4"),
        (GOOD[:-2], "truncated"),
        (b"<!DOCTYPE html><html>", "no idx file.*<!DO"),
        (b"version https://git-lfs.github.com/spec/v1", "no idx file"),
        (packed(b"PNG, really"), "no idx file"),
        (packed(packed(GOOD)), "no idx file"),
        (b"\x01\x00\x08\x01" + GOOD[4:], "no idx file"),
        (b"\x00\x00\x0a\x02" + GOOD[4:], "no idx file"),
        (b"\x00\x00\x08\x00" + GOOD[4:], "no idx file"),
        (b"\x00\x00\x08\xff" + GOOD[4:], "no idx file"),
        (header(0x08, 0, 28), "nothing in it"),
        (packed(GOOD) + b"trailing", "gzip data are damaged"),
        (packed(b""), "is empty"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    import re

    path = tmp_path / "bad"
    path.write_bytes(content)
    assert re.search(words, complaint(path))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(2**32 - 1,), (2**32 - 1,) * 8, (60_000, 28, 28)])
def test_absurd_sizes_allocate_nothing(tmp_path: Path, shape: tuple[int, ...], zipped: bool) -> None:
    content = header(0x0E, *shape) + b"\1" * 100
    path = tmp_path / "liar"
    path.write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        assert "truncated" in complaint(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(200_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        assert "too long" in complaint(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_limit_on_size(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(GOOD)
    assert read_idx(path, max_bytes=6).size == 6
    with pytest.raises(DataError, match="more than the 5 that are read"):
        read_idx(path, max_bytes=5)


@quick
@given(position=st.integers(0, len(gzip.compress(GOOD)) - 1), value=st.integers(0, 255), zipped=st.booleans())
def test_a_changed_byte_never_raises_another_error(tmp_path: Path, position: int, value: int, zipped: bool) -> None:
    content = bytearray(gzip.compress(GOOD, mtime=0) if zipped else GOOD)
    content[position % len(content)] = value
    path = tmp_path / "mutated"
    path.write_bytes(content)
    try:
        array, message = read_idx(path), ""
    except DataError as error:
        array, message = None, str(error)
    assert "\n" not in message
    if array is not None:
        assert array.size * array.itemsize == 6
        if zipped:  # the checksum guards the content
            assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_no_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "missing")
    assert "Is a directory" in complaint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "pipe").open("r+b", buffering=0):  # a writer at the other end, or opening it would wait
        assert "no regular file" in complaint(tmp_path / "pipe")


def test_real_files(real_data: Path) -> None:
    images = read_idx(real_data / "mnist" / "t10k-images-idx3-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert images.dtype == np.uint8
    labels = read_idx(real_data / "mnist" / "t10k-labels-idx1-ubyte.gz")
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
