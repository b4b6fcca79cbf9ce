"""The official dSprites file: 26 MB that hold 3 GB of images, read a piece at a time into 378 MB of bits."""

from __future__ import annotations

import errno
import math
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaelens.data.download import Progress, cache_folder, fetch
from vaelens.data.files import shown
from vaelens.data.sprites.geometry import FACTORS, SIDE, SIZES, render
from vaelens.data.sprites.packed import ROW_BYTES
from vaelens.data.sprites.sprites import Sprites
from vaelens.errors import DataError, UsageError

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
MD5 = "7da33b31b13a06f4b04a70402ce90c2e"
MIRRORS = (
    "https://raw.githubusercontent.com/google-deepmind/dsprites-dataset/master/",
    "https://github.com/google-deepmind/dsprites-dataset/raw/master/",
)
_AT_ONCE = 4096
_PIECE = 1 << 20
_COMPARED, _MOST_PIXELS, _MOST_OF_ONE = 1024, 8, 40  # neighbours by position differ by some twenty, right ones by 12 at most
_MEND = "replace it with an intact copy of the official file"
# What zipfile and numpy raise on damaged bytes, besides OSError.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    OverflowError,
)


def load(root: Path | None = None, progress: Progress | None = None) -> Sprites:
    """The registry's loader: drawn from the geometry, which takes seconds; with a root, read from the official file there.

    Args:
        root: see `load_official`; None: drawn.
        progress: not called, for nothing is downloaded.

    Raises:
        UsageError: there is no such root.
        DataError: see `load_official`.
    """
    return Sprites() if root is None else load_official(root, download=False, progress=progress)


def load_official(
    root: Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
    mirrors: Sequence[str] = MIRRORS,
) -> Sprites:
    """Load dSprites from its official file, `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`.

    It takes some seconds and little more memory than the result, 378 MB. Nothing is unpickled.

    Args:
        root: the file, whatever its name, or the folder that holds it. Nothing is ever written there. None: the cache folder
            ($VAELENS_CACHE/dsprites, else ~/.cache/vaelens/dsprites).
        download: without a root, download the file (26 MB) where the cache folder lacks it.
        progress: called during a download with (file name, bytes so far, bytes in all or None).
        mirrors: addresses of folders that hold the file.

    Returns:
        All 737,280 images with the interface of the drawn ones, `Sprites()`.

    Raises:
        UsageError: the root is neither a folder nor a file.
        DataError: the file is missing (the message names the folder), cannot be downloaded (it says where to put the file by
            hand) or read, is damaged, or holds something else.
    """
    if root is not None:
        return Sprites(torch.from_numpy(_read(_find(Path(root)), SIZES)))
    path = cache_folder("dsprites") / FILE
    if not path.is_file():
        if not download:
            raise DataError(f"{shown(path.parent)} lacks {FILE}; put it there, or allow the download")
        fetch(FILE, [f"{mirror.rstrip('/')}/{FILE}" for mirror in mirrors], path, MD5, progress=progress)
    try:
        return Sprites(torch.from_numpy(_read(path, SIZES)))
    except DataError as error:
        raise DataError(f"{error}; or delete it from the cache to have it downloaded again") from None


def _find(root: Path) -> Path:
    # os.path's functions, unlike those of Path, never raise on a path that is too long
    if os.path.isfile(root):  # noqa: PTH113
        return root
    if not os.path.isdir(root):  # noqa: PTH112
        raise UsageError(f"the dSprites folder or file {shown(root)} does not exist or is neither; name it by --root")
    path = root / FILE
    if not os.path.isfile(path):  # noqa: PTH113
        raise DataError(f"{shown(root)} lacks {FILE}; put it there, or name no root to have the sprites drawn")
    return path


