"""The distribution of a map over the posterior, in closed form: the paper's future work, without a sample.

The signed map of z_i = mean_i + std_i e is affine in e ~ N(0, 1), so each of its pixels is Gaussian, and its rectified value
a rectified Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vaelens.attention.maps import LatentMaps


@dataclass(frozen=True)
class PosteriorMaps:
    """Each pixel of each signed map as a Gaussian.

    Attributes:
        slope: (B, K, h, w), by how much the signed map changes per standard deviation of the latent; signed.
        maps: the maps at e = 0.
    """

    slope: Tensor
    maps: LatentMaps

    @property
    def mean(self) -> Tensor:
        """(B, K, h, w), the expected signed map: that at e = 0."""
        return self.maps.signed

    @property
    def std(self) -> Tensor:
        """(B, K, h, w), the standard deviation of the signed map over the posterior."""
        return self.slope.abs()

    @property
    def rectified_mean(self) -> Tensor:
        """(B, K, h, w), the expectation of ReLU of the signed map."""
        ratio = self._ratio(self.mean)
        density = torch.exp(-(ratio.square()) / 2) / math.sqrt(2 * math.pi)
        smooth = self.mean * torch.special.ndtr(ratio) + self.std * density
        return torch.where(self.std > 0, smooth, self.mean.relu())

    def probability(self, above: float = 0.0) -> Tensor:
        """(B, K, h, w), the probability that the signed map is greater than `above`."""
        certain = (self.mean > above).to(self.mean.dtype)
        return torch.where(self.std > 0, torch.special.ndtr(self._ratio(self.mean - above)), certain)

    def sample(self, generator: torch.Generator | None = None) -> LatentMaps:
        """The maps for one e ~ N(0, 1) per image and latent."""
        mean = self.maps.signed
        noise = torch.randn(mean.shape[:2], generator=generator, dtype=mean.dtype, device=mean.device)
        return replace(self.maps, signed=mean + noise[..., None, None] * self.slope)

    def _ratio(self, distance: Tensor) -> Tensor:
        return distance / torch.where(self.std > 0, self.std, torch.ones_like(self.std))
