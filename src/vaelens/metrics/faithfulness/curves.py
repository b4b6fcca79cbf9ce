"""Deletion and insertion: how far a value goes as the pixels that a map names are replaced, or put back (Petsiuk et al. 2018).

With x an image, r what replaces it, z_i a latent's posterior mean and x_s the image whose n_s most attended pixels are r's:

    deletion    d_i(s) = |z_i(x_s) - z_i(x)|                    from 0 up to |z_i(r) - z_i(x)|
    insertion   d_i(s) = |z_i(x'_s) - z_i(x)|                   from |z_i(r) - z_i(x)| down to 0

where x'_s is r with the n_s most attended pixels of x. Of a map that names what z_i hangs on the first has a large area and the
second a small one. Petsiuk et al. follow a class's probability; a latent has no scale of its own and may move either way, so
what is followed is its distance from where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.attention.maps import resize
from vaelens.errors import UsageError, unknown, whole
from vaelens.metrics.faithfulness.inputs import Encode, check_images, check_latents, check_maps, drawing, is_empty, values_of
from vaelens.metrics.faithfulness.paired import PairedDifference, paired_difference
from vaelens.metrics.faithfulness.ranking import BASELINES, baseline_maps, ranks_of
from vaelens.metrics.faithfulness.replacement import blurred

STEPS = 10
REPEATS = 4


@dataclass(frozen=True, eq=False)
class Curve:
    """What came of replacing pixels step by step.

    Attributes:
        kind: "deletion" or "insertion".
        values: (B, K, S + 1), >= 0, in units of the latent: |z_i - z_i(original)| behind each step; of "random" the mean over
            the orders drawn.
        fractions: (S + 1,), the share of pixels replaced, or put back, from 0 to 1.
        effect: (B, K), >= 0: |z_i(replacement) - z_i(original)|, what replacing every pixel does.
        drawn: (B, K), bool: False where the map has one value everywhere and so ranks nothing.
    """

    kind: str
    values: Tensor
    fractions: Tensor
    effect: Tensor
    drawn: Tensor

    @property
    def area(self) -> Tensor:
        """(B, K), in units of the latent: the area below each curve (trapezoids), over fractions from 0 to 1."""
        return torch.trapezoid(self.values, self.fractions, dim=-1)

    @property
    def share(self) -> Tensor:
        """(B, K): the area over the latent's mean `effect` over the images; NaN of empty maps and of latents without effect."""
        return torch.where(self.drawn, self.area / self._scale, torch.nan)

    @property
    def mean(self) -> Tensor:
        """(S + 1,): the curves over each latent's mean `effect`, in the mean over all maps that are not empty."""
        chosen = self.drawn & (self._scale > 0)
        return (self.values / self._scale[:, None])[chosen].mean(0)

    @property
    def empty(self) -> float:
        """The share of maps that rank nothing, which no figure counts."""
        return float((~self.drawn).double().mean())

    @property
    def _scale(self) -> Tensor:
        mean = self.effect.mean(0)
        return torch.where(mean > 0, mean, torch.nan)

    def gain(self, baseline: Curve) -> PairedDifference:
        """How much better this is than another on the same images and latents: above 0 is better, for either kind.

        For each map the difference of the two `share`s (of insertion with its sign turned), for each image the mean over
        latents, and of these the mean over images with its 95 % interval. What is NaN in either is left out of both.

        Raises:
            UsageError: the other is of another kind, or of other images, latents or replacement.
        """
        if baseline.kind != self.kind or baseline.effect.shape != self.effect.shape:
            raise UsageError(f"a curve of {self.kind} is compared with one of the same kind, images and latents")
        if not torch.allclose(baseline.effect, self.effect, rtol=1e-3, atol=1e-5 * float(self.effect.max()) + 1e-12):
            raise UsageError("curves are compared where pixels are replaced by the same image")
        sign = 1.0 if self.kind == "deletion" else -1.0
        each = sign * (self.share - baseline.share)
        return paired_difference(each.nanmean(1))


def deletion(
    encode: Encode,
    images: Tensor,
    maps: Tensor | str,
    *,
    replacement: Tensor | None = None,
    latents: Tensor | list[int] | None = None,
    steps: int = STEPS,
    repeats: int = REPEATS,
    seed: int = 0,
    batch_size: int = 128,
    progress: Callable[[int], None] | None = None,
) -> Curve:
    """Replace the most attended pixels, step by step, and follow how far each latent goes.

    Args:
        encode: images (B, C, H, W) -> (mean, logvar), each (B, D), or values (B, D); on the images' device.
        images: float as the model takes them, (B, C, H, W).
        maps: (B, K, h, w), higher where more attended, of any scale: only the order of pixels counts. They are resized to the
            images by `vaelens.attention.maps.resize`. Or one of `BASELINES`: "random" (orders drawn at random), "centre" (a
            Gaussian at the centre) or "difference" (|image - replacement|, which knows the image and not the model).
        replacement: (B, C, H, W), what pixels are replaced by, in all channels at once; None: the image blurred (`blurred`).
        latents: which of the D values the K maps belong to; None: all in order.
        steps: S, in each of which a share 1 / S of the pixels is replaced; at most one for each pixel.
        repeats: how many orders are drawn for "random".
        seed: of these, and of the order among pixels of one value.
        batch_size: images encoded at once.
        progress: called with the number of images done.

    Raises:
        UsageError: shapes that do not fit, an unknown baseline, a seed below 0, or values that are not finite.
    """
    asked = _Asked(encode, images, replacement, latents, steps, repeats, seed, batch_size, progress)
    return _curve(asked, maps, "deletion")


