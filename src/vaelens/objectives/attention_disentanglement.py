"""The attention disentanglement loss (eq. 5): attention maps of different latents should not overlap."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vaelens.attention.maps import LatentMaps
from vaelens.errors import UsageError, unknown

PAIRS = ("random", "top2", "all")
RECTIFIERS = ("relu", "abs")


def attention_disentanglement(
    maps: LatentMaps | Tensor,
    pairs: str = "all",
    generator: torch.Generator | None = None,
    rectifier: str | None = None,
) -> Tensor:
    """How far the maps of different latents overlap, in the mean over images and pairs of latents.

    For a pair of maps M_i, M_j (eq. 5)

        L = 2 sum_pixels min(M_i, M_j) / sum_pixels (M_i + M_j),

    which is 1 for equal maps, 0 for disjoint ones, and 0 where both are zero everywhere. Add it, weighted, to the loss of a
    VAE: with the maps of `LatentAttention` it is differentiable by the encoder's weights, alpha included.

    A map that ReLU leaves nothing of overlaps with nothing, so encoders learn to have such maps (`empty_maps` tells how many).
    With rectifier "abs" what lowers a latent counts as what raises it, and maps can get out of each other's way by place alone.

    Args:
        maps: `LatentMaps` with K latents, or the maps themselves, (B, K, h, w), values >= 0.
        pairs: which two latents enter, a point on which the paper is silent: "random", one pair drawn for the whole batch;
            "top2", in each image the two latents of largest |posterior mean|, which takes `LatentMaps`; "all", every pair.
        generator: where the random pair comes from; torch's global generator where None.
        rectifier: of the signed maps of `LatentMaps`: "relu" (eq. 2) or "abs"; None: the maps' own.

    Returns:
        Scalar in [0, 1].

    Raises:
        UsageError: unknown pairs or rectifier, maps of another shape or of fewer than two latents; "top2", or a rectifier,
            without `LatentMaps`.
    """
    if rectifier is not None:
        maps = _rectified(maps, rectifier)
    values = maps.per_latent if isinstance(maps, LatentMaps) else maps
    if pairs not in PAIRS:
        raise unknown("pairs", pairs, PAIRS)
    if not isinstance(values, Tensor) or values.ndim != 4 or 0 in values.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"attention maps are (B, K, h, w), got {got}")
    latents = values.shape[1]
    if latents < 2:
        raise UsageError("the attention disentanglement loss compares maps of two latents, and there is one: take at least two")
    # In float32 or better: sums over pixels lose what half precision cannot hold.
    values = values.to(torch.promote_types(values.dtype, torch.float32)).flatten(2)
    if pairs == "random":
        one, other = torch.randperm(latents, generator=generator, device=_device(generator, values))[:2].tolist()
        return overlap(values[:, one], values[:, other]).mean()
    if pairs == "top2":
        top = _strongest(maps)[..., None].expand(-1, -1, values.shape[2])
        return overlap(*values.gather(1, top).unbind(1)).mean()
    one, other = torch.triu_indices(latents, latents, 1, device=values.device)
    return overlap(values.index_select(1, one), values.index_select(1, other)).mean()


def empty_maps(maps: LatentMaps | Tensor) -> Tensor:
    """Which maps are zero everywhere: they overlap with nothing, so the loss is at its least where maps vanish, too.

    Args:
        maps: `LatentMaps`, or the maps themselves, (B, K, h, w), values >= 0.

    Returns:
        (B, K), bool.
    """
    values = maps.per_latent if isinstance(maps, LatentMaps) else maps
    return values.flatten(2).amax(2) <= 0


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """2 sum min(a, b) / sum (a + b) over the last dimension, in [0, 1]; 0, with no gradient, where both are zero.

    Args:
        one: (..., P), values >= 0.
        other: (..., P), values >= 0.
    """
    both = (one + other).sum(-1)
    there = both > torch.finfo(both.dtype).tiny  # by less, what the gradient divides by, nothing can be divided
    return 2 * torch.minimum(one, other).sum(-1) / torch.where(there, both, 1.0) * there


def _rectified(maps: LatentMaps | Tensor, rectifier: str) -> LatentMaps:
    if rectifier not in RECTIFIERS:
        raise unknown("rectifier", rectifier, RECTIFIERS)
    if not isinstance(maps, LatentMaps):
        raise UsageError("a rectifier is for signed maps: give the LatentMaps themselves, or leave it out")
    return replace(maps, rectifier=rectifier)


def _strongest(maps: LatentMaps | Tensor) -> Tensor:
    """(B, 2): positions of the maps of the two latents of largest |posterior mean|."""
    if not isinstance(maps, LatentMaps):
        raise UsageError("pairs 'top2' needs posterior means: give the LatentMaps themselves, or take 'random' or 'all'")
    strength = maps.mean.detach().abs()
    return strength.gather(1, maps.latents.expand(len(strength), -1)).topk(2, dim=1).indices


def _device(generator: torch.Generator | None, values: Tensor) -> torch.device:
    return values.device if generator is None else generator.device
