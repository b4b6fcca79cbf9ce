"""The maps of a batch of images, latent by latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.errors import UsageError, whole

WHOLE = -1
"""What stands for a latent where a map is of a score of all latents together."""


@dataclass(frozen=True)
class LatentMaps:
    """Attention maps of the latents of a variational autoencoder (eq. 2 and 3).

    Attributes:
        signed: (B, K, h, w), the weighted sum of the feature map over channels, before rectification, in units of the latent
            times the feature map's. K is the number of latents asked for.
        weights: (B, K, n), the channel weights alpha; in variant "hirescam", which has one for each pixel, their spatial means.
        mean: (B, D), the posterior mean of all latents.
        logvar: (B, D), the log variance.
        latents: which latents the K maps belong to: (K,), or (B, K) where each image has its own; -1 for the map of a score of
            all latents together.
        layer: the dotted name of the layer whose feature map this is.
        method: "closed_form" or "vjp".
        variant: "cvpr", "arxiv_v1", "expvae" or "hirescam".
        rectifier: what makes a signed map a map, "relu" or "abs".
    """

    signed: Tensor
    weights: Tensor
    mean: Tensor
    logvar: Tensor
    latents: Tensor
    layer: str
    method: str
    variant: str = "cvpr"
    rectifier: str = "relu"
    _resized: Tensor | None = field(default=None, repr=False)

    @property
    def per_latent(self) -> Tensor:
        """(B, K, h, w), values >= 0: rectified by ReLU or, for `expvae` and for deviations, by the absolute value."""
        if self._resized is not None:
            return self._resized
        return self.signed.abs() if self.rectifier == "abs" else torch.relu(self.signed)

    def overall(self) -> Tensor:
        """(B, h, w), values >= 0: the mean of the maps over the K latents."""
        return self.per_latent.mean(1)

    def resize(self, size: tuple[int, int]) -> LatentMaps:
        """The same maps at (H, W) pixels, by bilinear interpolation of the rectified maps.

        Raises:
            UsageError: not two whole numbers from 1 on.
        """
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise UsageError(f"maps are resized to (height, width), got {size!r}")
        size = (whole("height", size[0]), whole("width", size[1]))
        return replace(self, signed=resize(self.signed, size), _resized=resize(self.per_latent, size))

    def first(self, rows: int) -> LatentMaps:
        """The first `rows` of the K maps of each image."""
        return replace(
            self,
            signed=self.signed[:, :rows],
            weights=self.weights[:, :rows],
            latents=self.latents[..., :rows],
            _resized=None if self._resized is None else self._resized[:, :rows],
        )

    def detach(self) -> LatentMaps:
        """The same maps without their graph."""
        return self._each(Tensor.detach)

    def to(self, device: torch.device | str) -> LatentMaps:
        """The same maps on another device."""
        return self._each(lambda t: t.to(device))

    def cpu(self) -> LatentMaps:
        """The same maps in main memory."""
        return self.to("cpu")

    def plot(
        self,
        images: Tensor | None = None,
        latents: int | Sequence[int] | None = None,
        *,
        axes: Any = None,
        limit: float | None = None,
        most: int | None = None,
    ) -> Any:
        """Draw the maps over their images, all on one colour scale.

        Args:
            images: whose maps these are, (B, C, H, W), or (C, H, W) of one, uint8 or floats in [0, 1]; None: the maps alone.
            latents: which of those explained; None for all.
            axes: matplotlib Axes to draw into, one for each map, image by image and latent by latent, in any array or sequence;
                their units become the image's pixels. None: a new figure, with names and a colour bar.
            limit: upper end of the colour scale; None takes the 99.5th percentile over what is drawn.
            most: images that a new figure shows, the first of them; None: 8, and fewer of more than 12 latents.

        Returns:
            The axes as they were given; or the new Figure, which notebooks show and pyplot does not know.

        Raises:
            UsageError: images or axes that are not as many, a latent that was not explained.
        """
        from vaelens.attention.drawing import plot_maps  # draws by the report, which imports matplotlib

        return plot_maps(self, images, latents, axes, limit, most)

    def show(self) -> None:
        """Show them: in a notebook as a picture, else in a window where there is a display, else in words."""
        from vaelens.report.notebook import show

        show(self)

    def in_words(self) -> str:
        """Of how many images and latents, at which layer."""
        from vaelens.attention.drawing import told

        return told(self)

    def _repr_html_(self) -> str:
        from vaelens.attention.drawing import html_of_maps

        return html_of_maps(self)

    def _each(self, change: Callable[[Tensor], Tensor]) -> LatentMaps:
        return replace(
            self,
            signed=change(self.signed),
            weights=change(self.weights),
            mean=change(self.mean),
            logvar=change(self.logvar),
            latents=change(self.latents),
            _resized=None if self._resized is None else change(self._resized),
        )

    def __len__(self) -> int:
        return len(self.signed)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) -> (..., H, W): bilinear, pixel centres aligned with the image's, antialiased when made smaller."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    # In float32 or better: the antialiased kernel has no half-precision form on the CPU.
    wide = flat.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(wide, size=size, mode="bilinear", antialias=shrinks).to(maps.dtype).reshape(*maps.shape[:-2], *size)
