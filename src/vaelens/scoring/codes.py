"""The posterior of every image of a data set with known factors: encoded once, indexed by whatever is measured then."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaelens.data.factors import FactorImages
from vaelens.models import LAYOUT
from vaelens.runs import Run
from vaelens.training.device import pick_precision

BATCH = 64  # feature maps of more leave the processor's cache: of 256, two thirds as many images a second
_ON_GPU = 4096


def encode_all(
    run: Run, images: FactorImages, progress: Callable[[int, int], None] | None = None, precision: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Posterior means and log variances (N, D), float32, of all N images in order, in main memory.

    Args:
        run: whose network encodes.
        images: of its data set.
        progress: called with images encoded so far and in all.
        precision: what the network computes in: "32", "bf16", or "auto": bf16 where the processor computes in it, as training
            does.

    Raises:
        UsageError: an unknown precision.
    """
    half = pick_precision(precision, run.device.type) == "bf16-mixed"
    count = len(images)
    mean = torch.empty(count, run.model.latent_dim)
    logvar = torch.empty_like(mean)
    at_once = BATCH if run.device.type == "cpu" else _ON_GPU
    with torch.inference_mode(), torch.autocast(run.device.type, torch.bfloat16, enabled=half):
        for start in range(0, count, at_once):
            indices = torch.arange(start, min(start + at_once, count))
            batch = images.take(indices).to(run.device).contiguous(memory_format=LAYOUT)
            part = slice(start, start + len(indices))
            mean[part], logvar[part] = run.model.encode(batch)
            if progress is not None:
                progress(part.stop, count)
    return mean, logvar
