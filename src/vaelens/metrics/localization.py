"""How well anomaly maps tell abnormal pixels from normal ones, over any number of images in bounded memory.

scikit-learn and torchmetrics keep and sort every score, gigabytes for 100 million pixels, or count them between thresholds
fixed beforehand, which is blind to what falls between two. Here a histogram refines itself, and figures come with their error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vaelens.errors import UsageError, brief
from vaelens.metrics.arrays import as_labels, as_maps, as_masks, as_scores
from vaelens.metrics.curves import PixelCurves
from vaelens.metrics.ranking import auroc
from vaelens.metrics.regions import region_weights
from vaelens.metrics.spans import Spans
from vaelens.metrics.store import ScoreStore

NORMAL = "good"  # the name of the images without a defect
_BLOCK = 1 << 20  # pixels taken in at a time


@dataclass(frozen=True)
class PixelFigures:
    """Figures of one set of images, in [0, 1] where nothing else is said; None where the set does not define one.

    Without abnormal pixels (no masks, or only empty ones) no figure over pixels is defined, without normal pixels neither AUROC
    nor AUPRO is, and `image_auroc` needs both normal and abnormal images.

    Attributes:
        auroc: area under the ROC curve over pixels.
        average_precision: mean over abnormal pixels of the precision at their scores.
        best_iou: the largest intersection over union of flagged and abnormal pixels that any threshold gives. An oracle figure:
            the threshold is chosen on the very images that it is measured on.
        best_iou_threshold: that threshold; pixels above it are flagged. Any float; minus infinity flags all pixels.
        calibrated_iou: the same at the threshold that was given beforehand.
        aupro: area under the mean per-region overlap up to a false positive rate of 0.3, over 0.3.
        image_auroc: area under the ROC curve over images.
        auroc_error: a bound on how far `auroc` is from that of the scores kept one by one. 0 up to a million pixels.
        average_precision_error: likewise for `average_precision`.
        aupro_error: likewise for `aupro`.
        images: how many images.
        pixels: how many pixels are counted; those of images whose masks are unknown are not.
        abnormal_pixels: how many of them are abnormal.
        regions: how many connected regions they form.
    """

    auroc: float | None
    average_precision: float | None
    best_iou: float | None
    best_iou_threshold: float | None
    calibrated_iou: float | None
    aupro: float | None
    image_auroc: float | None
    auroc_error: float | None
    average_precision_error: float | None
    aupro_error: float | None
    images: int
    pixels: int
    abnormal_pixels: int
    regions: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the names that `vaelens evaluate --json` prints."""
        return {
            "pixel_auroc": self.auroc,
            "pixel_ap": self.average_precision,
            "aupro": self.aupro,
            "best_iou": self.best_iou,
            "best_iou_threshold": self.best_iou_threshold,
            "calibrated_iou": self.calibrated_iou,
            "image_auroc": self.image_auroc,
            "pixel_auroc_error": self.auroc_error,
            "pixel_ap_error": self.average_precision_error,
            "aupro_error": self.aupro_error,
            "images": self.images,
            "pixels": self.pixels,
            "abnormal_pixels": self.abnormal_pixels,
            "regions": self.regions,
        }


@dataclass(frozen=True)
class PixelResult(PixelFigures):
    """Figures over all images, and for each type of defect.

    Attributes:
        per_defect: for each type, the figures of its images together with all normal ones; empty where no types were named.
    """

    per_defect: dict[str, PixelFigures] = field(default_factory=dict)

    def mean_over_defects(self, figure: str) -> float | None:
        """The mean of a figure, such as "auroc", over the types of defect that define it; None where none does.

        Raises:
            UsageError: there is no such figure.
        """
        if figure not in PixelFigures.__dataclass_fields__:
            raise UsageError(f"unknown figure {brief(figure)}; there are: {', '.join(PixelFigures.__dataclass_fields__)}")
        values = [value for f in self.per_defect.values() if (value := getattr(f, figure)) is not None]
        return sum(values) / len(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"per_defect": {name: f.to_dict() for name, f in self.per_defect.items()}}


