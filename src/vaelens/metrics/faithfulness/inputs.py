"""Images, maps and what is followed, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from vaelens.errors import UsageError, whole

Encode: TypeAlias = Callable[[Tensor], Tensor | tuple[Tensor, ...]]
"""Images (B, C, H, W) -> the values that are followed (B, D), or a posterior, whose mean (B, D) is followed."""
MOST_SEED = (1 << 63) - 2  # torch takes one more, which is left to those who draw a second time


def check_images(images: Tensor, name: str = "images") -> Tensor:
    """Images (B, C, H, W) as they are.

    Raises:
        UsageError: another shape, none of them, no floating-point numbers, or some that are not finite.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or 0 in images.shape:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"{name} are a tensor (B, C, H, W) of at least one, got {got}")
    if not images.is_floating_point():
        raise UsageError(f"{name} are floating-point numbers as the model takes them, got {images.dtype}")
    if not images.isfinite().all():
        raise UsageError(f"{name} must be finite; some pixel is NaN or infinite")
    return images


def check_maps(maps: Tensor, count: int | None = None, name: str = "maps") -> Tensor:
    """Maps (B, K, h, w) in main memory as float64, without their graph.

    Args:
        maps: of real numbers, higher where more attended.
        count: B, where it is known.

    Raises:
        UsageError: another shape, none of them, another number of images, or values that are not finite.
    """
    if not isinstance(maps, Tensor) or maps.ndim != 4 or 0 in maps.shape or maps.is_complex():
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise UsageError(f"{name} are a tensor (B, K, h, w) of real numbers, of at least one map, got {got}")
    if count is not None and len(maps) != count:
        raise UsageError(f"{name} are of {len(maps)} images, and there are {count}")
    values = maps.detach().cpu().double()
    if not values.isfinite().all():
        raise UsageError(f"{name} must be finite; some pixel is NaN or infinite")
    return values


def drawing(seed: int) -> torch.Generator:
    """What draws by a seed, in main memory.

    Raises:
        UsageError: no whole number from 0 on, or one beyond what torch takes.
    """
    return torch.Generator("cpu").manual_seed(whole("seed", seed, least=0, most=MOST_SEED))


def is_empty(maps: Tensor) -> Tensor:
    """Maps (..., h, w) -> bool (...): those of one value everywhere, which rank no pixel before another."""
    flat = maps.flatten(-2)
    return flat.amax(-1) == flat.amin(-1)


def values_of(encode: Encode, images: Tensor, batch_size: int) -> Tensor:
    """What is followed of images (N, C, H, W): (N, D), float64, in main memory.

    Raises:
        UsageError: what `encode` returns is no (N, D), or not finite.
    """
    found = []
    with torch.no_grad():
        for batch in torch.split(images, whole("batch_size", batch_size)):
            given = encode(batch)
            values = given[0] if isinstance(given, tuple | list) else given
            if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(batch):
                got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise UsageError(f"encode must return values (B, D), or a posterior (mean, logvar), got {got}")
            found.append(values.detach().cpu().double())
    values = torch.cat(found)
    if not values.isfinite().all():
        raise UsageError("encode returned a value that is no finite number; check the images and the model")
    return values


def check_latents(latents: Tensor | list[int] | tuple[int, ...] | None, values: int, maps: int | None) -> Tensor:
    """Which of the D values the K maps belong to, (K,).

    Args:
        latents: indices; None for all of them in order.
        values: D.
        maps: K; None where maps belong to no value in particular.

    Raises:
        UsageError: an index that there is not, or another number than there are maps.
    """
    try:
        chosen = torch.arange(values) if latents is None else torch.as_tensor(latents).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.zeros(0)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype not in (torch.int64, torch.int32):
        raise UsageError(f"latents are indices (K,) of values, at least one, got {latents!r}")
    if int(chosen.min()) < 0 or int(chosen.max()) >= values:
        raise UsageError(f"latents must be from 0 to {values - 1}, got {chosen.tolist()}")
    if maps is not None and len(chosen) != maps:
        raise UsageError(f"{maps} maps of each image need as many latents, got {len(chosen)}; name them by latents")
    return chosen.long()
