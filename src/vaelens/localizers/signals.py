"""What a VAE and normal images have to say about every pixel of an image, stacked as channels."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vaelens.data.brightness import middle_and_spread
from vaelens.localizers.attention import codes
from vaelens.localizers.base import as_floats, mean_image
from vaelens.localizers.encoded import nearest
from vaelens.localizers.matching import MatchingLocalizer

_NEAREST = 5
_LEAST_SPREAD = 0.03


class Signals:
    """Signals of images against normal ones, each at the images' size.

    First, for each channel and in units of the image's own contrast: the image, and its difference from what is usual there,
    the mean of the nearest normal images in latent space, or of all for a fixed camera. Then, without a sign: the least
    difference from one of these neighbours, but not for a fixed camera, where many things move by themselves and no other
    image shows them all alike; and the matched deviation from all normal images.

    Args:
        model: the trained network.
        fixed_camera: whether a place shows the same thing in every image.
        frames: of a video, see `MatchingLocalizer`.
    """

    def __init__(self, model: nn.Module, fixed_camera: bool = False, frames: int = 1) -> None:
        self.model = model
        self.fixed_camera = fixed_camera
        self._matching = MatchingLocalizer(model, neighbours=None, frames=frames)
        self._near = None if fixed_camera else MatchingLocalizer(model, frames=frames)
        self._codes = self._normal = self._mean = torch.empty(0)

    @property
    def unsigned(self) -> int:
        """How many of the signals, the last ones, have no sign."""
        return 1 if self.fixed_camera else 2

    def count(self, channels: int) -> int:
        """How many signals there are of images with so many channels."""
        return 2 * channels + self.unsigned

    def fit(self, normal: Tensor) -> Self:
        """Take normal images (N, C, H, W), uint8 or float in [0, 1], to compare with. Returns itself."""
        self._matching.fit(normal)
        if self._near is None:
            self._mean = mean_image(normal)
        else:
            self._near.fit(normal)
            self._normal, self._codes = normal, codes(self.model, normal)[0]
        return self

    def __call__(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Images (B, C, H, W), float in [0, 1] -> signals (B, count, H, W), and mean and log variance (B, D)."""
        matched = self._matching.localize(images)
        assert matched.posterior is not None
        unsigned = [matched.maps]
        usual = self._mean
        if not self.fixed_camera:
            neighbours = as_floats(self._normal[nearest(matched.posterior[0], self._codes, _NEAREST)])
            usual = neighbours.mean(1)
            unsigned.insert(0, (images[:, None] - neighbours).abs().mean(2).amin(1))
        middle, spread = (wide[:, None, None, None] for wide in middle_and_spread(images.flatten(1), _LEAST_SPREAD))
        signed = torch.cat([images - middle, images - usual], 1) / spread
        return torch.cat([signed, torch.stack(unsigned, 1)], 1), matched.posterior

    def matched(self, images: Tensor, signals: Tensor) -> Tensor:
        """The matched deviation that can be trusted most, (B, H, W), of images and their signals.

        For a fixed camera that from all normal images, which is the last signal. Else that from the nearest ones in latent
        space: it finds more, but takes too long for all the images that a head learns from.
        """
        return signals[:, -1] if self._near is None else self._near.anomaly_map(images)