def insertion(
    encode: Encode,
    images: Tensor,
    maps: Tensor | str,
    *,
    replacement: Tensor | None = None,
    latents: Tensor | list[int] | None = None,
    steps: int = STEPS,
    repeats: int = REPEATS,
    seed: int = 0,
    batch_size: int = 128,
    progress: Callable[[int], None] | None = None,
) -> Curve:
    """Put the most attended pixels back into what replaces the image, step by step; see `deletion` for the arguments."""
    asked = _Asked(encode, images, replacement, latents, steps, repeats, seed, batch_size, progress)
    return _curve(asked, maps, "insertion")


@dataclass(frozen=True, eq=False)
class _Asked:
    encode: Encode
    images: Tensor
    replacement: Tensor | None
    latents: Tensor | list[int] | None
    steps: int
    repeats: int
    seed: int
    batch_size: int
    progress: Callable[[int], None] | None


def _curve(asked: _Asked, maps: Tensor | str, kind: str) -> Curve:
    images, at_once = check_images(asked.images), whole("batch_size", asked.batch_size)
    replacement = blurred(images) if asked.replacement is None else check_images(asked.replacement, "replacements")
    if replacement.shape != images.shape:
        raise UsageError(f"replacements are {tuple(replacement.shape)}, and the images {tuple(images.shape)}")
    shared = isinstance(maps, str)
    if isinstance(maps, str):
        if maps not in BASELINES:
            raise unknown("baseline", maps, BASELINES)
        given = baseline_maps(maps, images, replacement, whole("repeats", asked.repeats))
    else:
        given = check_maps(maps, len(images))
    before, behind = (values_of(asked.encode, each, at_once) for each in (images, replacement))
    latents = check_latents(asked.latents, before.shape[1], None if shared else given.shape[1])
    before, behind = before[:, latents], behind[:, latents]
    effect = (behind - before).abs()
    drawn = torch.ones(len(images), len(latents), dtype=torch.bool) if shared else ~is_empty(given)

    pixels = images.shape[2] * images.shape[3]
    steps = min(whole("steps", asked.steps), pixels)
    counts = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)])
    values = torch.zeros(len(images), given.shape[1], len(counts), len(latents), dtype=torch.float64)
    ends = (0, -1) if kind == "insertion" else (-1, 0)  # what is replaced altogether, and what is the original
    values[:, :, ends[0]] = effect[:, None]
    generator = drawing(asked.seed)
    for part in _groups(len(images), given.shape[1] * (steps - 1), at_once):
        resized = resize(given[part], (images.shape[2], images.shape[3])).flatten(2)
        ranks = torch.stack([ranks_of(one, generator) for one in resized])  # in turn: batches change no order
        if steps > 1:
            inner = _inner(asked, images[part], replacement[part], ranks, counts[1:-1], kind == "insertion", at_once)
            values[part, :, 1:-1] = (inner[..., latents] - before[part, None, None]).abs()
        if asked.progress:
            asked.progress(min(part.stop, len(images)))
    followed = values.mean(1).transpose(1, 2) if shared else values.diagonal(dim1=1, dim2=3).transpose(1, 2)
    return Curve(kind, followed.contiguous(), counts.double() / pixels, effect, drawn)


def _groups(count: int, each: int, at_once: int) -> Iterator[slice]:
    """So many images at a time that those made of them fill a batch, or one."""
    step = max(1, at_once // max(1, each))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _inner(
    asked: _Asked, images: Tensor, replacement: Tensor, ranks: Tensor, counts: Tensor, inserts: bool, at_once: int
) -> Tensor:
    """Values (B, R, S - 1, D) of images (B, C, H, W) some of whose pixels are replaced, in the order of ranks (B, R, P)."""
    shape = (*ranks.shape[:2], len(counts))
    found = []
    for at in torch.split(torch.arange(shape[0] * shape[1] * shape[2]), at_once):
        image, order, step = torch.unravel_index(at, shape)
        named = (ranks[image, order] < counts[step, None]).view(-1, 1, *images.shape[2:])
        replaced = (~named if inserts else named).to(images.device)
        mixed = torch.where(replaced, replacement[image.to(images.device)], images[image.to(images.device)])
        found.append(values_of(asked.encode, mixed, at_once))
    return torch.cat(found).view(*shape, -1)
