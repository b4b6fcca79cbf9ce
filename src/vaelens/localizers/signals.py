"""What a VAE and normal images have to say about every pixel of an image, stacked as channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from vaelens.attention.maps import resize
from vaelens.data.brightness import quantiles
from vaelens.localizers.attention import codes
from vaelens.localizers.base import as_floats
from vaelens.localizers.encoded import activations, encoded, nearest
from vaelens.localizers.matching import MatchingLocalizer

_NEAREST = 5
_LEAST_SPREAD = 0.03
POSITIVE = 4  # so many signals before those of the matchings are differences without a sign, as are those


class Signals:
    """Signals of images against normal ones.

    In order, each at the images' size: the image, its reconstruction, their difference, and its difference from the mean of
    its nearest normal images in latent space, all in units of the image's own contrast, for each channel; then the absolute
    difference from the reconstruction, the least absolute difference from a neighbour, the differences of the first two
    activations between image and reconstruction, and each matched deviation.

    Args:
        model: the trained network.
        matchings: unfitted localizers of matched deviations.
    """

    def __init__(self, model: nn.Module, matchings: Sequence[MatchingLocalizer]) -> None:
        self.model = model
        self._matchings = matchings
        self._layers = activations(model)[:2]
        self._codes = self._normal = torch.empty(0)

    def fit(self, normal: Tensor) -> Self:
        """Take normal images (N, C, H, W), uint8 or float in [0, 1], to compare with. Returns itself."""
        for matching in self._matchings:
            matching.fit(normal)
        self._normal = normal
        self._codes = codes(self.model, normal)[0]
        return self

    def __call__(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Images (B, C, H, W), float in [0, 1] -> signals (B, 4 C + 4 + matchings, H, W), and mean and log variance (B, D)."""
        with torch.no_grad():
            mean, logvar, seen = encoded(self.model, self._layers, images)
            reconstruction = self.model.decode(mean)  # type: ignore[operator]
            neighbours = as_floats(self._normal[nearest(mean, self._codes, _NEAREST)])
            middle, spread = _contrast(images)
            size = images.shape[2], images.shape[3]
            again = encoded(self.model, self._layers, reconstruction)[2]
            differences = [(one - other).abs().mean(1) for one, other in zip(seen, again, strict=True)]
            differences += differences[-1:] * (2 - len(differences))
            signed = [images - middle, reconstruction - middle, images - reconstruction, images - neighbours.mean(1)]
            positive = [
                (images - reconstruction).abs().mean(1),
                (images[:, None] - neighbours).abs().mean(2).amin(1),
                *(resize(one, size) for one in differences),
                *(matching.localize(images).maps for matching in self._matchings),
            ]
        signals = torch.cat([torch.cat(signed, 1) / spread, torch.stack(positive, 1)], 1)
        return signals, (mean, logvar)


def _contrast(images: Tensor) -> tuple[Tensor, Tensor]:
    """Median and robust spread of each image, (B, 1, 1, 1): a normal distribution's standard deviation from its deciles."""
    low, middle, high = (level[:, None, None, None] for level in quantiles(images.flatten(1), (0.1, 0.5, 0.9)))
    return middle, ((high - low) / 2.56).clamp_min(_LEAST_SPREAD)
