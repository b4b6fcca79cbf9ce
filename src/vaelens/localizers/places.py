"""What every place of a fixed camera's view has looked like: patches by place, and the distance to the most similar one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_COMPONENTS = 48
_SAMPLE = 20_000  # patches that the principal components are taken from


@dataclass(frozen=True)
class Places:
    """The patches that normal images showed at each place.

    Attributes:
        mean: (n,), of the features.
        components: (n, k), their principal components.
        patches: (M, h, w, k), of M normal images.
        window: how many cells around its place a patch is looked for.
    """

    mean: Tensor
    components: Tensor
    patches: Tensor
    window: int

    @classmethod
    def fit(cls, features: Tensor, window: int, seed: int = 0) -> Places:
        """From feature maps (M, n, h, w) of normal images."""
        flat = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        mean = flat.mean(0)
        order = torch.randperm(len(flat), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        sample = flat[order[:_SAMPLE]] - mean
        _, _, axes = torch.linalg.svd(sample, full_matrices=False)
        components = axes[:_COMPONENTS].T.contiguous()
        return cls(mean, components, _projected(features, mean, components), window)

    def distances(self, features: Tensor) -> Tensor:
        """Feature maps (B, n, h, w) -> least distance to what that place and those around it showed, (B, h, w)."""
        asked = _projected(features, self.mean, self.components)
        _, height, width, depth = asked.shape
        near = self.window
        found = torch.empty(asked.shape[:3])
        for y in range(height):
            rows = self.patches[:, max(0, y - near) : y + near + 1]
            for x in range(width):
                seen = rows[:, :, max(0, x - near) : x + near + 1].reshape(-1, depth)
                here = asked[:, y, x]
                # |a - b|^2 by a matrix product; what cancels is far below the distances that matter
                least = (seen.square().sum(1) - 2 * here @ seen.T).amin(1)
                found[:, y, x] = (least + here.square().sum(1)).clamp_min(0).sqrt()
        return found


def _projected(features: Tensor, mean: Tensor, components: Tensor) -> Tensor:
    """(B, n, h, w) -> (B, h, w, k)."""
    return (features.permute(0, 2, 3, 1) - mean) @ components
