"""How far attention maps of different latents overlap (eq. 5), as a figure in place of a loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vaelens.errors import UsageError
from vaelens.metrics.arrays import as_array
from vaelens.metrics.codes import Array
from vaelens.metrics.results import Result
from vaelens.objectives import empty_maps
from vaelens.objectives.attention_disentanglement import overlap

_FLOATS = 1 << 24  # of all pairs' maps at once: 64 MB


@dataclass(frozen=True, eq=False)
class AttentionOverlap(Result):
    """The overlap of the attention maps of D latents.

    Attributes:
        score: in [0, 1], the mean over images and pairs of latents; 0 is best, and what empty maps have too.
        of_drawn: likewise, over the pairs neither of whose maps is zero everywhere; None where there is none.
        per_pair: (D, D), in [0, 1], the mean over images for each two latents; 1 on the diagonal.
        empty: (D,), in [0, 1], the share of each latent's maps that are zero everywhere.
    """

    score: float
    of_drawn: float | None
    per_pair: NDArray[np.float64]
    empty: NDArray[np.float64]


def attention_overlap(maps: Array) -> AttentionOverlap:
    """2 sum min(a, b) / sum (a + b) over the pixels of two maps (eq. 5), for all pairs of latents in all images.

    Maps that ReLU leaves nothing of overlap with nothing: look at `empty`, and at `of_drawn`, beside the score.

    Args:
        maps: (N, D, h, w), values >= 0, such as `LatentMaps.per_latent` of all latents; D of 2 and more.

    Raises:
        UsageError: maps of another shape, fewer than two latents, no image, or values that are negative or not finite.
    """
    given = as_array(maps, "attention maps must be an array (images, latents, height, width)")
    if given.ndim != 4 or 0 in given.shape or given.shape[1] < 2:
        raise UsageError(f"attention maps are (images, latents, height, width), of at least 2 latents, got {given.shape}")
    if given.dtype.kind not in "fiub" or not (np.isfinite(given).all() and (given >= 0).all()):
        raise UsageError("attention maps must hold finite real numbers from 0 on; give the rectified maps")
    latents = given.shape[1]
    one, other = np.triu_indices(latents, 1)
    at_once = max(1, _FLOATS // (len(one) * given.shape[2] * given.shape[3]))
    total, drawn = torch.zeros(len(one), dtype=torch.float64), 0
    empty = torch.zeros(latents, dtype=torch.float64)
    for start in range(0, len(given), at_once):
        part = torch.from_numpy(np.ascontiguousarray(given[start : start + at_once], np.float32))
        nothing = empty_maps(part)
        total += overlap(part.flatten(2)[:, one], part.flatten(2)[:, other]).double().sum(0)
        drawn += int((~(nothing[:, one] | nothing[:, other])).sum())
        empty += nothing.sum(0)
    pairs = np.eye(latents)
    pairs[one, other] = pairs[other, one] = (total / len(given)).numpy()
    return AttentionOverlap(
        score=float(total.mean()) / len(given),
        of_drawn=float(total.sum()) / drawn if drawn else None,  # the others add nothing
        per_pair=pairs,
        empty=(empty / len(given)).numpy(),
    )
