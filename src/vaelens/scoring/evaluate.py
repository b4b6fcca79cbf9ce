"""How well a run tells its normal class from the others, by every score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.data.images import ImageSet
from vaelens.metrics import auroc
from vaelens.runs import FALSE_ALARMS, Run
from vaelens.runs.data import load_classes
from vaelens.runs.localizers import suitable


@dataclass(frozen=True)
class ScoreResult:
    """One score on the test images.

    Attributes:
        per_class: image-level AUROC of the normal class against each other class.
        pooled: image-level AUROC against all other classes at once.
        false_alarms: share of normal test images flagged at a promised rate of 0.05.
        detected: share of other test images flagged.
        values: (N,), the score of each test image.
    """

    per_class: dict[int, float]
    pooled: float
    false_alarms: float
    detected: float
    values: Tensor

    @property
    def mean(self) -> float:
        """Mean of the AUROCs per class."""
        return sum(self.per_class.values()) / len(self.per_class)

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it; the pixel measures are null, since the data set has no masks."""
        return {
            **dict.fromkeys(("pixel_auroc", "pixel_ap", "aupro", "best_iou", "calibrated_iou")),
            "image_auroc": self.mean,
            "image_auroc_pooled": self.pooled,
            "false_alarms": self.false_alarms,
            "detected": self.detected,
            "per_defect": {str(label): {"image_auroc": value} for label, value in self.per_class.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """All scores of a run on the test images.

    Attributes:
        scores: by localizer.
        counts: number of images in each part of the data.
        active: number of latents with more than 0.05 nats on held-out normal images.
        latents: number of latents.
    """

    scores: dict[str, ScoreResult]
    counts: dict[str, int]
    active: int
    latents: int

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {
            "localizers": {name: result.to_dict() for name, result in self.scores.items()},
            "active_latents": self.active,
            "latents": self.latents,
            "active_share": self.active / self.latents,
            "images": self.counts,
        }


def evaluate(
    run: Run,
    localizers: Sequence[str] | None = None,
    root: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score the test images of the run's data set.

    Args:
        run: a run of a data set with classes.
        localizers: which scores; None for all.
        root: folder of the data set, where it has moved.
        progress: called with images scored so far and images to be scored in all, over all localizers.

    Raises:
        UsageError: an unknown localizer.
        DataError: the data set is not where it was.
    """
    names = list(localizers or suitable(run.config))
    for name in names:
        run.localizer(name)  # all that can be refused is refused first
    split = load_classes(run.config, root)
    total = len(names) * len(split.test)
    scores = {}
    for position, name in enumerate(names):

        def done(images: int, before: int = position * len(split.test)) -> None:
            if progress:
                progress(before + images, total)

        scores[name] = _result(run, name, split.test, split.normal, done)
    return Evaluation(scores, split.counts, int(run.active.sum()), run.model.latent_dim)


def _result(run: Run, name: str, test: ImageSet, normal: int, done: Callable[[int], None]) -> ScoreResult:
    localizer = run.localizer(name)
    parts: list[Tensor] = []
    count = 0
    for batch in test.batches(256):
        parts.append(localizer.localize(batch).score)
        count += len(batch)
        done(count)
    scores = torch.cat(parts)
    labels = _labels(test)
    flagged = run.calibration(name).p_values(scores) <= FALSE_ALARMS
    is_normal = labels == normal
    others = [label for label in test.classes if label != normal]
    return ScoreResult(
        per_class={label: auroc(scores[is_normal], scores[labels == label]) for label in others},
        pooled=auroc(scores[is_normal], scores[~is_normal]),
        false_alarms=float(flagged[is_normal].double().mean()),
        detected=float(flagged[~is_normal].double().mean()),
        values=scores,
    )


def _labels(test: ImageSet) -> Tensor:
    assert test.labels is not None  # a one-class split has them
    return test.labels
