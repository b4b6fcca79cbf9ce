"""Downloads that can be cut, resumed and trusted: into `<target>.part`, checksummed, then moved into place.

Standard library only. What is cut stays in the .part file and the next call goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from vaelens._version import __version__
from vaelens.errors import DataError

try:
    import fcntl
except ImportError:  # not on Windows: two downloads of one file at once are then caught by the checksum alone
    fcntl = None  # type: ignore[assignment]

Progress: TypeAlias = Callable[[str, int, "int | None"], None]
"""Called with (file name, bytes so far, bytes in all or None where the server does not say)."""

_CHUNK = 1 << 16
_TRIES_PER_MIRROR = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _MirrorError(Exception):
    """Why one attempt at one mirror failed, in a few words."""


@dataclass(frozen=True)
class _Wanted:
    name: str
    checksum: str
    size: int | None
    progress: Progress | None
    timeout: float

    @property
    def algorithm(self) -> str:
        """Of the checksum, by its length."""
        return "sha256" if len(self.checksum) == 64 else "md5"

    def fits(self, stream: IO[bytes]) -> bool:
        """Whether the whole stream has that checksum."""
        stream.seek(0)  # flushes as well
        digest = hashlib.new(self.algorithm, usedforsecurity=False)
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest() == self.checksum


def cache_folder(dataset: str) -> Path:
    """The folder that a data set is downloaded to: $VAELENS_CACHE/<dataset>, else ~/.cache/vaelens/<dataset>.

    $XDG_CACHE_HOME takes the place of ~/.cache where it is an absolute path. The folder need not exist.

    Raises:
        DataError: neither variable is set and there is no home folder.
    """
    chosen = os.environ.get("VAELENS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if chosen:
            return Path(chosen).expanduser() / dataset
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "vaelens" / dataset
    except RuntimeError:
        raise DataError("no home folder to keep downloads in; set VAELENS_CACHE to a folder") from None


def fetch(
    name: str,
    urls: Sequence[str],
    target: Path,
    checksum: str,
    size: int | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Download a file unless it is there already.

    The mirrors are tried in turn. A cut download goes on where it stopped, at the same mirror or the next, by an HTTP
    range request; a server that ignores ranges is read from the start. `target` appears whole and with the right
    checksum, or not at all. Two processes that want the same file wait for each other.

    Args:
        name: of the file, for messages and for `progress`.
        urls: http or https addresses of the same bytes.
        target: where the file goes; missing folders are made.
        checksum: hexadecimal md5 or sha256 of the whole file.
        size: bytes of the whole file, where known; a mirror that sends more is refused without reading on.
        progress: called as bytes arrive.
        timeout: seconds to wait for a connection or for the next bytes.

    Returns:
        `target`.

    Raises:
        DataError: no mirror gave the file (the message says why for each, and where to put the file by hand), or the
            folder cannot be written to.
    """
    wanted = _Wanted(name, checksum.lower(), size, progress, timeout)
    try:
        if _is_whole(target, wanted):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target.with_name(target.name + ".part")) as part:
            if _is_whole(target, wanted):  # another process fetched it while this one waited
                _discard(part)
                return target
            reasons: list[str] = []
            if wanted.fits(part) or _from_any_mirror(urls, part, wanted, reasons):
                part.flush()
                os.fsync(part.fileno())
                Path(part.name).replace(target)
                return target
    except OSError as error:
        raise DataError(
            f"cannot write {target}: {error.strerror or error}; make room or set VAELENS_CACHE to another folder"
        ) from error
    raise DataError(f"cannot download {name} ({'; '.join(reasons)}); put it into {target.parent} by hand")


def _from_any_mirror(urls: Sequence[str], part: IO[bytes], wanted: _Wanted, reasons: list[str]) -> bool:
    """Try the mirrors in turn; why each failed is added to `reasons`."""
    for url in urls:
        try:
            _from_mirror(url, part, wanted)
        except _MirrorError as error:
            reasons.append(f"{url.partition('://')[2].partition('/')[0] or repr(url)}: {error}")
        else:
            return True
    return False


