"""The idx file format of MNIST: a strict reader that trusts nothing the header says.

Layout: two zero bytes, one byte for the element type, one for the number of dimensions, each dimension as a big-endian
32-bit unsigned integer, then the elements, big-endian, last dimension fastest.
"""

from __future__ import annotations

import gzip
import math
import os
import stat
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vaelens.errors import DataError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot shrink data by more than 1032 to 1 (zlib's technical notes), so a gzip file bounds what it can hold.
_MAX_DEFLATE_RATIO = 1032
_HEADER_AT_LEAST = 8
_CHUNK = 1 << 20
_MEND = "replace it with an intact copy"


def read_idx(path: Path | str, max_bytes: int = 1 << 30) -> NDArray[Any]:
    """Read an idx file, plain or gzipped (told apart by content, not by suffix).

    Memory use is bounded by what the file holds, whatever its header declares.

    Args:
        path: the file.
        max_bytes: refuse files whose elements take more than this (1 GiB; MNIST's largest take 47 MB).

    Returns:
        A writable array in native byte order with the declared shape and element type.

    Raises:
        DataError: no such file, no idx file, corrupt gzip data, too short, too long, or larger than `max_bytes`.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            status = os.fstat(raw.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path} is no regular file, so no idx file can be read from it")
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not zipped:
                return _parse(path, raw, max(status.st_size - _HEADER_AT_LEAST, 0), max_bytes)
            with gzip.GzipFile(fileobj=raw) as unzipped:
                return _parse(path, unzipped, status.st_size * _MAX_DEFLATE_RATIO, max_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: its gzip data are damaged or cut short ({error}); {_MEND}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _parse(path: Path, stream: IO[bytes] | gzip.GzipFile, holds_at_most: int, max_bytes: int) -> NDArray[Any]:
    """Read the header and exactly the data that it declares; `holds_at_most` bounds the unpacked size of the file."""
    dtype, shape = _header(path, stream)
    size = math.prod(shape) * dtype.itemsize
    declared = f"its header declares {size:,} bytes of data ({' x '.join(map(str, shape))} of {dtype.itemsize})"
    if size == 0:
        raise DataError(f"{path}: {declared}, so there is nothing in it; {_MEND}")
    if size > holds_at_most:
        raise DataError(f"{path}: truncated, {declared} but the file holds at most {holds_at_most:,}; {_MEND}")
    if size > max_bytes:
        raise DataError(f"{path}: {declared}, more than the {max_bytes:,} that are read")
    data = bytearray()
    while len(data) < size and (chunk := stream.read(min(_CHUNK, size - len(data)))):
        data += chunk
    if len(data) < size:
        raise DataError(f"{path}: truncated, {declared} but the file ends after {len(data):,}; {_MEND}")
    if stream.read(1):  # also makes gzip reach its end and check the sum of what was read
        raise DataError(f"{path}: too long, {declared} but more follows them; {_MEND}")
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _header(path: Path, stream: IO[bytes] | gzip.GzipFile) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if not magic:
        raise DataError(f"{path} is empty; {_MEND}")
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= _MAX_DIMENSIONS:
        raise DataError(f"{path} is no idx file: it begins with {magic!r} where the idx magic number should be; {_MEND}")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated within its header; {_MEND}")
    return np.dtype(_DTYPES[magic[2]]), tuple(int(n) for n in np.frombuffer(sizes, dtype=">u4"))
