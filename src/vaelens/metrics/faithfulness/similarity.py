"""How alike two maps are: Pearson, Spearman, cosine, and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from vaelens.errors import UsageError, unknown

SIMILARITIES = ("pearson", "spearman", "cosine", "ssim")
_WINDOW = 11


def map_similarity(one: Tensor, other: Tensor, kind: str = "spearman") -> Tensor:
    """How alike each two maps are: (..., h, w), (..., h, w) -> (...), float64, at most 1.

    Args:
        one, other: of one shape, on the same grid.
        kind: "pearson" and "spearman" (correlations over pixels, in [-1, 1]; ties have their mean rank), "cosine" (in [0, 1]
            for maps from 0 on), or "ssim" (Wang et al. 2004, each map over its largest absolute value, in [-1, 1]; a window
            of 11 pixels, or what smaller maps allow).

    Returns:
        NaN where nothing can be said: correlations where a map has one value everywhere, cosine and SSIM where it is 0.

    Raises:
        UsageError: maps of differing shapes, or an unknown kind.
    """
    if kind not in SIMILARITIES:
        raise unknown("similarity", kind, SIMILARITIES)
    if one.shape != other.shape or one.ndim < 2 or 0 in one.shape[-2:]:
        shapes = f"{tuple(one.shape)} and {tuple(other.shape)}"
        raise UsageError(f"maps are compared where they have one shape (..., h, w), got {shapes}")
    first, second = (each.detach().cpu().double() for each in (one, other))
    if not first.numel():
        return torch.zeros(first.shape[:-2], dtype=torch.float64)
    return _ssim(first, second) if kind == "ssim" else vector_similarity(first.flatten(-2), second.flatten(-2), kind)


def vector_similarity(one: Tensor, other: Tensor, kind: str) -> Tensor:
    """The same of vectors (..., P); every kind but "ssim"."""
    if kind == "spearman":
        one, other = ranked(one), ranked(other)
    return unit(one, kind).mul(unit(other, kind)).sum(-1).clamp(-1, 1)


def unit(values: Tensor, kind: str) -> Tensor:
    """Vectors (..., P) of length 1, less their mean but for "cosine"; NaN where nothing is left."""
    values = values / values.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    centred = values if kind == "cosine" else values - values.mean(-1, keepdim=True)
    constant = values.amax(-1, keepdim=True) == values.amin(-1, keepdim=True)  # else rounding is what would be compared
    nothing = (values == 0).all(-1, keepdim=True) if kind == "cosine" else constant
    return torch.where(nothing, torch.nan, centred / centred.norm(dim=-1, keepdim=True))


def ranked(values: Tensor) -> Tensor:
    """The rank of each of (..., P) among its fellows, from 1; those of one value have their mean rank."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    return torch.from_numpy(rankdata(values.numpy(), axis=-1)).double()


def _ssim(one: Tensor, other: Tensor) -> Tensor:
    from vaelens.objectives.ssim import ssim_residual

    shape = one.shape
    window = min(_WINDOW, 2 * min(shape[-2:]) - 1)
    scaled = []
    for maps in (one, other):
        flat = maps.reshape(-1, *shape[-2:])
        scaled.append(flat / flat.abs().amax((1, 2), keepdim=True))
    found = 1 - 2 * ssim_residual(scaled[0].unsqueeze(1), scaled[1].unsqueeze(1), window).mean((1, 2))
    return found.view(shape[:-2])
