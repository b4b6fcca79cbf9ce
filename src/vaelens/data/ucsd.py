"""UCSD Ped1 and Ped2: pedestrians on a walkway seen by a fixed camera; carts, bicycles and skaters are anomalous.

Li, Mahadevan, Vasconcelos, "Anomaly detection and localization in crowded scenes", TPAMI 2013. The official tree:

    UCSD_Anomaly_Dataset.v1p2/UCSDped2/Train/Train001/001.tif
                                       Test/Test001/001.tif
                                       Test/Test001_gt/001.bmp      (or frame001.bmp)
                                       Test/UCSDped2.m              (which frames are anomalous)

Of Ped1 ten of the 36 test clips have masks, and one frame of the official archive, Test/Test017/142.tif, is damaged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vaelens.data.anomaly import ANOMALOUS, GOOD, NORMAL, UNKNOWN, AnomalyOptions, AnomalySplit
from vaelens.data.archive import from_archive
from vaelens.data.augment import Augmentation
from vaelens.data.cache import decode_all, decoded_masks, stacked
from vaelens.data.files import shown
from vaelens.data.held_out import check_held_out, hold_out_groups
from vaelens.data.images import ImageSet
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError, UsageError

LICENCE = "UCSD anomaly detection data set: for research; cite Li, Mahadevan, Vasconcelos (TPAMI 2013)"
URLS = ("http://www.svcl.ucsd.edu/projects/anomaly/UCSD_Anomaly_Dataset.tar.gz",)
MD5 = "5006421b89885f45a6f93b041145f2eb"
BYTES = 740_306_953
FOLDER = "UCSD_Anomaly_Dataset.v1p2"
SIZE = (100, 100)
"""The paper's (height, width)."""
AUGMENTATION = Augmentation()
"""None: the camera is fixed, so that every place has a normal of its own, which mirroring would mix with another's."""

_SCENES = {"ucsd-ped1": "UCSDped1", "ucsd-ped2": "UCSDped2"}
_MOST_DAMAGED = 0.01
_NUMBER = re.compile(r"\d+")
_GT_LINE = re.compile(r"^[^%\n]*?gt_frame\s*=\s*\[([^\]]*)\]", re.MULTILINE)
_RANGE = re.compile(r"(\d+)\s*:\s*(\d+)|(\d+)")


@dataclass(frozen=True)
class _Clip:
    """One clip: its name, such as "Test/Test001", and its frames by number, ascending."""

    name: str
    frames: dict[int, Path]


def default_preparation(options: AnomalyOptions) -> Preparation:
    """Grey, 100x100 as in the paper."""
    return Preparation(SIZE)


def load_ped1(options: AnomalyOptions) -> AnomalySplit:
    """Load UCSD Ped1: 34 training clips (6,800 frames) and 36 test clips (7,200); see `load_ucsd`."""
    return load_ucsd("ucsd-ped1", options)


def load_ped2(options: AnomalyOptions) -> AnomalySplit:
    """Load UCSD Ped2: 16 training clips (2,550 frames) and 12 test clips (2,010); see `load_ucsd`."""
    return load_ucsd("ucsd-ped2", options)


