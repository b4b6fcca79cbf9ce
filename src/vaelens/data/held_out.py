"""Which normal images are held out of training, by a seeded choice that is the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaelens.errors import DataError, UsageError


def check_held_out(held_out: float) -> None:
    """Refuse a held-out share that is not strictly between 0 and 1.

    Raises:
        UsageError: the share is outside (0, 1) or no number.
    """
    if not 0.0 < held_out < 1.0:
        raise UsageError(f"held_out is the share of normal images kept for calibration, in (0, 1), not {held_out}")


def hold_out(total: int, held_out: float, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """Choose the held-out ones among `total` things by a seeded permutation.

    Args:
        total: number of things.
        held_out: share to hold out, in (0, 1), rounded to whole things.
        seed: seed of the permutation.
        what: begins the message where the share does not work out, such as
            "mnist: held_out 0.01 of the 10 training images".

    Returns:
        (train, calibration): positions, int64, ascending.

    Raises:
        UsageError: a share outside (0, 1), or one that leaves nothing to train or to calibrate on.
    """
    check_held_out(held_out)
    count = round(total * held_out)
    if not 1 <= count < total:
        raise UsageError(f"{what} leaves {total - count} to train and {count} to calibrate on; each needs at least one")
    order = torch.randperm(total, generator=generator(seed), device="cpu")
    return order[count:].sort().values, order[:count].sort().values


def hold_out_groups(sizes: Sequence[int], held_out: float, seed: int, what: str) -> tuple[list[int], list[int]]:
    """Choose whole groups of images, such as clips of a video, until about a share of the images is held out.

    Frames of one clip are near duplicates: a threshold calibrated on frames whose neighbours were trained on would
    promise too much. Groups are taken in a seeded order as long as that brings the share nearer to `held_out`; at least
    one is taken and at least one is left.

    Args:
        sizes: images in each group, each at least 1.
        held_out: share of the images to hold out, in (0, 1).
        seed: seed of the order.
        what: the data set and what its groups are, for the message, such as "ucsd-ped2: clips".

    Returns:
        (train, calibration): positions of groups, ascending.

    Raises:
        UsageError: a share outside (0, 1).
        DataError: fewer than two groups.
    """
    check_held_out(held_out)
    if len(sizes) < 2:
        raise DataError(f"{what} to train on: {len(sizes)}; it takes two at least, one of them to calibrate on")
    wanted = sum(sizes) * held_out
    order = torch.randperm(len(sizes), generator=generator(seed), device="cpu").tolist()
    chosen = [order[0]]
    so_far = sizes[order[0]]
    for group in order[1:-1]:
        if abs(so_far + sizes[group] - wanted) >= abs(so_far - wanted):
            break
        chosen.append(group)
        so_far += sizes[group]
    return sorted(set(order) - set(chosen)), sorted(chosen)


def generator(seed: int) -> torch.Generator:
    """A CPU generator, whose stream is the same everywhere, whatever the default device.

    Raises:
        UsageError: a seed that is no whole number of at most 64 bits.
    """
    try:
        return torch.Generator(device="cpu").manual_seed(seed)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise UsageError(f"seed must be a whole number of at most 64 bits, not {seed!r}") from None
