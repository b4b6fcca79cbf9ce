"""MNIST: 60,000 + 10,000 handwritten digits, 28x28, white on black (LeCun, Cortes, Burges), from its four idx files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from vaelens.data.download import Progress, cache_folder, fetch
from vaelens.data.idx import read_idx
from vaelens.data.images import ImageSet
from vaelens.errors import DataError, UsageError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# name: md5 and bytes of the published .gz file
FILES = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
}
_BELOW = (".", "raw", "MNIST/raw")  # torchvision keeps the files in MNIST/raw
_SIDE = 28


def load(root: Path | None = None, progress: Progress | None = None) -> tuple[ImageSet, ImageSet]:
    """The registry's loader; see `load_mnist`."""
    return load_mnist(root, progress=progress)


def load_mnist(
    root: Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
    mirrors: Sequence[str] = MIRRORS,
) -> tuple[ImageSet, ImageSet]:
    """Load MNIST from its idx files, plain or gzipped.

    Args:
        root: the folder that holds the four files, itself or in `raw` or `MNIST/raw` below it (torchvision's layout);
            names with a dot (`train-images.idx3-ubyte`) are found as well. Nothing is ever written there. None: the
            cache folder ($VAELENS_CACHE/mnist, else ~/.cache/vaelens/mnist).
        download: without a root, download what the cache folder lacks, 12 MB in all.
        progress: called during a download with (file name, bytes so far, bytes in all or None).
        mirrors: addresses of folders that hold the published .gz files.

    Returns:
        (train, test): images (N, 1, 28, 28), values 0 to 255, labels 0 to 9, names such as "mnist/test/00042".

    Raises:
        UsageError: the root is no folder.
        DataError: files are missing (the message names the folder and the files), cannot be downloaded, are damaged, or
            do not fit each other.
    """
    if root is not None:
        root = Path(root)
        if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises on a path that is too long
            raise UsageError(f"the MNIST folder {root} does not exist or is no folder; name it by --root")
        found = _find(root)
        missing = [f"{name}.gz" for name in FILES if name not in found]
        if missing:
            raise DataError(
                f"{root} lacks the MNIST files {', '.join(missing)} (gzipped or not); "
                "put them there, or name no root to have them downloaded into the cache"
            )
        return _read(found, "train"), _read(found, "t10k")
    folder = cache_folder("mnist")
    found = _find(folder)
    missing = [f"{name}.gz" for name in FILES if name not in found]
    if missing and not download:
        raise DataError(f"{folder} lacks the MNIST files {', '.join(missing)}; put them there, or allow the download")
    for file in missing:
        name = file.removesuffix(".gz")
        md5, size = FILES[name]
        urls = [f"{mirror.rstrip('/')}/{file}" for mirror in mirrors]
        try:
            found[name] = fetch(file, urls, folder / file, md5, size, progress)
        except DataError as error:
            lacking = [f for f in missing if f.removesuffix(".gz") not in found]
            raise DataError(f"{error}; MNIST needs there: {', '.join(lacking)}") from None
    try:
        return _read(found, "train"), _read(found, "t10k")
    except DataError as error:
        raise DataError(f"{error}; or delete it from the cache to have it downloaded again") from None


def _find(root: Path) -> dict[str, Path]:
    """The files that are there, by their published name, from the one of the usual places that has most of them."""
    best: dict[str, Path] = {}
    for folder in (root / below for below in _BELOW):
        here = {}
        for name in FILES:
            spellings = (name, name.replace("-idx", ".idx"))
            candidates = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
            path = next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113 - never raises
            if path is not None:
                here[name] = path
        if len(here) > len(best):
            best = here
    return best


def _read(found: dict[str, Path], part: str) -> ImageSet:
    """One of the two sets; part is "train" or "t10k"."""
    images_path, labels_path = found[f"{part}-images-idx3-ubyte"], found[f"{part}-labels-idx1-ubyte"]
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != "u1" or images.shape[1:] != (_SIDE, _SIDE):
        raise DataError(
            f"{images_path} holds {images.dtype} {images.shape}, MNIST images uint8 (N, 28, 28); give the right file"
        )
    if labels.dtype != "u1" or labels.ndim != 1:
        raise DataError(f"{labels_path} holds {labels.dtype} {labels.shape}, MNIST labels uint8 (N,); give the right file")
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images):,} images but {labels_path} {len(labels):,} labels; "
            "give files that belong together"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path} has the label {labels.max()}, MNIST labels are 0 to 9; give the right file")
    folder = "train" if part == "train" else "test"
    return ImageSet(
        torch.from_numpy(images).unsqueeze(1),
        tuple(f"mnist/{folder}/{i:05d}" for i in range(len(images))),
        torch.from_numpy(labels).to(torch.int64),
    )