def load_ucsd(dataset: str, options: AnomalyOptions) -> AnomalySplit:
    """Load one scene of UCSD.

    Whole clips are held out, since frames of one clip are near duplicates. A test frame is anomalous where its mask marks a
    pixel; without a mask file the list of frames in the official .m file decides; without either it is unknown. A damaged
    frame is left out and named by `options.notice`. Frames keep their order, names are such as "ucsd-ped2/test/Test001/001".

    Args:
        dataset: "ucsd-ped1" or "ucsd-ped2".
        options: root: the folder that holds UCSD_Anomaly_Dataset.v1p2, that folder, or UCSDped1 or UCSDped2 in it; None: the
            cache, into which the archive (707 MiB, both scenes) is downloaded. category: not used.

    Raises:
        UsageError: no such root, colour, a category, or a held-out share that cannot be.
        DataError: files that are missing, or damaged (more than 1% of a part), or cannot be downloaded; masks that do not
            fit; fewer than two training clips.
    """
    check_held_out(options.held_out)
    if options.category is not None:
        raise UsageError(f"{dataset} has no categories; leave out {options.category!r}")
    preparation = options.preparation or default_preparation(options)
    if preparation.channels != 1:
        raise UsageError(f"{dataset} is grey: set channels to 1, not {preparation.channels}")
    scene = _SCENES[dataset]
    root = _find(options.root, scene) if options.root is not None else _from_cache(dataset, options)
    training = _clips(root / "Train")
    if not training:
        raise DataError(f"{shown(root / 'Train')} holds no clips (folders such as Train001 with 001.tif in it)")
    for_training, held_out = hold_out_groups(
        [len(clip.frames) for clip in training], options.held_out, options.seed, f"{dataset}: clips"
    )
    train = _images(dataset, [training[i] for i in for_training], preparation, options)[0]
    calibration = _images(dataset, [training[i] for i in held_out], preparation, options)[0]
    clips = _clips(root / "Test")
    if not clips:
        return AnomalySplit(dataset, train, calibration, held_out_clips=len(held_out))
    tested = _test(dataset, root / "Test", clips, preparation, options)
    return AnomalySplit(dataset, train, calibration, *tested, held_out_clips=len(held_out))


