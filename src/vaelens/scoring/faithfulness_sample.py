"""The images that maps are judged on, what replaces their pixels, and which latents are judged: all drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vaelens.data.anomaly import AnomalySplit
from vaelens.data.factors import FactorSplit
from vaelens.data.images import to_float
from vaelens.errors import UsageError, unknown
from vaelens.metrics.faithfulness import blurred, nearest_images
from vaelens.metrics.faithfulness.inputs import drawing
from vaelens.runs import Run
from vaelens.runs.data import load_split

REPLACEMENTS = ("blur", "neighbour")
_AMONG = 2048  # images that a neighbour is looked for among
_MATCHED = 512  # images over which the codes of two models are correlated


@dataclass(frozen=True, eq=False)
class Sample:
    """Images drawn by a seed.

    Attributes:
        images: (B, C, H, W), float32 in [0, 1].
        drawn_from: what they are, for people, such as "the 10,000 test images".
        further: (N, C, H, W), further such images and these, on which codes are correlated.
        masked: (M, C, H, W), images with defects that have a mask; None where there are none.
        masks: (M, H, W), bool.
    """

    images: Tensor
    drawn_from: str
    further: Tensor
    masked: Tensor | None = None
    masks: Tensor | None = None


def draw_sample(run: Run, count: int, root: Path | None = None, seed: int = 0) -> Sample:
    """Test images of the run's data set, of dsprites any, without test images held-out normal ones.

    Raises:
        DataError: the data set is not where it was.
    """
    split = load_split(run.config, root)
    generator = drawing(seed)
    if isinstance(split, FactorSplit):
        numbers = split.train.draw(max(count, _MATCHED), generator)
        further = split.train.take(numbers)
        return Sample(further[:count], f"all {len(split.train):,} images", further)
    if split.test is None:
        return _plain(run.held_out_images, f"the {len(run.held_out_images):,} held-out normal images", count, generator)
    found = _plain(split.test.images, f"the {len(split.test):,} test images", count, generator)
    if not isinstance(split, AnomalySplit) or split.masks is None or not split.masks.any():
        return found
    marked = split.masks.flatten(1).any(1).nonzero().flatten()
    chosen = marked[torch.randperm(len(marked), generator=generator)[:count]]
    return Sample(found.images, found.drawn_from, found.further, to_float(split.test.images[chosen]), split.masks[chosen])


def _plain(images: Tensor, drawn_from: str, count: int, generator: torch.Generator) -> Sample:
    chosen = torch.randperm(len(images), generator=generator)[: max(count, _MATCHED)]
    further = to_float(images[chosen])
    return Sample(further[:count], drawn_from, further)


def draw_latents(run: Run, most: int, seed: int = 0) -> list[int]:
    """The active latents, ascending; of more than `most` so many drawn by the seed.

    Raises:
        UsageError: none is active.
    """
    active = run.active.nonzero().flatten()
    if not len(active):
        raise UsageError(
            f"none of the {run.model.latent_dim} latents of {run.path} is active, so there is no map to judge; train it longer"
        )
    chosen = torch.randperm(len(active), generator=drawing(seed))[:most]
    return sorted(active[chosen].tolist())


def replacement_of(run: Run, images: Tensor, kind: str, root: Path | None = None, seed: int = 0) -> Tensor:
    """What the pixels of images (B, C, H, W) are replaced by, of the same shape.

    Args:
        kind: "blur", or "neighbour": the normal image whose code is nearest (of dsprites another sprite).

    Raises:
        UsageError: another kind.
    """
    if kind not in REPLACEMENTS:
        raise unknown("replacement", kind, REPLACEMENTS)
    if kind == "blur":
        return blurred(images)
    if run.config.of_factors:
        among = draw_sample(run, _AMONG, root, seed + 1).images
    else:
        among = to_float(run.normal_images[:: -(-len(run.normal_images) // _AMONG)])
    return nearest_images(lambda batch: run.model.encode(batch.to(run.device)), images, among)
