"""The posterior of every image of a data set with known factors: encoded once, indexed by whatever is measured then."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaelens.data.factors import FactorImages
from vaelens.models import LAYOUT
from vaelens.runs import Run

BATCH = 256  # larger ones leave the processor's cache


def encode_all(
    run: Run, images: FactorImages, progress: Callable[[int, int], None] | None = None, batch_size: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Posterior means and log variances (N, D), float32, of all N images in order, in main memory.

    Args:
        run: whose network encodes, in float32.
        images: of its data set.
        progress: called with images encoded so far and in all.
        batch_size: images at once.
    """
    count = len(images)
    mean = torch.empty(count, run.model.latent_dim)
    logvar = torch.empty_like(mean)
    with torch.inference_mode():
        for start in range(0, count, batch_size):
            indices = torch.arange(start, min(start + batch_size, count))
            batch = images.take(indices).to(run.device).contiguous(memory_format=LAYOUT)
            part = slice(start, start + len(indices))
            mean[part], logvar[part] = run.model.encode(batch)
            if progress is not None:
                progress(part.stop, count)
    return mean, logvar
