"""Deviation attention: what in the image moves the latents away from where its normal neighbours have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention, PosteriorMaps
from vaelens.attention.maps import resize
from vaelens.errors import UsageError, whole
from vaelens.localizers.base import Localization, Localizer, as_batches
from vaelens.localizers.encoded import activations

_MEASURED = 512  # normal images that the usual level of each latent's deviation is measured on
_MEMORY = 1 << 30  # bytes that a layer's feature maps of normal images may take; beyond it every second serves, or third
_BETWEEN = "+"  # layers named in one word
_ALL = "all"  # every activation


class DeviationLocalizer(Localizer):
    """Each latent's weighted feature map less that of the nearest normal images, in units of what normal images show.

    Latents differ in scale by orders of magnitude, and so do layers: in each layer each latent's deviation is divided by its
    level, the root mean square over pixels that normal images usually have, each compared with its own neighbours, itself left
    out. The map is the mean over latents and layers; the score is the geometric mean over latents and layers of the root mean
    square over pixels. 1 is usual for a normal image.

    Args:
        model: the trained network.
        layer: whose feature map; several, "encoder.relu1+encoder.relu2" or a sequence; "all" for every activation's; None for
            the last feature map.
        neighbours: how many normal images the reference is the mean of; None for all of them (a fixed camera).
        ridge: the mean is weighted so that the neighbours' codes meet the image's; None for equal weights.

    Raises:
        UsageError: an unknown layer, one that is named twice, or a number that cannot be.
    """

    name: ClassVar[str] = "deviation"
    explains: ClassVar[str] = "attention of each latent's deviation from the nearest normal images"

    def __init__(
        self,
        model: nn.Module,
        layer: str | Sequence[str] | None = None,
        neighbours: int | None = 20,
        ridge: float | None = 0.3,
    ) -> None:
        self.attentions = [LatentAttention(model, one) for one in (activations(model) if layer == _ALL else _names(layer))]
        layers = [attention.layer for attention in self.attentions]
        if len(set(layers)) < len(layers):
            raise UsageError(f"localizer '{self.name}' takes each layer once, got {_BETWEEN.join(layers)}")
        self.neighbours = None if neighbours is None else whole("neighbours", neighbours)
        self.ridge = ridge
        self._layers: list[_Layer] = []

    @property
    def references(self) -> tuple[Deviation, ...]:
        """What each layer's feature maps are compared with; empty before `fit`."""
        return tuple(layer.reference for layer in self._layers)

    def fit(self, normal: Tensor) -> Self:
        self._layers = [self._fitted(attention, normal) for attention in self.attentions]
        return self

    def localize(self, images: Tensor) -> Localization:
        if not self._layers:
            raise self.not_fitted()
        found = [layer.deviation(images) for layer in self._layers]
        size = images.shape[2], images.shape[3]
        maps = torch.stack([resize(deviation.abs().mean(1), size) for deviation, _ in found]).mean(0)
        levels = torch.cat([_rms(deviation) for deviation, _ in found], 1)
        return Localization(maps, _geometric_mean(levels, dim=1), found[0][1])

    def posterior(self, images: Tensor) -> PosteriorMaps:
        """The distribution of each latent's deviation in units of its level, (B, D, h, w), exactly; of one layer.

        Raises:
            UsageError: called before `fit`, or of several layers, whose deviations have different sizes.
        """
        if not self._layers:
            raise self.not_fitted()
        if len(self._layers) > 1:
            raise UsageError(f"localizer '{self.name}' has a distribution for one layer at a time; name one by layer")
        return self._layers[0].posterior(images)

    def _fitted(self, attention: LatentAttention, normal: Tensor) -> _Layer:
        with torch.no_grad():
            first = attention.encode(next(as_batches(normal[:1]))).features
        kept = normal[:: -(-len(normal) * first.nbytes // _MEMORY)]
        neighbours = None if self.neighbours is None else min(self.neighbours, len(kept))
        reference = Deviation.fit(attention, kept, neighbours, ridge=self.ridge)
        step = max(1, len(kept) // _MEASURED)
        with torch.no_grad():
            own = (reference.maps(attention, batch, leave_out_self=True).signed for batch in as_batches(kept[::step]))
            return _Layer(attention, reference, _geometric_mean(torch.cat([_rms(signed) for signed in own]), dim=0))


@dataclass(frozen=True)
class _Layer:
    """The deviation at one layer, and the level (D,) that each latent's has on normal images."""

    attention: LatentAttention
    reference: Deviation
    level: Tensor

    def deviation(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Signed maps (B, D, h, w) in units of the level, and the posterior."""
        with torch.no_grad():
            found = self.reference.maps(self.attention, images)
        return found.signed / self.level[:, None, None], (found.mean, found.logvar)

    def posterior(self, images: Tensor) -> PosteriorMaps:
        """The distribution of that deviation over the posterior."""
        level = self.level[:, None, None]
        with torch.no_grad():
            found = self.reference.posterior(self.attention, images)
        return PosteriorMaps(found.slope / level, replace(found.maps, signed=found.maps.signed / level))


def _names(layer: str | Sequence[str] | None) -> list[str | None]:
    if layer is None or not isinstance(layer, str | Sequence):
        return [layer]  # None for the last; what is no name is refused where layers are looked up
    names = layer.split(_BETWEEN) if isinstance(layer, str) else list(layer)
    if not names:
        raise UsageError("localizer 'deviation' takes at least one layer, or None for the last feature map")
    return [name.strip() if isinstance(name, str) else name for name in names]


def _geometric_mean(values: Tensor, dim: int) -> Tensor:
    return values.clamp_min(1e-12).log().mean(dim).exp()


def _rms(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, D), root mean square over pixels."""
    return maps.square().mean((2, 3)).sqrt()
