"""Data sets that come as one archive: downloaded, checked, unpacked whole or not at all."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path

from filelock import FileLock

from vaelens.data.anomaly import AnomalyOptions
from vaelens.data.download import cache_folder, fetch
from vaelens.data.files import shown
from vaelens.errors import DataError

_STAGED = ".unpacking."


def from_archive(
    dataset: str,
    top: str,
    urls: Sequence[str],
    md5: str,
    size: int,
    licence: str,
    options: AnomalyOptions,
    wanted: str,
) -> Path:
    """The unpacked folder of a data set in the cache, downloaded and unpacked where it is not there.

    Args:
        dataset: name of the folder in the cache.
        top: the folder that the archive holds.
        urls: addresses of the archive; its file name is the last part of the first.
        md5: checksum of the archive.
        size: bytes of the archive.
        licence: told before a download.
        options: of which `progress` and `notice` are used.
        wanted: a folder below `top` by which the data set is known to be there.

    Raises:
        DataError: it cannot be downloaded (the message says where to put it by hand), unpacked or written.
    """
    folder = cache_folder(dataset)
    if (folder / top / wanted).is_dir():
        return folder / top
    name = urls[0].rpartition("/")[2]
    options.tell(f"downloading {name} ({size / 2**20:,.0f} MiB) into {shown(folder)}; {licence}")
    archive = fetch(name, urls, folder / name, md5, size, options.progress)
    unpack(archive, folder, top)
    if not (folder / top / wanted).is_dir():
        raise DataError(f"{shown(archive)} holds no {top}/{wanted}; delete it to have it downloaded again")
    archive.unlink(missing_ok=True)
    return folder / top


def unpack(archive: Path, folder: Path, top: str | None = None) -> None:
    """Unpack a tar archive, gzipped or by xz, into a folder, whole or not at all.

    Nothing is written outside the folder, whatever the archive says (the `data` filter of tarfile).

    Args:
        archive: the file.
        folder: where its entries go; what is there under their names is replaced.
        top: the only one of its outermost entries to keep; None: all.

    Raises:
        DataError: it is damaged, names files outside, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".unpacking.lock"):
            staged = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGED))
            try:
                with tarfile.open(archive) as tar:
                    tar.extractall(staged, filter="data")
                for entry in sorted(staged.iterdir()):
                    if top is not None and entry.name != top:
                        continue
                    there = folder / entry.name
                    if there.is_dir():
                        shutil.rmtree(there)
                    entry.replace(there)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, BadGzipFile) as error:
        raise DataError(f"{shown(archive)} cannot be unpacked ({error}); delete it to have it downloaded again") from None
    except OSError as error:
        raise DataError(
            f"cannot unpack {shown(archive)} into {shown(folder)}: {error.strerror or error}; make room or set "
            "VAELENS_CACHE to another folder"
        ) from error
