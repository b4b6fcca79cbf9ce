"""The gallery's images, encoded small: what the template shows of each, as text and as PNG data URIs."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from vaelens.report.colour import encode_levels, encode_png, levels, picture, resize_map
from vaelens.report.content import Array, FiredLatent, ReportImage
from vaelens.report.wording import number, one_line, p_value, signed

# Images whose longer side is below this many pixels are drawn as visible squares, not blurred.
_PIXELATED_BELOW = 100
_SAMPLED = 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """The longest side in pixels of embedded images, of anomaly maps and of latents' maps; images are never enlarged."""

    image: int
    anomaly_map: int
    latent_map: int
    map_levels: int = 128


# From the finest to the coarsest; `fitting_sizes` takes the first that keeps the file within its budget.
LADDER = (
    Sizes(512, 160, 96),
    Sizes(384, 128, 64),
    Sizes(256, 96, 56),
    Sizes(192, 80, 40),
    Sizes(160, 64, 32),
    Sizes(128, 48, 28, 64),
    Sizes(96, 40, 21, 64),
    Sizes(64, 28, 14, 32),
)


@dataclass(frozen=True, slots=True)
class LatentTile:
    """One latent that fired."""

    index: int
    z_score: str
    mean: str
    layer: Markup


@dataclass(frozen=True, slots=True)
class Card:
    """One image as the template writes it. Data URIs are marked safe; every other text is escaped by the template."""

    position: int
    name: str
    label: str | None
    error: str | None
    flagged: bool | None
    score: float
    score_text: str
    p_text: str
    width: int
    height: int
    pixelated: bool
    image: Markup
    layer: Markup
    map_alone: Markup
    reconstruction: Markup
    latents: tuple[LatentTile, ...]
    further: tuple[tuple[str, Markup], ...] = ()

    @property
    def has_score(self) -> bool:
        """Whether there is a number to sort by."""
        return not math.isnan(self.score)

    @property
    def data_score(self) -> str:
        """The score in full, for sorting; empty where there is none."""
        # As JavaScript spells it.
        return repr(self.score).replace("inf", "Infinity") if self.has_score else ""

    @property
    def share(self) -> str:
        """Width of the picture, in percent, within a square that it has to fit."""
        return f"{min(1.0, self.width / self.height) * 100:.4g}"

    def bytes(self) -> int:
        """Size of the embedded pictures, in characters."""
        parts = [self.image, self.layer, self.map_alone, self.reconstruction, *(tile.layer for tile in self.latents)]
        parts += [picture for _, picture in self.further]
        return sum(len(part) for part in parts)


def data_uri(png: bytes) -> Markup:
    """A PNG file as a `data:` address, which needs no escaping."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode("ascii"))


def card(position: int, shown: ReportImage, map_limit: float, latent_limit: float, sizes: Sizes) -> Card:
    """Encode one image.

    Args:
        position: its place in the gallery, for anchors.
        shown: the image.
        map_limit: upper end of the anomaly maps' colour scale.
        latent_limit: upper end of the latents' maps' colour scale.
        sizes: how large to embed.
    """
    height, width = shown.image.shape[:2]
    nothing = Markup("")
    layer = map_alone = nothing
    if shown.anomaly_map.size and shown.image.size:
        grid = resize_map(shown.anomaly_map, _map_size(shown.anomaly_map, shown.image, sizes.anomaly_map))
        level = levels(grid, map_limit, sizes.map_levels)
        layer = data_uri(encode_levels(level, sizes.map_levels, see_through=True))
        map_alone = data_uri(encode_levels(level, sizes.map_levels, see_through=False))
    fired = sorted(shown.fired, key=lambda latent: (-abs(latent.z_score), latent.index))
    return Card(
        position=position,
        name=one_line(shown.name),
        label=None if shown.label is None else one_line(shown.label),
        error=None if shown.error is None else one_line(shown.error),
        flagged=None if shown.flagged is None else bool(shown.flagged),
        score=float(shown.score),
        score_text=number(shown.score),
        p_text="" if shown.p_value is None else p_value(shown.p_value),
        width=max(width, 1),
        height=max(height, 1),
        pixelated=max(width, height) < _PIXELATED_BELOW,
        image=_embedded(shown.image, sizes.image),
        layer=layer,
        map_alone=map_alone,
        reconstruction=nothing if shown.reconstruction is None else _embedded(shown.reconstruction, sizes.image),
        further=tuple((one_line(caption), _embedded(values, sizes.image)) for caption, values in shown.further),
        latents=tuple(_tile(latent, shown.image, latent_limit, sizes) for latent in fired),
    )


def cards(images: Sequence[ReportImage], map_limit: float, latent_limit: float, budget: int) -> tuple[list[Card], Sizes]:
    """Encode the gallery as finely as `budget` characters of embedded pictures allow.

    Returns:
        The cards in the given order, and the sizes they were made with (the coarsest where even those are too many).
    """
    sizes = fitting_sizes(images, map_limit, latent_limit, budget)
    return [card(at, image, map_limit, latent_limit, sizes) for at, image in enumerate(images)], sizes


def fitting_sizes(images: Sequence[ReportImage], map_limit: float, latent_limit: float, budget: int) -> Sizes:
    """The finest sizes of the ladder whose total, projected from evenly spaced images, stays within `budget`."""
    step = max(1, len(images) // _SAMPLED)
    sampled = images[::step]
    for sizes in LADDER:
        used = sum(card(0, image, map_limit, latent_limit, sizes).bytes() for image in sampled)
        if not sampled or used * len(images) <= budget * len(sampled):
            return sizes
    return LADDER[-1]


def _tile(latent: FiredLatent, image: Array, limit: float, sizes: Sizes) -> LatentTile:
    layer = Markup("")
    if latent.map.size and image.size:
        grid = resize_map(latent.map, _map_size(latent.map, image, sizes.latent_map))
        layer = data_uri(encode_levels(levels(grid, limit, sizes.map_levels), sizes.map_levels, see_through=True))
    return LatentTile(latent.index, signed(latent.z_score), number(latent.mean, 3), layer)


def _map_size(values: Array, image: Array, longest: int) -> tuple[int, int]:
    """A map's size in the file: of the image's proportions, no finer than 8 samples a cell, which is smooth already."""
    height, width = image.shape[:2]
    finest = min(longest, 8 * max(values.shape))
    scale = finest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _embedded(image: Array, longest: int) -> Markup:
    from PIL import Image

    if not image.size:
        return Markup("")
    values = picture(image)
    height, width = values.shape[:2]
    if max(height, width) > longest:
        scale = longest / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        values = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
    return data_uri(encode_png(values))
