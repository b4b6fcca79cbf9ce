"""Folders of results, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaelens.errors import UsageError, VaelensError

MARK = ".vaelens"  # lies in every folder of results, so that --overwrite never removes a folder that is not ours


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with writing(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def check_free(out: Path, overwrite: bool = False) -> None:
    """Raise unless a folder of results may be made at `out`.

    Raises:
        UsageError: `out` is a file, or a folder that is not empty, without `overwrite` or not written by vaelens.
    """
    if out.is_dir():
        if not any(out.iterdir()):
            return
        if not overwrite:
            raise UsageError(f"{out} exists and is not empty; choose another --out, or pass --overwrite to replace it")
        if not (out / MARK).is_file():
            raise UsageError(f"{out} was not written by vaelens and is left alone; choose another --out")
    elif out.exists() or out.is_symlink():
        raise UsageError(f"{out} is a file; --out names a folder")


@contextmanager
def result_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write results into, which becomes `out` at the end of the block, and vanishes if the block fails.

    Raises:
        UsageError: see `check_free`.
        OutputError: the place cannot be written, or the disk is full.
    """
    out = Path(out)
    check_free(out, overwrite)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:100]}.writing."))
    try:
        with writing(out):
            staged.chmod(0o777 & ~_umask())
            (staged / MARK).touch()
        yield staged
        check_free(out, overwrite)
        with writing(out):
            if out.is_dir():
                shutil.rmtree(out)
            staged.replace(out)
    finally:
        if staged.exists():
            shutil.rmtree(staged, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
