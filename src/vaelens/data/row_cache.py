"""Arrays that are expensive to make, row by row, kept on disk and mapped into memory.

A file of the cache is a .npy file with a tail: a line of JSON with a note for each row and a checksum. It is written row by row
under another name (never through a mapping, which a full disk turns into a crash) and moved into place whole. What is mapped
costs memory only as far as it is being looked at. Where nothing can be written the array is made in memory instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vaelens.data.download import cache_folder
from vaelens.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Rows = Iterable[tuple[NDArray[Any] | None, Any]]

LIMIT = "VAELENS_DECODED_CACHE_GB"
DEFAULT_GB = 8.0
_FORMAT = 1
_STAGED = ".writing."
_STALE_SECONDS = 24 * 3600
_CHUNK = 1 << 24


@dataclass(frozen=True, eq=False)
class Kept:
    """What the cache gives.

    Attributes:
        rows: (N, ...), of the rows that are there. Writing to it changes no file.
        notes: one for each row that was asked for, in order, also for those that are left out.
    """

    rows: Tensor
    notes: tuple[Any, ...]


def limit_bytes() -> int:
    """How much the cache may hold: $VAELENS_DECODED_CACHE_GB, 8 without it; 0 turns it off.

    Raises:
        UsageError: the variable is no number from 0 on.
    """
    text = os.environ.get(LIMIT, "").strip()
    try:
        size = float(text) if text else DEFAULT_GB
    except ValueError:
        size = -1.0
    if not 0 <= size < math.inf:
        raise UsageError(f"{LIMIT} is the number of GiB that decoded images may take in the cache, 0 for none, not {text!r}")
    return int(size * 2**30)


def kept(key: Iterable[str], shape: tuple[int, ...], dtype: str, make: Callable[[], Rows]) -> Kept:
    """Take an array from the cache, or make it and put it there.

    Args:
        key: all that the content depends on, in order.
        shape: (N, ...): as many rows as `make` gives pairs.
        dtype: "uint8" or "bool".
        make: gives, in order, (row, note) for each row; a row that is None is left out. A note is what JSON can hold. It is
            called once more, from the start, where the disk fills up on the way.

    Raises:
        UsageError: $VAELENS_DECODED_CACHE_GB is no size.
        Whatever `make` raises.
    """
    import numpy as np

    kind = np.dtype(dtype)
    needed = math.prod(shape) * kind.itemsize
    limit = limit_bytes()
    if not shape[0] or needed > limit:
        return _in_memory(shape, kind, make())
    try:
        folder = cache_folder("decoded")
    except DataError:  # no home folder
        return _in_memory(shape, kind, make())
    path = folder / f"{_digest(key, shape, kind)}.npy"
    found = _read(path, shape, kind)
    if found is not None:
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used goes first
        return found
    if _write(path, shape, kind, make):
        found = _read(path, shape, kind)
        _shrink(folder, limit, path)
    return found or _in_memory(shape, kind, make())


def _digest(key: Iterable[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {shape} {dtype}".encode())
    for part in key:
        encoded = os.fsencode(part)
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:40]


def _in_memory(shape: tuple[int, ...], dtype: np.dtype[Any], made: Rows) -> Kept:
    import numpy as np
    import torch

    rows, notes, count = np.empty(shape, dtype), [], 0
    for row, note in made:
        notes.append(note)
        if row is not None:
            rows[count] = row
            count += 1
    return Kept(torch.from_numpy(rows[:count]), tuple(notes))


class _FullError(Exception):
    """The cache cannot be written. Told apart from errors of the files that are being read."""


def _write(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], make: Callable[[], Rows]) -> bool:
    """Write a file of the cache; False where that cannot be done."""
    try:
        with _refusals():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=_STAGED)
    except _FullError:
        return False
    try:
        file = os.fdopen(descriptor, "wb")
        try:
            _fill(file, shape, dtype, make())
        finally:
            with contextlib.suppress(OSError):  # what a full disk has left in the buffer; `_fill` flushes what is whole
                file.close()
        with _refusals():
            Path(staged).replace(path)
        return True
    except _FullError:
        return False
    finally:
        with contextlib.suppress(OSError):
            Path(staged).unlink(missing_ok=True)


@contextlib.contextmanager
def _refusals() -> Any:
    try:
        yield
    except OSError as error:
        raise _FullError from error


def _fill(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], made: Rows) -> None:
    import numpy as np

    notes, count, checksum = [], 0, 0
    with _refusals():
        if hasattr(os, "posix_fallocate"):  # a full disk is found out before the work, not after it
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
        start = _head(file, shape, dtype)
    for row, note in made:
        notes.append(note)
        if row is not None:
            content = np.ascontiguousarray(row, dtype).tobytes()
            checksum = zlib.crc32(content, checksum)
            count += 1
            with _refusals():
                file.write(content)
    with _refusals():
        tail = json.dumps({"crc32": checksum, "notes": notes}).encode()
        file.write(tail)
        file.truncate()
        file.seek(0)
        if _head(file, (count, *shape[1:]), dtype) != start:
            raise OSError("the head of a .npy file has another length for another number of rows")
        file.flush()


def _head(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    import numpy as np

    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.tell()


def _read(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Kept | None:
    """A file of the cache, if it is there, whole, and holds such rows."""
    import numpy as np
    import torch

    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            there, _, kind = np.lib.format.read_array_header_1_0(file)
            if kind != dtype or there[1:] != shape[1:] or there[0] > shape[0]:
                return None
            start, checksum = file.tell(), 0
            left = math.prod(there) * dtype.itemsize
            while left and (chunk := file.read(min(left, _CHUNK))):
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
            tail = json.loads(file.read())
            notes = tuple(tail["notes"])
            if left or tail["crc32"] != checksum or len(notes) != shape[0]:
                return None
            if not there[0]:
                return Kept(torch.from_numpy(np.empty(there, dtype)), notes)
            # copy on write: torch takes no read-only memory, and the file stays as it is
            rows = np.memmap(file, dtype, "c", start, there)
        return Kept(torch.from_numpy(rows), notes)
    except (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError):
        return None


def _shrink(folder: Path, limit: int, newest: Path) -> None:
    """Remove what a killed process left, and then the least recently used files, until the cache is within its limit."""
    entries = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.name.startswith(_STAGED) and status.st_mtime < time.time() - _STALE_SECONDS:
                    path.unlink()
                elif path.suffix == ".npy":
                    entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        if path != newest:
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
