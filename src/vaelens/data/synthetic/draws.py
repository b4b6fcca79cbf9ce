"""What shapes and contents are drawn with: numbers and smooth noise, all from one generator on the CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TURN = 2 * math.pi


def uniform(generator: torch.Generator, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(count,), in [low, high)."""
    return torch.rand(count, generator=generator) * (high - low) + low


def log_uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    """(count,), in [low, high) and as often in one octave as in another."""
    return low * (high / low) ** uniform(generator, count)


def chance(generator: torch.Generator, count: int, share: float) -> Tensor:
    """(count,), bool, True with probability `share`."""
    return uniform(generator, count) < share


def sign(generator: torch.Generator, count: int) -> Tensor:
    """(count,), -1 or 1."""
    return torch.where(chance(generator, count, 0.5), 1.0, -1.0)


def noise(generator: torch.Generator, count: int, height: int, width: int, cells: int) -> Tensor:
    """Smooth noise of unit standard deviation, about `cells` bumps a side: (count, height, width)."""
    cells = max(2, cells)
    coarse = torch.randn(count, 1, cells, cells, generator=generator)
    fine = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[:, 0]
    return fine / fine.flatten(1).std(1)[:, None, None].clamp_min(1e-6)