def _read(path: Path, sizes: tuple[int, ...]) -> NDArray[np.uint8]:
    """The packed images (N, 512) of an official file with so many values of each factor, posY fastest.

    Raises:
        DataError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError(f"{shown(path)} is no regular file; {_MEND}")
            try:
                archive = zipfile.ZipFile(file)
            except _DAMAGE as error:
                raise DataError(f"{shown(path)} is no npz file, or not all of one ({_why(error)}); {_MEND}") from None
            with archive:
                _check_factors(path, archive, sizes)
                packed = _images(path, archive, math.prod(sizes))
                _check_images(path, packed, sizes)
                return packed
    except OSError as error:
        if error.errno == errno.EINVAL:  # a damaged archive points to a place before its beginning
            raise DataError(f"{shown(path)} is damaged; {_MEND}") from None
        raise DataError(f"cannot read {shown(path)}: {error.strerror or error}") from None


def _check_factors(path: Path, archive: zipfile.ZipFile, sizes: tuple[int, ...]) -> None:
    """Refuse a file whose images are not every combination of the factors in the official order."""
    count = math.prod(sizes)
    # read whole, for they take little, and so in whatever order they are in memory
    ((_, rows),) = _rows(path, archive, "latents_classes", np.dtype(np.int64), (count, 1 + len(sizes)), count)
    grid = np.stack(np.unravel_index(np.arange(count), (1, *sizes)), axis=1)  # the first is the colour, of which there is one
    differ = np.flatnonzero((rows != grid).any(axis=1))
    if len(differ):
        first = int(differ[0])
        raise DataError(
            f"{shown(path)} has factors that do not match: image {first} has colour, {', '.join(FACTORS)} = "
            f"{rows[first].tolist()}, not {grid[first].tolist()}; {_MEND}"
        )


def _images(path: Path, archive: zipfile.ZipFile, count: int) -> NDArray[np.uint8]:
    packed = np.empty((count, SIDE * ROW_BYTES), np.uint8)  # taken from the system as it is filled
    for start, rows in _rows(path, archive, "imgs", np.dtype(np.uint8), (count, SIDE, SIDE), _AT_ONCE):
        if rows.max() > 1:
            image = start + int(np.argmax(rows.max(axis=(1, 2)) > 1))
            raise DataError(f"{shown(path)}: image {image} has the value {rows.max()}, and sprites only 0 and 1; {_MEND}")
        packed[start : start + len(rows)] = np.packbits(rows.reshape(len(rows), -1), axis=1)
    return packed


def _check_images(path: Path, packed: NDArray[np.uint8], sizes: tuple[int, ...]) -> None:
    """Refuse images that are of other factors than the file says: the official ones are drawn within two pixels in the mean."""
    numbers = np.linspace(0, len(packed) - 1, min(_COMPARED, len(packed))).astype(np.int64)
    drawn = render(np.stack(np.unravel_index(numbers, sizes), axis=1))
    differing = (np.unpackbits(packed[numbers], axis=1).reshape(drawn.shape) != drawn).sum((1, 2))
    if differing.mean() > _MOST_PIXELS or differing.max() > _MOST_OF_ONE:
        worst = int(differing.argmax())
        raise DataError(
            f"{shown(path)} has images that do not match their factors: {differing[worst]} pixels of image {numbers[worst]} "
            f"differ from what its factors make, {differing.mean():.0f} in the mean over {len(numbers)} images; {_MEND}"
        )


def _rows(
    path: Path, archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], at_once: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """(Number of the first row, rows) of one array of an npz file, some at a time in the same memory.

    Nothing that the file declares decides how much memory is taken.

    Raises:
        DataError: it is not there, is of another type or shape, or is damaged.
    """
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(f"{shown(path)} lacks {name}, so it is not the official dSprites file; {_MEND}") from None
    # Only these are unpacked in bounded memory, and numpy writes no others.
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{shown(path)}: {name} is encrypted, or compressed as numpy compresses nothing; {_MEND}")
    try:
        with archive.open(info) as member:
            has, fortran, kind = _header(member)
            if (has, kind) != (shape, dtype):
                raise DataError(f"{shown(path)}: {name} is {kind} {has} and must be {dtype} {shape}; {_MEND}")
            if fortran and at_once < shape[0]:
                raise DataError(f"{shown(path)}: {name} is in Fortran order and must be in C order; {_MEND}")
            size, declared = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
            if declared != size:
                raise DataError(f"{shown(path)}: {name} takes {declared:,} bytes where there must be {size:,}; {_MEND}")
            memory = np.empty((min(at_once, shape[0]), *shape[1:]), dtype)
            for start in range(0, shape[0], len(memory)):
                rows = memory[: shape[0] - start]
                _fill(rows.reshape(-1).view(np.uint8).data, member)
                yield start, rows.reshape(shape[::-1]).T if fortran else rows
    except _DAMAGE as error:
        raise DataError(f"{shown(path)}: {name} is damaged or cut short ({_why(error)}); {_MEND}") from None


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran order, and type of the array that follows."""
    # A header of a later version may take gigabytes; numpy writes none for such arrays.
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("not npy format 1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the official file was written by Python 2, of which numpy would warn
        try:
            return np.lib.format.read_array_header_1_0(member)
        except MemoryError:  # what Python's parser raises on brackets within brackets
            raise ValueError("its header cannot be parsed") from None


def _fill(memory: memoryview, member: IO[bytes]) -> None:
    have = 0
    while have < len(memory):
        # a large read would be put together from many pieces, each time copying what is there
        piece = member.read(min(_PIECE, len(memory) - have))
        if not piece:
            raise EOFError("it ends too early")
        memory[have : have + len(piece)] = piece
        have += len(piece)


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
