"""Synthetic defects on normal images: what settings are chosen by and learned heads are trained on, so that no test image is.

A defect is a shape (`SHAPES`: where it lies) filled with a content (`CONTENTS`: what it shows). All randomness comes from one
generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.data.synthetic.contents import CONTENTS, Place, spread
from vaelens.data.synthetic.draws import chance, uniform
from vaelens.data.synthetic.moving import carried, middle_frame
from vaelens.data.synthetic.shapes import SHAPES
from vaelens.errors import UsageError, unknown

__all__ = ["CONTENTS", "SHAPES", "with_defects"]

_AT_STRUCTURE = 0.6  # share of the defects that lie where an image differs from what is common, the others anywhere
_SECOND = 0.35  # share of the images with defects that get a second one
_MOST = 0.55  # share of an image that may be marked; with more there would be nothing normal left to compare with
_ON_STROKES = ("shade", "fill")  # what is seen on a thin line
_COVERED = 0.5  # a pixel with less cover is not marked,
_CHANGED = 0.03  # nor is one where the image changed by less than this,
_CHANGED_SPREADS = 0.25  # or by less than so many of its spreads, whichever is less


def with_defects(
    images: Tensor,
    others: Tensor,
    generator: torch.Generator,
    clean: float = 0.25,
    shapes: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
    prior: Tensor | None = None,
    frames: int = 1,
) -> tuple[Tensor, Tensor]:
    """Draw defects on normal images: one on each, a second on a third of them, none on a share `clean`.

    An image that defects would cover by more than 55 % is left as it is, too.

    Args:
        images: normal, (B, C, H, W), float in [0, 1]; not changed.
        others: normal images (M, C, H, W) that patches are taken from.
        generator: on the CPU.
        clean: share of images left as they are, in [0, 1].
        shapes: which of `SHAPES`; None for all.
        contents: which of `CONTENTS`; None for all. Strokes are shaded or filled alone where these allow it.
        prior: what a place shows as a rule, (1, C, H, W) in [0, 1], such as the mean normal image of a fixed camera: defects
            lie more often where an image differs from it. None for each image's own median brightness.

    Returns:
        (images, masks): (B, C, H, W) in [0, 1], and bool (B, H, W), True where a defect changed the image visibly.

    Raises:
        UsageError: an unknown shape or content, a share outside [0, 1], or images of another shape or type.
    """
    for kind, names, choices in (("shape", shapes, SHAPES), ("content", contents, CONTENTS)):
        for name in names or ():
            if name not in choices:
                raise unknown(f"{kind} of synthetic defect", name, choices)
    if not 0 <= clean <= 1:
        raise UsageError(f"clean is a share between 0 and 1, got {clean}")
    if images.ndim != 4 or not images.is_floating_point() or others.shape[1:] != images.shape[1:] or not len(others):
        got = f"{images.dtype} {tuple(images.shape)} and {tuple(others.shape)}"
        raise UsageError(f"synthetic defects take float images (B, C, H, W) and others of their shape, got {got}")
    if prior is not None and prior.shape != (1, *images.shape[1:]):
        raise UsageError(f"prior is one image, {(1, *images.shape[1:])}, got {tuple(prior.shape)}")
    if frames > 1:
        if images.shape[1] != frames:
            raise UsageError(f"frames is how many channels the images have, {images.shape[1]}, not {frames}")
        seen = None if prior is None else middle_frame(prior)
        drawn, masks = with_defects(middle_frame(images), middle_frame(others), generator, clean, shapes, contents, seen)
        return carried(images, drawn, generator), masks
    wanted = (list(shapes or SHAPES), list(contents or CONTENTS))
    drawn, masks = images.clone(), torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
    touched = (~chance(generator, len(images), clean)).nonzero().flatten()
    for at in (touched, touched[chance(generator, len(touched), _SECOND)]):
        drawn[at], more = _one(drawn[at], others, generator, *wanted, prior)
        masks[at] |= more
    too_much = masks.float().mean((1, 2)) > _MOST
    drawn[too_much], masks[too_much] = images[too_much], False
    return drawn, masks


def _one(
    images: Tensor,
    others: Tensor,
    generator: torch.Generator,
    shapes: Sequence[str],
    contents: Sequence[str],
    prior: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One defect on each image."""
    count, _, height, width = images.shape
    cover = torch.zeros(count, 1, height, width)
    drawn = images.clone()
    if not count:
        return drawn, cover[:, 0] > 0
    centres = _centres(images, generator, prior)
    shape_of = torch.randint(len(shapes), (count,), generator=generator)
    content_of = torch.randint(len(contents), (count,), generator=generator)
    on_strokes = torch.tensor([position for position, content in enumerate(contents) if content in _ON_STROKES])
    for position, shape in enumerate(shapes):
        at = (shape_of == position).nonzero().flatten()
        if not len(at):
            continue
        cover[at, 0] = SHAPES[shape](centres[at], height, width, generator)
        if shape == "stroke" and len(on_strokes):
            content_of[at] = on_strokes[torch.randint(len(on_strokes), (len(at),), generator=generator)]
    for position, content in enumerate(contents):
        at = (content_of == position).nonzero().flatten()
        if not len(at):
            continue
        new = CONTENTS[content](Place(images[at], cover[at], others, generator))
        # A warp fades out towards the rim by itself; blended as well, it would show everything there twice.
        drawn[at] = (new if content == "warp" else images[at] + cover[at] * (new - images[at])).clamp(0, 1)
    change = (drawn - images).abs().amax(1, keepdim=True)
    # A defect is a region: a pixel that happens to keep its value amid changed ones is part of it.
    around = functional.avg_pool2d(change, 9, stride=1, padding=4)
    visible = (_CHANGED_SPREADS * spread(images)).clamp_max(_CHANGED)
    return drawn, ((cover > _COVERED) & (torch.maximum(change, 1.5 * around) > visible))[:, 0]


def _centres(images: Tensor, generator: torch.Generator, prior: Tensor | None) -> Tensor:
    """Where defects go, (B, 2) as shares of height and width."""
    count, _, height, width = images.shape
    if prior is None:
        grey = images.mean(1)
        structure = (grey - grey.flatten(1).median(1).values[:, None, None]).abs()
    else:
        structure = (images - prior).abs().mean(1)
    weights = functional.avg_pool2d(structure[:, None], 5, stride=1, padding=2).flatten(1) + 1e-6
    at = torch.multinomial(weights, 1, generator=generator).flatten()
    there = torch.stack([(at // width + 0.5) / height, (at % width + 0.5) / width], 1)
    anywhere = uniform(generator, 2 * count).view(count, 2)
    return torch.where(chance(generator, count, _AT_STRUCTURE)[:, None], there, anywhere)