class PixelMetrics:
    """Takes in maps and masks batch by batch; knows the figures over all of them at any time.

    Memory does not depend on the number of images, but for one number for each. Can be pickled and merged, so that processes
    can share the work.

    Args:
        threshold: pixels above it are flagged for `calibrated_iou`; from normal images alone, such as
            `Calibration.pixel_threshold`. None for no such figure.

    Raises:
        UsageError: the threshold is NaN.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = None if threshold is None else float(threshold)
        if self.threshold is not None and np.isnan(self.threshold):
            raise UsageError("the threshold of PixelMetrics is NaN; give a number, or None for no calibrated IoU")
        self._groups: dict[str | None, _Group] = {}

    def update(
        self,
        maps: Tensor | NDArray[Any],
        masks: Tensor | NDArray[Any] | None,
        defects: Sequence[str] | None = None,
        scores: Tensor | ArrayLike | None = None,
        anomalous: Tensor | ArrayLike | None = None,
    ) -> None:
        """Take in a batch of images; their size may differ from batch to batch.

        Args:
            maps: (B, H, W), higher is more abnormal; infinite values are ranked like any other.
            masks: (B, H, W), bool, true where abnormal. None where they are unknown: normal images then count as normal pixels,
                abnormal ones for the figure over images alone.
            defects: for each of the B images its type of defect; "good" for normal ones.
            scores: (B,), one for each image; None for the largest value of each map.
            anomalous: (B,), bool, whether each image is abnormal; None to take it from masks, without masks from defects.

        Raises:
            UsageError: a shape does not fit, a value is NaN, a "good" image has abnormal pixels, or nothing says which images
                are abnormal. Nothing of the batch has been counted then.
        """
        values = as_maps(maps)
        known = None if masks is None else as_masks(masks, values.shape)
        peaks = values.max((1, 2)).astype(np.float64)
        if (missing := np.isnan(peaks)).any():
            raise UsageError(f"map {missing.argmax()} of {len(values)} has NaN values; figures are not defined for NaN")
        images = peaks if scores is None else as_scores(scores, len(values))
        names = _names(defects, len(values))
        marked: NDArray[np.bool_] | None = None if known is None else np.any(known, axis=(1, 2))
        if anomalous is not None:
            labels = as_labels(anomalous, len(values))
        elif marked is not None:
            labels = marked
        elif defects is not None:
            labels = np.array([name != NORMAL for name in names], dtype=bool)
        else:
            raise UsageError("nothing says which images are abnormal; give masks, defects or anomalous")
        for i, name in enumerate(names):
            if name == NORMAL and (labels[i] or (marked is not None and marked[i])):
                raise UsageError(f"image {i} is called {NORMAL!r} but is abnormal by its mask or label; name its defect")
        for name in dict.fromkeys(names):
            chosen = np.array([other == name for other in names], dtype=bool)
            group = self._groups.setdefault(name, _Group())
            group.images.append(images[chosen])
            group.labels.append(labels[chosen])
            counted = chosen if known is not None else chosen & ~labels
            for part in _blocks(counted, values[0].size):
                group.count(values[part], None if known is None else known[part], self.threshold)

    def merge(self, other: PixelMetrics) -> Self:
        """Take in all images that `other` has seen, which stays as it is. Returns itself.

        Raises:
            UsageError: the thresholds differ.
        """
        if other.threshold != self.threshold:
            raise UsageError(f"metrics of thresholds {self.threshold} and {other.threshold} do not merge; give both the same")
        for name, group in list(other._groups.items()):
            self._groups.setdefault(name, _Group()).merge(group)
        return self

    def compute(self) -> PixelResult:
        """The figures over all images so far.

        Raises:
            UsageError: there are none.
        """
        if not any(len(labels) for group in self._groups.values() for labels in group.labels):
            raise UsageError("PixelMetrics has seen no images; call update(maps, masks) first")
        spans = {name: group.store.spans() for name, group in self._groups.items()}
        normal = [name for name in self._groups if name == NORMAL]
        defects = sorted(name for name in self._groups if name is not None and name != NORMAL)
        per_defect = {name: PixelFigures(**self._measure([*normal, name], spans)) for name in defects}
        return PixelResult(**self._measure(list(self._groups), spans), per_defect=per_defect)

    def _measure(self, names: Sequence[str | None], spans: dict[str | None, Spans]) -> dict[str, Any]:
        groups = [self._groups[name] for name in names]
        together = Spans.joined([spans[name] for name in names])
        regions = sum(group.regions for group in groups)
        abnormal = int(together.abnormal.sum())
        images = np.concatenate([part for group in groups for part in group.images])
        labels = np.concatenate([part for group in groups for part in group.labels])
        flagged, hits = sum(group.flagged for group in groups), sum(group.hits for group in groups)
        return vars(PixelCurves.measure(together, regions)) | {
            "calibrated_iou": hits / (abnormal + flagged - hits) if abnormal and self.threshold is not None else None,
            "image_auroc": (
                auroc(torch.from_numpy(images[~labels]), torch.from_numpy(images[labels]))
                if labels.any() and not labels.all()
                else None
            ),
            "images": len(labels),
            "pixels": int(together.mass.sum()),
            "abnormal_pixels": abnormal,
            "regions": regions,
        }


class _Group:
    """All images with one type of defect.

    Attributes:
        images, labels: scores of images, and whether each is abnormal, batch by batch.
        flagged, hits: pixels above the threshold, and how many of them are abnormal.
    """

    def __init__(self) -> None:
        self.store = ScoreStore()
        self.images: list[NDArray[np.float64]] = []
        self.labels: list[NDArray[np.bool_]] = []
        self.regions = self.flagged = self.hits = 0

    def count(self, maps: NDArray[Any], masks: NDArray[np.bool_] | None, threshold: float | None) -> None:
        """Count the pixels of maps (B, H, W) with masks (B, H, W), None for all normal."""
        if masks is None or not masks.any():
            normal, abnormal, weight, regions = maps.reshape(-1), np.zeros(0, maps.dtype), np.zeros(0), 0
        else:
            # Twice as quick as indexing with a mask that is true here and there.
            normal, abnormal = maps.compress(~masks.reshape(-1)), maps.compress(masks.reshape(-1))
            weight, regions = region_weights(masks)
        if threshold is not None:
            hits = int(np.count_nonzero(abnormal > threshold))
            self.flagged += int(np.count_nonzero(normal > threshold)) + hits
            self.hits += hits
        self.regions += regions
        self.store.add(normal, abnormal, weight)

    def merge(self, other: _Group) -> None:
        self.store.merge(other.store)
        self.images += other.images
        self.labels += other.labels
        self.regions += other.regions
        self.flagged += other.flagged
        self.hits += other.hits


def _names(defects: Sequence[str] | None, count: int) -> list[str | None]:
    if defects is None:
        return [None] * count
    if isinstance(defects, str) or len(defects) != count:
        raise UsageError(f"defects must name the defect of each of the {count} maps, got {brief(defects)}")
    names = [str(name) for name in defects]
    return list(names)


def _blocks(chosen: NDArray[np.bool_], pixels: int) -> Iterator[slice | NDArray[np.int64]]:
    """The chosen images, a million pixels at a time or one image; as slices where none is left out, so that none is copied."""
    step = max(1, _BLOCK // max(1, pixels))
    where = np.flatnonzero(chosen)
    for start in range(0, len(where), step):
        yield slice(start, start + step) if len(where) == len(chosen) else where[start : start + step]
