"""The distribution of a map over the posterior, in closed form: the paper's future work, without a sample.

The signed map of z_i = mean_i + std_i e is affine in e ~ N(0, 1), so each of its pixels is Gaussian, and its rectified value
a rectified Gaussian, or a folded one where the absolute value rectifies. So are the maps of scores that are affine in z: see
`attention.scores`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vaelens.attention.maps import LatentMaps
from vaelens.attention.variants import is_linear
from vaelens.errors import UsageError

_FAR = 40.0  # standard deviations, from where on the normal distribution is 0 or 1 in every precision


@dataclass(frozen=True)
class PosteriorMaps:
    """Each pixel of each signed map as a Gaussian.

    Attributes:
        slope: (B, K, h, w), by how much each signed map changes with its own e ~ N(0, 1), one per image and latent; signed.
            (B, R, h, w) for one map (K = 1) that R of them move together, as all latents move their sum.
        maps: the maps at e = 0. Their `rectifier` says whether a map is ReLU of the signed one or its absolute value.
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
        return self.slope.abs() if self._own else _root(self.slope.square().sum(1, keepdim=True))

    @property
    def rectified_mean(self) -> Tensor:
        """(B, K, h, w), the expectation of the map: of ReLU of the signed one, or of its absolute value."""
        mean, std = self.mean, self.std
        ratio = self._ratio(mean)
        if self._folded:
            smooth = mean * torch.erf(ratio / math.sqrt(2)) + 2 * std * _density(ratio)
        else:
            smooth = mean * _below(ratio) + std * _density(ratio)
        return torch.where(std > 0, smooth, self._rectified(mean))

    @property
    def rectified_std(self) -> Tensor:
        """(B, K, h, w), the standard deviation of the map."""
        ratio = self._ratio(self.mean).clamp(-_FAR, _FAR)
        density = _density(ratio)
        # As products of tails: squares of a mean that is large against the spread would cancel.
        if self._folded:
            inside, outside = torch.erf(ratio / math.sqrt(2)), torch.erfc(ratio.abs() / math.sqrt(2))
            share = 1 + ratio.square() * outside * (2 - outside) - 4 * density * (ratio * inside + density)
        else:
            below, above = _below(-ratio), _below(ratio)
            share = above + ratio.square() * above * below + ratio * density * (below - above) - density.square()
        return self.std * _root(share.clamp_min(0))

    def probability(self, above: float = 0.0) -> Tensor:
        """(B, K, h, w), the probability that the signed map is greater than `above`; that it is in size, if that rectifies."""
        mean = self.mean
        certain = ((mean.abs() if self._folded else mean) > above).to(mean.dtype)
        if self._folded:
            lower = _below(self._ratio(-mean - max(above, 0.0)))
            smooth = _below(self._ratio(mean - max(above, 0.0))) + lower
            smooth = torch.ones_like(smooth) if above < 0 else smooth
        else:
            smooth = _below(self._ratio(mean - above))
        return torch.where(self.std > 0, smooth, certain)

    def overall_mean(self) -> Tensor:
        """(B, h, w), the expectation of the mean of the maps over the K latents."""
        return self.rectified_mean.mean(1)

    def overall_std(self) -> Tensor:
        """(B, h, w), the standard deviation of that mean; latents are independent of each other over the posterior."""
        return _root(self.rectified_std.square().sum(1)) / self.mean.shape[1]

    def sample(self, generator: torch.Generator | None = None) -> LatentMaps:
        """The maps for one e ~ N(0, 1) per image and latent."""
        mean, slope = self.maps.signed, self.slope
        noise = torch.randn(slope.shape[:2], generator=generator, dtype=slope.dtype, device=slope.device)
        moved = noise[..., None, None] * slope
        return replace(self.maps, signed=mean + (moved if self._own else moved.sum(1, keepdim=True)))

    def detach(self) -> PosteriorMaps:
        """The same distribution without its graph."""
        return self._each(Tensor.detach, LatentMaps.detach)

    def cpu(self) -> PosteriorMaps:
        """The same distribution in main memory."""
        return self._each(Tensor.cpu, LatentMaps.cpu)

    def plot(
        self,
        images: Tensor | None = None,
        latents: int | Sequence[int] | None = None,
        *,
        axes: Any = None,
        at: int = 0,
        above: float | None = None,
        limit: float | None = None,
    ) -> Any:
        """Draw, for one image, each map at the posterior mean, its standard deviation on the same scale, and a probability.

        Args:
            images: whose maps these are, (B, C, H, W), or (C, H, W) of one, uint8 or floats in [0, 1]; None: the maps alone.
            latents: which of those explained; None for all, or of many the six of the largest maps.
            axes: matplotlib Axes to draw into, three for each latent; None: a new figure.
            at: which image.
            above: what the probability is of exceeding; None: 0, or half the largest map where the absolute value rectifies.
            limit: upper end of the scale of maps and spreads; None takes the 99.5th percentile over what is drawn.

        Returns:
            The axes as they were given; or the new Figure, which notebooks show and pyplot does not know.

        Raises:
            UsageError: images or axes that are not as many, a latent that was not explained, or no such image.
        """
        from vaelens.attention.drawing import plot_posterior  # draws by the report, which imports matplotlib

        return plot_posterior(self, images, latents, axes, at, above, limit)

    def show(self) -> None:
        """Show it: in a notebook as a picture, else in a window where there is a display, else in words."""
        from vaelens.report.notebook import show

        show(self)

    def in_words(self) -> str:
        """Of how many images and latents, at which layer."""
        from vaelens.attention.drawing import told

        return told(self.maps)

    def _repr_html_(self) -> str:
        from vaelens.attention.drawing import html_of_posterior

        return html_of_posterior(self)

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def _own(self) -> bool:
        """Whether each map has an e of its own."""
        return self.slope.shape[1] == self.maps.signed.shape[1]

    @property
    def _folded(self) -> bool:
        return self.maps.rectifier == "abs"

    def _rectified(self, signed: Tensor) -> Tensor:
        return signed.abs() if self._folded else signed.relu()

    def _ratio(self, distance: Tensor) -> Tensor:
        std = self.std
        return distance / torch.where(std > 0, std, torch.ones_like(std))

    def _each(self, tensor: Callable[[Tensor], Tensor], maps: Callable[[LatentMaps], LatentMaps]) -> PosteriorMaps:
        return PosteriorMaps(tensor(self.slope), maps(self.maps))


def check_exact(variant: str) -> None:
    """Refuse a variant whose weights are not linear in the gradient.

    Raises:
        UsageError: such a variant.
    """
    if not is_linear(variant):
        raise UsageError(f"the distribution of maps is exact for variants 'cvpr' and 'hirescam', not for '{variant}'")


def std_by_logvar(mean: Tensor, logvar: Tensor) -> Tensor:
    """Posteriors (B, D) -> (B, D), the derivative of each std_i = exp(logvar_i / 2) by logvar_i."""
    return torch.exp(logvar / 2) / 2


def _below(ratio: Tensor) -> Tensor:
    """The normal distribution function; of torch's own the lower tail is lost beyond 6 or 8 standard deviations."""
    return torch.erfc(ratio * -math.sqrt(0.5)) / 2


def _density(ratio: Tensor) -> Tensor:
    return torch.exp(-(ratio.square()) / 2) / math.sqrt(2 * math.pi)


def _root(square: Tensor) -> Tensor:
    """The square root, with a slope of 0 where it is 0 and not an infinite one."""
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
