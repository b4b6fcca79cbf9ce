"""Image files decoded in parallel, once: what was decoded is kept in the cache and mapped into memory the next time.

Threads, not processes: Pillow and zlib release the interpreter while they work, nothing has to be copied between processes,
and nothing has to start. Measured on 2 busy cores, 4,560 TIFF frames of UCSD Ped2 at 180x120, to 100x100: 6.2 s by one
thread, 3.4 s by two, 2.8 s by two processes, 0.08 s from the cache.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vaelens.data.files import shown
from vaelens.data.preparation import Preparation
from vaelens.data.row_cache import kept
from vaelens.errors import DataError, UsageError, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Reading = Callable[[int, int], None]

_MOST_WORKERS = 8
_AHEAD = 8  # decoded images that wait for each worker, at most
_VERSION = 1  # of what decoding gives; raise it when `read_image`, `read_mask` or `normalise` give something else
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Images that could be decoded.

    Attributes:
        images: uint8, (M, C, H, W), of the files that are whole, in order.
        whole: for each file that was named, whether it is among them.
        damaged: for each that is not, one line that names it and says why.
    """

    images: Tensor
    whole: tuple[bool, ...]
    damaged: tuple[str, ...]


def decoded(
    paths: Sequence[Path], preparation: Preparation, workers: int | None = None, reading: Reading | None = None
) -> Tensor:
    """Decode image files, or take them from the cache.

    The key of the cache is the list of absolute paths with their sizes and times of change, and the preparation. It lies in
    $VAELENS_CACHE/decoded (else ~/.cache/vaelens/decoded), holds $VAELENS_DECODED_CACHE_GB GiB at most (8 without it,
    0 for none), and forgets what was not used for longest. Where it cannot be written the images are held in memory.

    Args:
        paths: the files, in order.
        preparation: what they become. Neighbouring frames are not stacked, see `stacked`.
        workers: threads; None: one for each core that this process may use, 8 at most.
        reading: called with (files so far, files in all) while files are decoded, from this thread.

    Returns:
        uint8, (N, C, H, W), values 0 to 255. Writing to it changes no file.

    Raises:
        DataError: a file that cannot be read as an image; the line names it.
        UsageError: workers below 1, or an environment variable that is no size.
    """
    result = decode_all(paths, preparation, workers, reading, strict=True)
    return result.images


def decode_all(
    paths: Sequence[Path],
    preparation: Preparation,
    workers: int | None = None,
    reading: Reading | None = None,
    strict: bool = False,
) -> Decoded:
    """Like `decoded`, but files that cannot be read are left out and named, unless `strict`."""
    import numpy as np

    one = preparation.single
    threads = _threads(workers)

    def read(path: Path) -> tuple[NDArray[np.uint8] | None, str | None]:
        try:
            return one.read(path).numpy(), None
        except DataError as error:
            if strict:
                raise
            return None, str(error)

    key = [f"images {_VERSION} {strict} {one}", _pillow(), *map(_state, paths)]
    found = kept(key, (len(paths), *one.image_shape), "uint8", lambda: _in_order(read, paths, threads, reading))
    damaged = tuple(note for note in found.notes if note is not None)
    return Decoded(found.rows, tuple(note is None for note in found.notes), damaged)


def decoded_masks(
    masks: Sequence[tuple[Path, Path] | None],
    size: tuple[int, int],
    workers: int | None = None,
    reading: Reading | None = None,
) -> tuple[Tensor, Tensor]:
    """Read mask files, or take them from the same cache.

    Args:
        masks: for each image (its mask, its file), or None where there is no mask file.
        size: (height, width) to bring them to, by the nearest pixel.
        workers: see `decoded`.
        reading: see `decoded`.

    Returns:
        (masks, marks): bool (N, H, W), False all over without a mask file; bool (N,), whether a mask file marks any pixel,
        before it is shrunk.

    Raises:
        DataError: a file that is no image, or not as large as its image.
    """
    import numpy as np
    import torch

    from vaelens.data.masks import read_mask

    threads = _threads(workers)

    def read(mask: tuple[Path, Path] | None) -> tuple[NDArray[np.bool_], bool]:
        if mask is None:
            return np.zeros(size, bool), False
        pixels, marks = read_mask(*mask, size)
        return pixels.numpy(), marks

    key = [f"masks {_VERSION} {size}", _pillow()]
    key += ["none" if mask is None else f"{_state(mask[0])} of {_state(mask[1])}" for mask in masks]
    found = kept(key, (len(masks), *size), "bool", lambda: _in_order(read, masks, threads, reading))
    return found.rows, torch.tensor(found.notes, dtype=torch.bool)


def stacked(paths: Sequence[Path], frames: Tensor, clips: Sequence[int], preparation: Preparation) -> Tensor:
    """Put the neighbours of each frame of a video beside it, as channels; kept in the same cache.

    Args:
        paths: the files of the frames, for the key.
        frames: uint8, (N, 1, H, W), clip after clip.
        clips: number of frames of each clip; they add up to N.
        preparation: of which `frames` says how many neighbours; with 1 the frames are given back as they are.

    Returns:
        uint8, (N, F, H, W): channel k of frame t is frame t + k - F // 2 of the clip, or the clip's first or last frame
        where there is none.
    """
    import torch

    if sum(clips) != len(frames):
        raise UsageError(f"the clips have {sum(clips)} frames, not {len(frames)}")
    if preparation.frames == 1:
        return frames
    reach = torch.arange(preparation.frames) - preparation.frames // 2

    def rows() -> Iterator[tuple[Any, None]]:
        start = 0
        for count in clips:
            for at in range(count):
                neighbours = start + (at + reach).clamp(0, count - 1)
                yield frames[neighbours, 0].numpy(), None
            start += count

    key = [f"stacked {_VERSION} {preparation} {list(clips)}", _pillow(), *map(_state, paths)]
    return kept(key, (len(frames), *preparation.image_shape), "uint8", rows).rows


def _in_order(read: Callable[[_Item], _Made], items: Sequence[_Item], threads: int, reading: Reading | None) -> Iterator[_Made]:
    """Each item read, in order, by several threads that never run far ahead of what is taken."""
    waiting: deque[Future[_Made]] = deque()
    left = iter(items)
    done = 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="vaelens-decode")
    try:
        for item in left:
            waiting.append(pool.submit(read, item))
            if len(waiting) < threads * _AHEAD:
                continue
            yield waiting.popleft().result()
            done += 1
            if reading is not None:
                reading(done, len(items))
        while waiting:
            yield waiting.popleft().result()
            done += 1
            if reading is not None:
                reading(done, len(items))
    finally:  # also where a file is damaged or a person interrupts: nothing more is begun
        pool.shutdown(wait=True, cancel_futures=True)


def _threads(workers: int | None) -> int:
    if workers is not None:
        return whole("workers", workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def _state(path: Path) -> str:
    """What tells one content of a file from another without reading it."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from None
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _pillow() -> str:
    import PIL

    return f"Pillow {PIL.__version__}"
