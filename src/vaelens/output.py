"""Folders of results, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError, VaelensError

MARK = ".vaelens"  # lies in every folder of results and says what made it: --overwrite replaces its like alone
_STAGED = ".vaelens-writing."  # results under way; what a killed process left of them counts as nothing


class OutputError(VaelensError):
    """A file or folder that cannot be written. Exit code 1."""


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn the system's refusals to write `what` into one line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(f"the disk is full: could not write {what}; free some space, or choose another place") from error
        raise OutputError(f"cannot write {what}: {error.strerror or error}; choose a place that you may write to") from error


def write_bytes(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a file whole or not at all; `durable` waits until it is on the disk, so that a power cut leaves it whole too."""
    with writing(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_STAGED)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), durable)


def write_json(path: Path, value: Mapping[str, Any], durable: bool = False) -> None:
    """Write a JSON file whole or not at all; see `to_json`."""
    write_text(path, to_json(value) + "\n", durable)


def to_json(value: Mapping[str, Any]) -> str:
    """One JSON object; NaN and infinity, which JSON has not, as null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def check_free(out: Path, kind: str, overwrite: bool = False) -> None:
    """Raise unless a folder of results may be made at `out`.

    Args:
        out: the folder.
        kind: what makes it, such as "score".
        overwrite: whether results of that kind may be replaced.

    Raises:
        UsageError: `out` is a file, or a folder that is not empty, without `overwrite` or with something else in it.
    """
    check_folder(out)
    if not holds_something(out):
        return
    if not overwrite:
        raise UsageError(f"{out} exists and is not empty; choose another --out, or pass --overwrite to replace it")
    _check_kind(out, kind)


def _check_kind(out: Path, kind: str) -> None:
    """Raise UsageError where what `out` holds was not made by `kind`."""
    made_by = _made_by(out)
    if made_by != kind:
        by = "was not written by vaelens" if made_by is None else f"holds what 'vaelens {made_by}' wrote, not '{kind}',"
        raise UsageError(f"{out} {by} and is left alone; choose another --out")


def _made_by(out: Path) -> str | None:
    """What made the results in `out`; None where there is no mark."""
    lines = _read_mark(out)
    return None if lines is None else "".join(lines[:1]).strip()[:40]


def _read_mark(out: Path) -> list[str] | None:
    """What made the results in `out`, and then their names, a line each; None where there is no mark."""
    mark = out / MARK
    with writing(out):
        return mark.read_text(encoding="utf-8", errors="backslashreplace").splitlines() if mark.is_file() else None


@contextmanager
def own_folder(out: Path, kind: str) -> Iterator[None]:
    """A folder to which results are added one by one, new or to go on with; gone again if the block fails with none added.

    Raises:
        UsageError: `out` is a file, or a folder that holds something that `kind` has not made.
        OutputError: it cannot be written.
    """
    check_folder(out)
    if holds_something(out):
        _check_kind(out, kind)
    made = _missing(out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text(kind, encoding="utf-8")
    try:
        yield
    except BaseException:
        if not holds_something(out, besides=MARK):
            (out / MARK).unlink(missing_ok=True)
            _remove_empty(made)
        raise


def check_folder(out: Path) -> None:
    """Raise UsageError where `out` is there and no folder."""
    with writing(out):
        if not out.is_dir() and (out.exists() or out.is_symlink()):
            raise UsageError(f"{out} is a file; --out names a folder")


def check_replaceable(out: Path, kind: str) -> None:
    """Raise unless results may be written into `out`, a part of something of ours that may not be there yet.

    Raises:
        UsageError: it holds what something else than `kind` wrote.
        OutputError: a file, or a place that cannot be written.
    """
    with writing(out):
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file, in the place of a folder of results; move it away")
        made_by = _made_by(out)
        if made_by not in (None, kind):
            raise UsageError(f"{out} holds what 'vaelens {made_by}' wrote; move it away")
        with tempfile.TemporaryFile(dir=out if out.is_dir() else out.parent):
            pass


def holds_something(folder: Path, besides: str | None = None) -> bool:
    """Whether a folder is there and has anything in it, `besides` and what a killed process was writing left out."""
    with writing(folder):
        entries = folder.iterdir() if folder.is_dir() else ()
        return any(entry.name != besides and not entry.name.startswith(_STAGED) for entry in entries)


@contextmanager
def result_folder(out: Path, kind: str, overwrite: bool = False, inside_ours: bool = False) -> Iterator[Path]:
    """A folder to write results into, which becomes `out` at the end of the block, and vanishes if the block fails.

    Args:
        out: the folder.
        kind: what makes it, such as "score".
        overwrite: whether results of that kind that are there may be replaced; what else lies among them stays.
        inside_ours: whether the place is a part of something of ours, which is there, and what lies in it needs no mark.

    Raises:
        UsageError: see `check_free`, or `check_replaceable` where it is inside something of ours.
        OutputError: the place cannot be written, or the disk is full.
    """
    out = Path(out)

    def check() -> None:
        if inside_ours:
            check_replaceable(out, kind)
        else:
            check_free(out, kind, overwrite)

    check()
    # A folder that is there is filled and not replaced: it may be a mounted disk, or the folder that the caller is in.
    there = out.is_dir()
    made = [] if there else _missing(out.parent)
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            staged = Path(tempfile.mkdtemp(dir=out if there else out.parent, prefix=_STAGED))
        try:
            with writing(out):
                staged.chmod(0o777 & ~_umask())
            yield staged
            check()
            with writing(out):
                names = sorted(entry.name for entry in staged.iterdir())
                (staged / MARK).write_text("\n".join([kind, *names]), encoding="utf-8", errors="backslashreplace")
                if there:
                    _refill(out, staged)
                else:
                    staged.replace(out)
            made = []
        except VaelensError as error:  # the person knows `out`, not where it was under way
            error.args = (str(error).replace(str(staged), str(out)), *error.args[1:])
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    finally:
        _remove_empty(made)


def _missing(folder: Path) -> list[Path]:
    """The folders that making `folder` would make, innermost first."""
    with writing(folder):
        return [one for one in (folder, *folder.parents) if not one.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _refill(out: Path, staged: Path) -> None:
    """Replace the results that `out` holds, and nothing of the person's, with those in `staged`."""
    lines = _read_mark(out) or []
    ours = {*lines[1:], *(entry.name for entry in staged.iterdir())} - {MARK}
    for entry in out.iterdir():
        if entry.name not in ours:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for entry in staged.iterdir():
        entry.replace(out / entry.name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another in its place; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
