"""How well a run's localizers find synthetic defects on held-out normal images: for choosing settings without a test image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vaelens.data.images import ImageSet, to_float
from vaelens.data.synthetic import with_defects
from vaelens.data.synthetic.lighting import evened
from vaelens.errors import UsageError
from vaelens.localizers.base import mean_image
from vaelens.runs import Run
from vaelens.scoring.localization import LocalizationEvaluation, measure_all

IMAGES = 200
SEED = 0


def evaluate_synthetic(
    run: Run,
    localizers: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    images: int = IMAGES,
    seed: int = SEED,
) -> LocalizationEvaluation:
    """Measure localizers on synthetic defects, drawn on the run's held-out images with patches of its training images.

    Args:
        run: of a data set of images.
        localizers: which; None for the run's own and the floors.
        progress: called with images done and images to be done in all, over all localizers.
        images: how many; held-out images serve several times where there are fewer.
        seed: of the defects.

    Raises:
        UsageError: a run of images of classes, or a localizer that the run does not allow.
    """
    test, masks = synthetic_test(run, images, seed)
    defects = tuple("synthetic" if marked else "good" for marked in masks.flatten(1).any(1).tolist())
    known = torch.ones(len(test), dtype=torch.bool)
    found = measure_all(run, localizers, test, defects, masks, known, progress)
    # The clean ones are what the threshold was calibrated on: how many of them are flagged says nothing.
    results = {name: replace(one, false_alarms=None) for name, one in found.items()}
    anomalous = sum(defect != "good" for defect in defects)
    counts = {
        "train": len(run.normal_images),
        "calibration": len(run.held_out_images),
        "test": len(test),
        "test_normal": len(test) - anomalous,
        "test_anomalous": anomalous,
        "test_unknown": 0,
    }
    dataset = f"{run.config.dataset['name']}, synthetic defects"
    return LocalizationEvaluation(dataset, results, counts, int(run.active.sum()), len(run.active), True, seed)


def synthetic_test(run: Run, images: int = IMAGES, seed: int = SEED) -> tuple[ImageSet, Tensor]:
    """Held-out normal images with synthetic defects, and their masks (N, H, W), bool."""
    preparation = run.preparation
    if preparation is None:
        raise UsageError("synthetic defects are drawn on images of objects or scenes; this run takes images of classes")
    held_out = run.held_out_images
    chosen = torch.arange(images) * max(1, len(held_out) // images) % len(held_out)
    generator = torch.Generator("cpu").manual_seed(seed)
    normal = run.normal_images
    fixed = run.config.explain["fixed_camera"]
    prior = mean_image(normal)[None] if fixed else None
    patches = to_float(normal[:: max(1, len(normal) // 512)])
    frames = preparation.frames
    drawn, masks = with_defects(to_float(held_out[chosen]), patches, generator, prior=prior, frames=frames)
    if preparation.brightness:
        drawn = evened(drawn)
    labels = masks.flatten(1).any(1).long()
    names = tuple(f"synthetic/{i:05d}" for i in range(images))
    return ImageSet((drawn * 255).round().to(torch.uint8), names, labels), masks
