"""Matched deviation: how far each patch of the feature map is from the most similar one that a normal image has there."""

from __future__ import annotations

import itertools
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.attention.maps import resize
from vaelens.errors import UsageError, whole
from vaelens.localizers.base import Localization, Localizer, as_batches
from vaelens.localizers.encoded import encoded, features_only, first_activation, nearest
from vaelens.localizers.places import Places, bytes_of
from vaelens.localizers.smoothing import smoothed

_CELLS = 64  # along the longer side; finer feature maps are averaged to about so many
_PLACES = 32  # cells along the longer side where every place keeps a memory of its own
_REMEMBERED = 2048  # normal images whose patches the places remember, at most
_PLACES_MEMORY = 1 << 29  # bytes that these may take
_SAMPLE = 160  # images that the principal components are taken from
_MEMORY = 1 << 30  # bytes that the feature maps of normal images may take; beyond it every second one serves, or every third
_BATCH = 64


class MatchingLocalizer(Localizer):
    """The least distance between a patch of the feature map and those of normal images near the same place.

    `Deviation` subtracts the mean feature map of the normal neighbours, which blurs whatever lies a little differently in
    each. Here every patch is compared with each neighbour by itself and a few cells around its place, and the least
    distance counts: a thread that is one cell further on is no defect, one that no neighbour has is.

    With `neighbours` k, those are the k normal images nearest in latent space. With None, as for a fixed camera, all normal
    images count, and every place remembers the patches that it has seen.

    Of several frames of a video, what is compared is how the feature map changes from each frame to the next: each frame is
    seen by itself, as a clip that stands still.

    The map is the distance per channel, smoothed, in units of the channel's standard deviation on normal images and the mean of
    all channels' together; where all normal images count, in the features' own unit. The score is the map's maximum.

    Args:
        model: the trained network.
        layer: whose feature map; None for the first activation, where detail is finest.
        neighbours: how many normal images, the nearest in latent space; None for all of them.
        window: how many cells around its place a patch is looked for, of 64 along the longer side with `neighbours`, else of
            32; None: 3 with `neighbours`, else 1.
        frames: of a video, how many frames the images' channels are; 1 where they are no frames.

    Raises:
        UsageError: a number below 1, or an unknown layer.
    """

    name: ClassVar[str] = "matching"
    explains: ClassVar[str] = "distance of each patch from the most similar one of the nearest normal images"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        neighbours: int | None = 20,
        window: int | None = None,
        frames: int = 1,
    ) -> None:
        self.model = model
        self.layer = layer if layer is not None else first_activation(model)
        self.neighbours = None if neighbours is None else whole("neighbours", neighbours)
        self.window = whole("window", window, least=0) if window is not None else (1 if neighbours is None else 3)
        self.frames = whole("frames", frames)
        self._codes = self._features = self._scale = torch.empty(0)
        self._places: Places | None = None

    def fit(self, normal: Tensor) -> Self:
        if self.neighbours is None:
            self._places = self._remembered(normal)
            return self
        first = self._seen(next(as_batches(normal[:1])))[2]
        step = -(-len(normal) * first.nbytes // _MEMORY)
        parts = [self._seen(batch) for batch in as_batches(normal[::step], _BATCH)]
        self._codes = torch.cat([code for code, _, _ in parts])
        features = torch.cat([feature for _, _, feature in parts])
        spread = features.std((0, 2, 3))
        # With its own spread alone a channel that is all but dead would count as much as one that sees something.
        self._scale = (spread + spread.mean()).clamp_min(1e-6)[:, None, None]
        self._features = features / self._scale
        return self

    def localize(self, images: Tensor) -> Localization:
        if self._places is None and not len(self._codes):
            raise self.not_fitted()
        codes, logvar, features = self._seen(images)
        if self._places is not None:
            cells = self._places.distances(features)
        else:
            assert self.neighbours is not None
            neighbours = nearest(codes, self._codes, self.neighbours)
            cells = torch.stack([self._matched(one / self._scale, at) for one, at in zip(features, neighbours, strict=True)])
        size = images.shape[2], images.shape[3]
        maps = smoothed(resize(cells, size), max(size) / 100 if self._places is None else max(size) / 50).clamp_min(0)
        return Localization(maps, maps.amax((1, 2)), (codes, logvar))

    def _seen(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and log variance (B, D), and the feature map at the resolution that is compared."""
        codes, logvar, (features,) = encoded(self.model, [self.layer], images)
        if self.frames > 1:
            features = self._changes(images)
        by = 1 if self.neighbours is None else _coarser(features, _CELLS)
        if by > 1:
            lacking = [-side % by for side in features.shape[2:]]  # so that the last rows and columns count as well
            features = functional.avg_pool2d(functional.pad(features, (0, lacking[1], 0, lacking[0]), mode="replicate"), by)
        return codes, logvar, features

    def _remembered(self, normal: Tensor) -> Places:
        """The places of all normal images, as many and as fine as memory allows."""
        chosen = normal[:: -(-len(normal) // _REMEMBERED)]
        sample = torch.cat([self._seen(batch)[2] for batch in as_batches(chosen[:: -(-len(chosen) // _SAMPLE)], _BATCH)])
        block, (height, width) = _coarser(sample, _PLACES), sample.shape[2:]
        steps = [step for step in range(1, block + 1) if block % step == 0]
        fine = [step for step in steps if bytes_of(len(chosen), height, width, step) <= _PLACES_MEMORY]
        step = fine[0] if fine else block
        chosen = chosen[:: -(-bytes_of(len(chosen), height, width, step) // _PLACES_MEMORY)]
        features = (self._seen(batch)[2] for batch in as_batches(chosen, _BATCH))
        return Places.fit(sample, features, self.window, block, step)

    def _changes(self, images: Tensor) -> Tensor:
        """How the feature map changes between neighbouring frames, (B, (frames - 1) n, h, w)."""
        if images.shape[1] != self.frames:
            raise UsageError(f"frames is how many channels the images have, {images.shape[1]}, not {self.frames}; leave it out")
        still = [images[:, at : at + 1].expand_as(images) for at in range(self.frames)]
        seen = [features_only(self.model, self.layer, clip) for clip in still]
        return torch.cat([after - before for before, after in itertools.pairwise(seen)], 1)

    def _matched(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """One image's features (n, h, w) and k normal images -> least distances (h, w)."""
        height, width = features.shape[1:]
        side = min(self.window, max(height, width) - 1)  # farther there is nothing
        around = functional.pad(self._features[neighbours], (side, side, side, side), mode="replicate")
        least = features.new_full((height, width), torch.inf)
        for down in range(2 * side + 1):
            for right in range(2 * side + 1):
                there = around[:, :, down : down + height, right : right + width]
                squared = (there - features).square_().mean(1, keepdim=True)
                patches = functional.avg_pool2d(squared, 3, stride=1, padding=1, count_include_pad=False)
                least = torch.minimum(least, patches[:, 0].amin(0))
        return least.sqrt()


def _coarser(features: Tensor, cells: int) -> int:
    """How many cells of a feature map (B, n, h, w) make one where there are to be about `cells` along the longer side."""
    return max(1, round(max(features.shape[2:]) / cells))
