"""In which order pixels are replaced: by a map, at random, from the centre outwards, by how much replacing them changes."""

from __future__ import annotations

import torch
from torch import Tensor

BASELINES = ("random", "centre", "difference")
"""Maps that know nothing of the model: orders drawn at random, a Gaussian at the centre, and |image - replacement|."""


def ranks_of(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Maps (R, P) -> the place of each pixel in the order from the most attended on, (R, P), from 0; ties at random.

    A map at the resolution of a feature map is one value over many pixels, and often 0 over most; by their place in memory
    ties would be replaced from the top of the image down, which is an order of its own.
    """
    shuffled = torch.rand(maps.shape, generator=generator).argsort(1)
    order = shuffled.gather(1, maps.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(maps.shape[1]).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def centre_map(size: tuple[int, int]) -> Tensor:
    """(H, W), values in (0, 1]: a Gaussian at the centre with a spread of a quarter of each side."""
    rows, columns = ((torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / (side / 4) for side in size)
    return torch.exp(-(rows[:, None].square() + columns.square()) / 2)


def baseline_maps(name: str, images: Tensor, replacement: Tensor, repeats: int) -> Tensor:
    """Maps (B, R, H, W) of one of `BASELINES`, the same for every latent; R is `repeats` of "random", else 1."""
    count, _, *size = images.shape
    if name == "random":  # of one value: all order is that by which ties are broken
        return torch.zeros(count, repeats, *size, dtype=torch.float64)
    if name == "centre":
        return centre_map((size[0], size[1])).expand(count, 1, -1, -1)
    return (images - replacement).detach().cpu().double().abs().mean(1, keepdim=True)
