"""Several maps of the same images as one: each in units of its spread on normal ones, weighed by what it finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.metrics.ranking import auroc

_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Combined:
    """How n maps become one.

    Attributes:
        table: (n, 3), of each map the mean and the standard deviation on normal images, and the weight; weights add up to 1.
    """

    table: Tensor

    @classmethod
    def measured(cls, maps: Tensor, masks: Tensor) -> Combined:
        """From maps (n, N, H, W) of examples with known defects, masks (N, H, W), bool.

        Means and spreads are those of the images without a defect. A map weighs as its Gini coefficient over all pixels,
        2 AUROC - 1: not at all where it finds no more than chance does. Where none finds more, or no pixel is marked, all weigh
        alike.
        """
        at = masks.to(maps.device)
        clean = maps[:, ~at.flatten(1).any(1)]
        trusted = [max(0.0, 2 * auroc(one[~at], one[at]) - 1) if at.any() else 0.0 for one in maps]
        weights = torch.tensor(trusted if sum(trusted) > 0 else [1.0] * len(maps), device=maps.device)
        spreads = clean.std((1, 2, 3)).clamp_min(_LEAST_SPREAD)
        return cls(torch.stack([clean.mean((1, 2, 3)), spreads, weights / weights.sum()], 1))

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps (n, B, H, W) -> (B, H, W), log(1 + exp(weighted mean)): near 0 on normal pixels, and never below it."""
        means, spreads, weights = self.table[:, :, None, None, None].unbind(1)
        return functional.softplus(((maps - means) / spreads * weights).sum(0))