def frame_labels(path: Path) -> list[set[int]]:
    """The anomalous frames of each test clip, in the order of the clips, from the official .m file.

    Lines such as `TestVideoFile{end+1}.gt_frame = [5:90, 140:200];`: numbers from 1 on, both ends included.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    clips = []
    for content in _GT_LINE.findall(text):
        rest = _RANGE.sub("", content).replace(",", "").replace(";", "").replace("...", "").strip()
        if rest:
            raise DataError(f"{shown(path)} has frames {content.strip()[:80]!r}, not ranges such as [5:90, 140:200]")
        frames: set[int] = set()
        for first, last, single in _RANGE.findall(content):
            frames.update([int(single)] if single else range(int(first), min(int(last), 1_000_000) + 1))
        clips.append(frames)
    return clips


def _test(
    dataset: str, folder: Path, clips: Sequence[_Clip], preparation: Preparation, options: AnomalyOptions
) -> tuple[ImageSet, tuple[str, ...], Tensor | None, Tensor | None]:
    """The test images with labels, their defects, their masks and which masks are known."""
    images, files = _images(dataset, clips, preparation, options)
    pairs = [pair for clip, numbers in zip(clips, files, strict=True) for pair in _masks_of(folder, clip, numbers, options)]
    masks, marks = decoded_masks(pairs, preparation.size, options.workers, options.reading)
    lists = _frame_lists(folder / f"{_SCENES[dataset]}.m", clips)
    listed = [None if lists is None else number in lists[at] for at, numbers in enumerate(files) for number in numbers]
    labels = []
    for pair, marked, in_list in zip(pairs, marks.tolist(), listed, strict=True):
        anomalous = marked if pair is not None else in_list
        labels.append(UNKNOWN if anomalous is None else ANOMALOUS if anomalous else NORMAL)
    words = {NORMAL: GOOD, ANOMALOUS: "anomalous", UNKNOWN: "unknown"}
    test = replace(images, labels=torch.tensor(labels, dtype=torch.int64))
    defects = tuple(words[label] for label in labels)
    if not any(pair is not None for pair in pairs):
        return test, defects, None, None
    known = [pair is not None or label == NORMAL for pair, label in zip(pairs, labels, strict=True)]
    return test, defects, masks, torch.tensor(known, dtype=torch.bool)


def _frame_lists(path: Path, clips: Sequence[_Clip]) -> list[set[int]] | None:
    """The anomalous frames of each of these clips, where the .m file is there."""
    if not path.is_file():
        return None
    lists = frame_labels(path)
    at = [_last_number(clip.name) for clip in clips]  # Test004 is the fourth list, whichever clips are there
    if max(at) > len(lists) or min(at) < 1:
        raise DataError(f"{shown(path)} lists the frames of {len(lists)} clips, but there is {clips[at.index(max(at))].name}")
    return [lists[number - 1] for number in at]


def _images(
    dataset: str, clips: Sequence[_Clip], preparation: Preparation, options: AnomalyOptions
) -> tuple[ImageSet, list[dict[int, Path]]]:
    """The frames of these clips, and which files they are, damaged ones left out."""
    paths = [path for clip in clips for path in clip.frames.values()]
    found = decode_all(paths, preparation, options.workers, options.reading)
    if len(found.damaged) > _MOST_DAMAGED * len(paths):
        raise DataError(
            f"{dataset}: {len(found.damaged):,} of {len(paths):,} frames cannot be read, the first because "
            f"{found.damaged[0]}; unpack the archive again"
        )
    for line in found.damaged:
        options.tell(f"{dataset}: a frame is left out: {line}")
    whole = iter(found.whole)
    files = [{number: path for number, path in clip.frames.items() if next(whole)} for clip in clips]
    names = [
        f"{dataset}/{'train' if clip.name.startswith('Train') else 'test'}/{clip.name}/{path.stem}"
        for clip, numbers in zip(clips, files, strict=True)
        for path in numbers.values()
    ]
    here = [path for numbers in files for path in numbers.values()]
    images = stacked(here, found.images, [len(numbers) for numbers in files], preparation)
    return ImageSet(images, tuple(names)), files


def _clips(folder: Path) -> list[_Clip]:
    """The clips below Train or Test, by name: not their masks, not what macOS leaves (.DS_Store, ._001.tif)."""
    clips = []
    for below in _entries(folder):
        if below.name.endswith("_gt") or not below.is_dir() or not _NUMBER.search(below.name):
            continue
        frames = {_last_number(path.stem): path for path in _entries(below) if path.suffix.lower() in (".tif", ".tiff")}
        if frames:
            clips.append(_Clip(below.name, dict(sorted(frames.items()))))
    return clips


def _masks_of(folder: Path, clip: _Clip, frames: dict[int, Path], options: AnomalyOptions) -> list[tuple[Path, Path] | None]:
    """(mask, frame) of each frame of a clip, None where it has no mask."""
    here = {path.name.lower(): path for path in _entries(folder / f"{clip.name}_gt")}
    found = [here.get(f"{path.stem}.bmp".lower(), here.get(f"frame{path.stem}.bmp".lower())) for path in frames.values()]
    if here and None in found:
        options.tell(f"{shown(folder / clip.name)}_gt lacks the masks of {found.count(None):,} of {len(found):,} frames")
    return [None if mask is None else (mask, frame) for mask, frame in zip(found, frames.values(), strict=True)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read the folder {shown(folder)}: {error.strerror or error}") from None


def _last_number(name: str) -> int:
    numbers = _NUMBER.findall(name)
    return int(numbers[-1]) if numbers else 0


def _find(root: Path, scene: str) -> Path:
    """The scene's folder at or below a root that a person names."""
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises on a path that is too long
        raise UsageError(f"the UCSD folder {shown(root)} does not exist or is no folder; name it by --root")
    for folder in (root / FOLDER / scene, root / scene, root):
        if (folder / "Train").is_dir() and (folder != root or root.resolve().name == scene):
            return folder
    raise DataError(
        f"{shown(root)} lacks {FOLDER}/{scene}/Train; unpack there the archive from {URLS[0]}, "
        "or name no root to have it downloaded into the cache"
    )


def _from_cache(dataset: str, options: AnomalyOptions) -> Path:
    folder = from_archive("ucsd", FOLDER, URLS, MD5, BYTES, LICENCE, options, wanted=f"{_SCENES[dataset]}/Train")
    return folder / _SCENES[dataset]