def _from_mirror(url: str, part: IO[bytes], wanted: _Wanted) -> None:
    """Bring `part` to the whole file from one mirror, or raise _MirrorError. Errors of the disk pass through."""
    last = ""
    for _ in range(_TRIES_PER_MIRROR):
        before = _length(part)
        try:
            _stream(url, part, wanted)
        except _MirrorError as error:
            if _length(part) > before:
                last = str(error)
                continue  # cut on the way: some bytes came, so going on is worth a try
            raise
        if wanted.fits(part):
            return
        part.truncate(0)
        if not before:
            raise _MirrorError(
                f"what it sent has the wrong checksum (not {wanted.algorithm} {wanted.checksum}) and was removed"
            )
        # else the fault may lie in what an earlier run had left: once more from the start
    raise _MirrorError(f"{last}, and so {_TRIES_PER_MIRROR} times")


def _stream(url: str, part: IO[bytes], wanted: _Wanted) -> None:
    """One request: append to `part` what is missing. Returns with all the bytes the server has."""
    have = _length(part)
    if wanted.size is not None and have >= wanted.size:
        if have == wanted.size:
            return
        part.truncate(0)
        have = 0
    if not url.startswith(("http://", "https://")):
        raise _MirrorError("only http and https addresses are read")
    headers = {"User-Agent": f"vaelens/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=wanted.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.truncate(0)
            _stream(url, part, wanted)
            return
        raise _MirrorError(f"{error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that cannot be parsed
        raise _MirrorError(_why(error)) from None
    with contextlib.closing(response):
        start, total = _extent(response)
        if start not in (0, have):
            raise _MirrorError(f"it answered with another range (from byte {start}, not {have})")
        if wanted.size is not None and total is not None and total != wanted.size:
            raise _MirrorError(f"its file has {total:,} bytes, not {wanted.size:,}")
        if start != have:  # the whole file, and not from where we were: begin anew
            part.truncate(0)
        _append(response, part, wanted, wanted.size if total is None else total)


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """At which byte of the file a response starts, and how long the whole file is, where the server says so."""
    if response.status == http.client.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None:
            raise _MirrorError("it answered with a range but did not say which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _append(response: http.client.HTTPResponse, part: IO[bytes], wanted: _Wanted, total: int | None) -> None:
    have = part.seek(0, os.SEEK_END)
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _MirrorError(_why(error)) from None
        if not chunk:
            break
        have += len(chunk)
        if wanted.size is not None and have > wanted.size:
            part.truncate(0)
            raise _MirrorError(f"it sends more than the {wanted.size:,} bytes of the file")
        part.write(chunk)
        if wanted.progress is not None:
            wanted.progress(wanted.name, have, total)
    part.flush()
    if total is not None and have < total:
        raise _MirrorError(f"the connection was cut after {have:,} of {total:,} bytes")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[IO[bytes]]:
    """Open a .part file for reading and appending, alone among the processes on this machine where locks work."""
    while True:
        part = path.open("a+b")
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # some network file systems have no locks
                    fcntl.flock(part.fileno(), fcntl.LOCK_EX)
            # Who held the lock before may have moved the file away; then this one is no longer `path`.
            if _is_at(part, path):
                yield part
                return
        finally:
            try:
                if _length(part) == 0 and _is_at(part, path):
                    _discard(part)
            finally:
                part.close()


def _is_at(part: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(part.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _discard(part: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        Path(part.name).unlink(missing_ok=True)


def _length(part: IO[bytes]) -> int:
    part.flush()
    return os.fstat(part.fileno()).st_size


def _is_whole(target: Path, wanted: _Wanted) -> bool:
    """Whether the file is there with the right checksum. Another file of its name is replaced by a good download."""
    try:
        with target.open("rb") as stream:
            return wanted.fits(stream)
    except FileNotFoundError:
        return False


def _why(error: BaseException) -> str:
    """A few words, from the innermost cause."""
    reason = getattr(error, "reason", error)
    words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(words).split())
