"""Finding image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vaelens.errors import DataError, UsageError

SUFFIXES = ("jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "pgm")


def list_images(paths: Path | str | Iterable[Path | str]) -> list[Path]:
    """List image files, in folders and all folders below them, in a fixed order.

    A folder gives the files with a known suffix (any case) except hidden ones; a file that is named itself is taken
    whatever its name. Linked folders are followed, each folder once, so that circles of links end.

    Args:
        paths: a folder, a file, or several of both.

    Returns:
        Sorted paths, each once.

    Raises:
        UsageError: a path that does not exist, or a folder without images (the message has the suffixes looked for).
        DataError: a folder that cannot be read.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    if not several:
        raise UsageError("no image and no folder of images was named")
    found: set[Path] = set()
    for path in map(Path, several):
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on a path that is too long
            inside = list(_below(path))
            if not inside:
                raise UsageError(f"{shown(path)} holds no images; looked for files named *.{', *.'.join(SUFFIXES)}")
            found.update(inside)
        elif os.path.lexists(path):
            found.add(path)
        else:
            raise UsageError(f"{shown(path)} does not exist; name an image or a folder of images")
    return sorted(found)


def shown(path: Path | str) -> str:
    """A path as one printable line for messages: file names may hold line breaks and bytes that are no text."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _below(top: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {shown(error.filename)}: {error.strerror}") from None

    for folder, below, names in os.walk(top, onerror=refuse, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116 - os.walk gives str
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and name.rpartition(".")[2].lower() in SUFFIXES and "." in name:
                yield Path(folder, name)
