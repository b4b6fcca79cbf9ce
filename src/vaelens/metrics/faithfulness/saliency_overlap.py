"""How far maps of different latents say the same, as Crabbe and van der Schaar (2022, Label-Free-XAI) measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.metrics.faithfulness.inputs import check_maps
from vaelens.metrics.faithfulness.similarity import ranked, unit


@dataclass(frozen=True)
class SaliencyOverlap:
    """Means over pairs of latents; lower where latents look at different things. NaN where no pair can be compared.

    Attributes:
        pearson: correlation over the pixels of all images at once, in [-1, 1].
        spearman: the same of ranks.
        cosine: in each image, then the mean over images; in [0, 1] for maps from 0 on. Pairs with an empty map are left out.
        empty: share of maps that are 0 everywhere.
    """

    pearson: float
    spearman: float
    cosine: float
    empty: float

    def to_dict(self) -> dict[str, Any]:
        """All of it by name."""
        return {"pearson": self.pearson, "spearman": self.spearman, "cosine": self.cosine, "empty": self.empty}


def saliency_overlap(maps: Tensor) -> SaliencyOverlap:
    """Pearson, Spearman and cosine between the maps of each two latents.

    Pearson and Spearman are over all images and pixels pooled, as in the authors' code (`pearson_saliency`,
    `spearman_saliency`): a latent whose maps are the stronger in the same images counts as alike. The cosine is taken in each
    image (`cos_saliency`), where theirs is NaN as soon as one map of one image is empty; here that pair is left out, and a
    latent without any map out of all. For the overlap of eq. 5 see `vaelens.metrics.attention_overlap`.

    Args:
        maps: (N, K, h, w), of 2 latents and more.

    Raises:
        UsageError: maps of another shape, of one latent, or not finite.
    """
    given = check_maps(maps)
    if given.shape[1] < 2:
        raise UsageError("the overlap of maps is between latents, of which there must be 2 or more")
    one, other = torch.triu_indices(given.shape[1], given.shape[1], 1)
    pooled = given.transpose(0, 1).flatten(1)
    pearson = unit(pooled, "pearson")
    spearman = unit(ranked(pooled), "spearman")
    each = unit(given.flatten(2), "cosine")
    cosine = torch.stack([(each[:, i] * each[:, j]).sum(-1).nanmean() for i, j in zip(one, other, strict=True)])
    return SaliencyOverlap(
        pearson=float((pearson @ pearson.T)[one, other].nanmean()),
        spearman=float((spearman @ spearman.T)[one, other].nanmean()),
        cosine=float(cosine.nanmean()),
        empty=float((given == 0).flatten(2).all(2).double().mean()),
    )
