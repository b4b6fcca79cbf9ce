"""What to score: image files, folders of them, and test images of the run's own data set by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vaelens.data.anomaly import AnomalySplit
from vaelens.data.decode import list_images, read_image
from vaelens.data.factors import FactorSplit
from vaelens.data.files import shown
from vaelens.data.images import ImageSet
from vaelens.errors import DataError, UsageError
from vaelens.runs import Run
from vaelens.runs.data import load_split


@dataclass(frozen=True)
class Item:
    """One image to be read.

    Attributes:
        name: what to call it: its path below the folder it was found in, or its name in the data set.
        path: its file, None for an image of the data set.
        position: its position in the data set's test images.
    """

    name: str
    path: Path | None = None
    position: int = -1


@dataclass(frozen=True)
class Loaded:
    """One image that was read, or why it could not be.

    Attributes:
        item: which.
        image: (C, H, W), uint8; None where it could not be read.
        label: its class, where the data set knows it.
        error: why it could not be read, one line.
    """

    item: Item
    image: Tensor | None
    label: str | None = None
    error: str | None = None


class Source:
    """The images that a command was given.

    Args:
        run: whose network is to see them.
        given: paths of image files and folders, or names such as "mnist/test/00042" and "mnist/test" for all of them.
        root: folder of the run's data set, where it has moved.
        convert: change colour, depth and size where they are not the network's, and not refuse such images. Runs of data sets
            whose images differ do so always, as they did in training.

    Raises:
        UsageError: nothing given, a path that does not exist, a folder without images, a name that the data set lacks.
    """

    def __init__(self, run: Run, given: Sequence[str], root: Path | None = None, convert: bool = False) -> None:
        if not given:
            raise UsageError("no images given: name image files, a folder, or test images such as mnist/test/00042")
        self.run = run
        self.convert = convert
        self._root = root
        self._test: ImageSet | None = None
        self._defects: dict[int, str] = {}
        self._clips: dict[Path, tuple[list[Path], dict[Path, int]]] = {}  # of a video: frames of a folder, and where each is
        if run.preparation is not None:
            # A frame is its neighbours' neighbour as well, and they follow each other.
            self._frame = lru_cache(run.preparation.frames)(run.preparation.read)
        self.items = _apart([item for one in given for item in self._find(one)])

    def __len__(self) -> int:
        return len(self.items)

    def check_apart(self, out: Path) -> None:
        """Refuse a run or images that lie where the results go: they would be removed, or taken for images the next time.

        Raises:
            UsageError: the message names one.
        """
        place = _real(out)
        if _real(self.run.path).is_relative_to(place):
            raise UsageError(f"the run {shown(self.run.path)} lies in --out {shown(out)}; choose another --out")
        inside = {folder for folder in {i.path.parent for i in self.items if i.path} if _real(folder).is_relative_to(place)}
        for item in self.items:
            if item.path is not None and item.path.parent in inside:
                raise UsageError(f"{shown(item.path)} lies in --out {shown(out)}; choose another --out, or leave it out")

    def batches(self, batch_size: int, strict: bool = False) -> Iterator[list[Loaded]]:
        """Read the images in order.

        Raises:
            DataError: with `strict`, at the first image that cannot be read.
        """
        for start in range(0, len(self.items), batch_size):
            yield [self._load(item, strict) for item in self.items[start : start + batch_size]]

    def _find(self, given: str) -> list[Item]:
        if not given:
            raise UsageError("an image without a name: name image files, a folder, or test images such as mnist/test/00042")
        path = Path(given)
        dataset = self.run.config.dataset["name"]
        if not os.path.lexists(path) and given.split("/")[0] == dataset:
            return self._named(given.rstrip("/"))
        files = list_images(path)
        folder = path if path.is_dir() else path.parent
        return [Item(str(file.relative_to(folder)), file) for file in files]

    def _named(self, given: str) -> list[Item]:
        if self._test is None:
            split = load_split(self.run.config, self._root)
            if isinstance(split, FactorSplit) or split.test is None:
                raise UsageError(f"{split.dataset} has no test images; name files or a folder")
            self._test = split.test
            self._defects = dict(enumerate(split.defects)) if isinstance(split, AnomalySplit) else {}
        items = [
            Item(name, None, position)
            for position, name in enumerate(self._test.names)
            if name == given or name.startswith(f"{given}/")
        ]
        if not items:
            first, last = self._test.names[0], self._test.names[-1]
            raise UsageError(f"there is no file and no test image {given!r}; the test images are called {first} to {last}")
        return items

    def _load(self, item: Item, strict: bool) -> Loaded:
        if item.path is None:
            assert self._test is not None
            labels = self._test.labels
            label = None if labels is None else str(int(labels[item.position]))
            return Loaded(item, self._test.images[item.position], self._defects.get(item.position, label))
        try:
            return Loaded(item, self._read(item.path))
        except DataError as error:
            if strict:
                raise
            return Loaded(item, None, error=str(error))

    def _read(self, path: Path) -> Tensor:
        """One file as the network takes it, (C, H, W), uint8; of a video with the frames beside it in its folder."""
        preparation = self.run.preparation
        if preparation is None:
            channels, height, width = self.run.input_shape
            return read_image(path, channels, (height, width), convert=self.convert)
        if preparation.frames == 1:
            return preparation.read(path)
        if path.parent not in self._clips:
            clip = [one for one in list_images(path.parent) if one.parent == path.parent]
            self._clips[path.parent] = clip, {one: at for at, one in enumerate(clip)}
        clip, positions = self._clips[path.parent]
        at, reach = positions.get(path, 0), preparation.frames // 2
        chosen = [clip[min(max(at + step, 0), len(clip) - 1)] for step in range(-reach, reach + 1)]
        return torch.cat([self._frame(one) for one in chosen])


def as_text(name: str) -> str:
    r"""A file name as text that every format takes: bytes that are no UTF-8 are spelt out as in `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _apart(items: Sequence[Item]) -> list[Item]:
    """Each file once, and those of one name in different folders by their whole path, so that results keep apart."""
    real = {folder: _real(folder) for folder in {item.path.parent for item in items if item.path}}
    once = list({(item.path and _whole(item.path, real), item.position): item for item in items}.values())
    while True:
        named = Counter(item.name for item in once)
        apart = [replace(i, name=_whole(i.path, real)) if i.path and named[i.name] > 1 else i for i in once]
        if apart == once:
            return once
        once = apart


def _real(path: Path) -> Path:
    """Links followed; Path.resolve raises on a link to itself."""
    return Path(os.path.realpath(path))


def _whole(path: Path, real: Mapping[Path, Path]) -> str:
    """A path without its root, so that it can be a name below another folder; its folder as `real` has it, links followed."""
    return str(Path(real[path.parent], path.name).relative_to(path.absolute().anchor))
