"""Maps as people see them: figures, drawings in axes of the caller's, and HTML. The report draws, and is imported then."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from vaelens.errors import UsageError, brief, whole

MOST_LATENTS = 6  # rows of a picture of a distribution, where nobody says which
ABOVE = 0.5  # of the largest map, what the probability is of exceeding where every map is above 0


class Maps(Protocol):
    """What is drawn of `LatentMaps`, which draw themselves by this."""

    @property
    def signed(self) -> Tensor: ...
    @property
    def per_latent(self) -> Tensor: ...
    @property
    def latents(self) -> Tensor: ...
    @property
    def layer(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def rectifier(self) -> str: ...
    def first(self, rows: int) -> Maps: ...
    def __len__(self) -> int: ...


class Distribution(Protocol):
    """What is drawn of `PosteriorMaps`."""

    @property
    def maps(self) -> Maps: ...
    @property
    def std(self) -> Tensor: ...
    def probability(self, above: float = 0.0) -> Tensor: ...
    def detach(self) -> Distribution: ...


def pictures(images: Tensor | None, count: int) -> Any:
    """Images as the report takes them, (B, H, W) or (B, H, W, 3); None of None.

    Args:
        images: (B, C, H, W), or (C, H, W) of one, uint8 or floats in [0, 1], of one or three channels; of any other number of
            channels, such as frames of a video, the one in the middle.
        count: B.

    Raises:
        UsageError: another shape, or another number of images.
    """
    if images is None:
        return None
    if isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != count:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"images are a tensor (B, C, H, W), one for each of the {count} whose maps these are, got {got}")
    channels = images.shape[1]
    if channels not in (1, 3):
        images = images[:, channels // 2 : channels // 2 + 1]
    array = images.detach().cpu().permute(0, 2, 3, 1)
    array = array if array.dtype == torch.uint8 else array.float()
    return (array[..., 0] if array.shape[3] == 1 else array).numpy()


def chosen(maps: Maps, latents: int | Sequence[int] | None) -> list[int]:
    """The positions among the K maps of the latents asked for; all where None.

    Raises:
        UsageError: one that was not explained, or some where each image has latents of its own.
    """
    if latents is None:
        return list(range(maps.signed.shape[1]))
    given: Any = latents
    try:
        several = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
        wanted = [operator.index(latent) for latent in several]
    except TypeError:
        raise UsageError(f"latents are an index or several, such as 3 or [0, 3], got {brief(latents)}") from None
    if maps.latents.ndim != 1:
        raise UsageError("each image has maps of latents of its own (such as top3); leave latents out")
    there = maps.latents.tolist()
    for latent in wanted:
        if latent not in there:
            raise UsageError(f"latent {latent!r} was not explained; there are maps of: {', '.join(map(str, there))}")
    return [there.index(latent) for latent in wanted]


def names_of(maps: Maps, i: int, rows: Sequence[int], dead: Tensor | None = None) -> list[str]:
    """What the maps of image i at some positions are called."""
    own = (maps.latents if maps.latents.ndim == 1 else maps.latents[i]).tolist()
    return ["score" if own[k] < 0 else f"z{own[k]}{' (dead)' if dead is not None and dead[own[k]] else ''}" for k in rows]


def plot_maps(
    maps: Maps,
    images: Tensor | None = None,
    latents: int | Sequence[int] | None = None,
    axes: Any = None,
    limit: float | None = None,
    most: int | None = None,
    *,
    dead: Tensor | None = None,
    z_scores: Tensor | None = None,
) -> Any:
    """See `LatentMaps.plot`; `dead` are latents (D,) marked so, `z_scores` (B, K) stand beside the names."""
    from vaelens.report.colour import common_limit
    from vaelens.report.figures import latent_grid
    from vaelens.report.notebook import as_axes, draw_map, most_images

    rows = chosen(maps, latents)
    below = pictures(images, len(maps))
    values = maps.per_latent.detach().cpu().float().numpy()[:, rows]
    names = [names_of(maps, i, rows, dead) for i in range(len(maps))]
    if axes is not None:
        flat = as_axes(axes, len(maps) * len(rows), "map")
        upper = common_limit([values], limit)
        for at, ax in enumerate(flat):
            i, k = divmod(at, len(rows))
            draw_map(ax, None if below is None else below[i], values[i, k], upper, names[i][k])
        return axes
    count = min(len(maps), most_images(len(rows)) if most is None else whole("most", most))
    of = f" of {len(maps)}" if count < len(maps) else ""
    return latent_grid(
        None if below is None else below[:count],
        values[:count],
        names[:count],
        [f"image {i}{of}" for i in range(count)],
        None if z_scores is None else z_scores[:count, rows].numpy(),
        limit,
    )


def html_of_maps(maps: Maps, images: Tensor | None = None, title: str = "LatentMaps", **options: Any) -> str:
    """A piece of HTML with as many images and latents as a notebook bears."""
    from vaelens.report.notebook import MOST_MAPS, fragment, most_images, never_raising

    def draw() -> str:
        count, explained = maps.signed.shape[:2]
        rows = min(explained, MOST_MAPS)
        most = most_images(rows)
        lines = [told(maps)]
        few = maps
        drawn = "maps.plot(images, " if images is None else ".plot("  # of what knows its images
        if rows < explained:
            few = maps.first(rows)
            lines.append(f"The first {rows} of {explained} latents; {drawn}latents=[...]) draws others.")
        if most < count:
            lines.append(f"The first {most} of {count} images; {drawn}most=...) draws more.")
        z_scores = options.get("z_scores")
        given = {**options, "z_scores": None if z_scores is None else z_scores[:, :rows]}
        return fragment(title, lines, plot_maps(few, images, most=most, **given))

    return never_raising(draw, title)


def plot_posterior(
    posterior: Distribution,
    images: Tensor | None = None,
    latents: int | Sequence[int] | None = None,
    axes: Any = None,
    at: int = 0,
    above: float | None = None,
    limit: float | None = None,
) -> Any:
    """See `PosteriorMaps.plot`."""
    from vaelens.report.colour import common_limit
    from vaelens.report.notebook import as_axes, draw_map
    from vaelens.report.spreads import KEY, spread_grid
    from vaelens.report.wording import number

    posterior = posterior.detach()
    maps = posterior.maps
    at = whole("at", at, least=0, most=len(maps) - 1)
    below = pictures(images, len(maps))
    image = None if below is None else below[at]
    rows = chosen(maps, latents)
    if latents is None and len(rows) > MOST_LATENTS:
        rows = maps.per_latent[at].flatten(1).amax(1).argsort(descending=True)[:MOST_LATENTS].tolist()
    if above is not None and not (isinstance(above, int | float) and math.isfinite(above)):
        raise UsageError(f"above is a number that a map may exceed, got {brief(above)}")
    at_mean = maps.per_latent[at, rows]
    if above is None:
        above = ABOVE * float(at_mean.max()) if maps.rectifier == "abs" else 0.0
    shown = [at_mean, posterior.std[at, rows], posterior.probability(above)[at, rows].clamp(0, 1)]
    values, spreads, probabilities = (one.detach().cpu().float().numpy() for one in shown)
    names = names_of(maps, at, rows)
    exceeds = f"above {number(above, 3)}"
    if axes is not None:
        upper = common_limit([values, spreads], limit)
        flat = iter(as_axes(axes, 3 * len(rows), "map, its spread and its probability"))
        for k, name in enumerate(names):
            draw_map(next(flat), image, values[k], upper, name)
            draw_map(next(flat), image, spreads[k], upper, "spread")
            draw_map(next(flat), image, probabilities[k], 1.0, exceeds)
        return axes
    of = f" of {len(maps)}" if len(maps) > 1 else ""
    key = (*KEY[:2], f"probability: that the map is {exceeds}")
    return spread_grid(image, values, spreads, probabilities, names, f"image {at}{of}", None, limit, key)


def html_of_posterior(posterior: Distribution, images: Tensor | None = None) -> str:
    """A piece of HTML with the first image."""
    from vaelens.report.notebook import fragment, never_raising

    def draw() -> str:
        count, explained = posterior.maps.signed.shape[:2]
        lines = [told(posterior.maps)]
        if explained > MOST_LATENTS:
            lines.append(f"{MOST_LATENTS} of {explained} latents, of the largest maps; .plot(latents=[...]) draws others.")
        if count > 1:
            lines.append(f"The first of {count} images; .plot(images, at=1) draws the next.")
        return fragment("PosteriorMaps", lines, plot_posterior(posterior, images))

    return never_raising(draw, "PosteriorMaps")


def told(maps: Maps) -> str:
    """What maps these are, in words."""
    count, explained, height, width = maps.signed.shape
    return (
        f"{count} x {explained} maps of {height} x {width}, layer {maps.layer} ({maps.method.replace('_', ' ')}, "
        f"variant {maps.variant})"
    )
