"""How well a run's localizers find defects in the test images of its data set, pixel by pixel and image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.data.anomaly import ANOMALOUS, NORMAL, UNKNOWN, AnomalySplit
from vaelens.data.images import ImageSet, to_float
from vaelens.errors import UsageError
from vaelens.localizers import FLOORS, Localizer
from vaelens.metrics import PixelMetrics
from vaelens.metrics.localization import PixelResult
from vaelens.runs import FALSE_ALARMS, Run
from vaelens.runs.localizers import build, suitable

_BATCH = 32


@dataclass(frozen=True)
class LocalizerResult:
    """One localizer on the test images.

    Attributes:
        figures: over pixels and images; None where the data set has no masks and no anomalous images.
        false_alarms: share of normal test images flagged at a promised rate of 0.05; None without any.
        detected: share of anomalous test images flagged; None without any.
        scores: (N,), the score of each test image.
    """

    figures: PixelResult
    false_alarms: float | None
    detected: float | None
    scores: Tensor

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {**self.figures.to_dict(), "false_alarms": self.false_alarms, "detected": self.detected}


@dataclass(frozen=True)
class LocalizationEvaluation:
    """All localizers of a run on the test images.

    Attributes:
        dataset: such as "mvtec/screw".
        localizers: by name, with options where they have any.
        counts: number of images in each part of the data.
        active: number of latents with more than 0.05 nats on held-out normal images.
        latents: number of latents; 0 where the model has no posterior.
        synthetic: whether the images were held-out normal ones with synthetic defects, and not test images.
        seed: of those defects.
    """

    dataset: str
    localizers: dict[str, LocalizerResult]
    counts: dict[str, int]
    active: int
    latents: int
    synthetic: bool = False
    seed: int = 0

    def below_floors(self) -> dict[str, list[str]]:
        """The localizers that have not localized anything: for each, the floors that it does not beat in AUROC and in AP.

        Nothing is said of those whose pixels could not be measured.
        """
        floors = {name: one.figures for name, one in self.localizers.items() if name in FLOORS}
        return {
            name: worse
            for name, one in self.localizers.items()
            if name not in FLOORS
            and one.figures.auroc is not None
            and (worse := [floor for floor, figures in floors.items() if not beats(_both(one.figures), _both(figures))])
        }

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {
            "dataset": self.dataset,
            "synthetic": self.synthetic,
            "localizers": {name: result.to_dict() for name, result in self.localizers.items()},
            "below_floors": self.below_floors(),
            "active_latents": self.active,
            "latents": self.latents,
            "images": self.counts,
        }


def evaluate_localization(
    run: Run,
    split: AnomalySplit,
    localizers: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalizationEvaluation:
    """Measure localizers on the test images of a data set.

    Args:
        run: of that data set.
        split: its data.
        localizers: which, with options where need be; None for the run's own and the floors.
        progress: called with images done and images to be done in all, over all localizers.

    Raises:
        UsageError: no test images, or a localizer that the run does not allow.
    """
    if split.test is None:
        raise UsageError(
            f"{split.dataset} has no test images: put good ones and others into ROOT/test/good and ROOT/test/DEFECT, or pass "
            "--synthetic for synthetic defects on held-out normal images"
        )
    if split.test.classes == (UNKNOWN,):
        raise UsageError(
            f"of the {len(split.test)} test images of {split.dataset} none is known to be good or to have a defect: put them "
            "into ROOT/test/good and ROOT/test/DEFECT; vaelens score takes them as they are"
        )
    results = measure_all(run, localizers, split.test, split.defects, split.masks, split.has_mask, progress)
    return LocalizationEvaluation(split.dataset, results, split.counts, int(run.active.sum()), len(run.active))


def measure_all(
    run: Run,
    localizers: Sequence[str] | None,
    test: ImageSet,
    defects: Sequence[str],
    masks: Tensor | None,
    has_mask: Tensor | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, LocalizerResult]:
    """Localizers on labelled images, by name; None for the run's own and the floors.

    Raises:
        UsageError: a localizer that the run does not allow.
    """
    names = list(dict.fromkeys(localizers or suitable(run.config)))
    for name in names:  # what can be refused is refused before anything is measured
        build(name, run.model, run.config)
    results = {}
    for position, name in enumerate(names):

        def done(images: int, before: int = position * len(test)) -> None:
            if progress:
                progress(before + images, len(names) * len(test))

        results[name] = _measure(run, name, run.localizer(name), test, defects, masks, has_mask, done)
    return results


def _measure(
    run: Run,
    name: str,
    localizer: Localizer,
    test: ImageSet,
    defects: Sequence[str],
    masks: Tensor | None,
    has_mask: Tensor | None,
    done: Callable[[int], None],
) -> LocalizerResult:
    """One localizer on labelled images; those of unknown label count nowhere, those without a mask in no pixel figure."""
    assert test.labels is not None
    calibration = run.calibration(name)
    metrics = PixelMetrics(calibration.pixel_threshold(FALSE_ALARMS))
    scores: list[Tensor] = []
    for start in range(0, len(test), _BATCH):
        at = slice(start, start + _BATCH)
        result = localizer.localize(to_float(test.images[at]))
        scores.append(result.score)
        labels, named = test.labels[at], defects[at]
        for masked in (True, False):
            chosen = labels != -1
            if masks is None or has_mask is None:
                chosen &= torch.tensor(not masked)
            else:
                chosen &= has_mask[at] == masked
            index = chosen.nonzero().flatten()
            if len(index):
                metrics.update(
                    result.maps[index],
                    masks[at][index] if masked and masks is not None else None,
                    [named[i] for i in index.tolist()],
                    result.score[index],
                    anomalous=labels[index] == ANOMALOUS,
                )
        done(min(start + _BATCH, len(test)))
    every = torch.cat(scores)
    flagged = calibration.p_values(every) <= FALSE_ALARMS
    return LocalizerResult(
        figures=metrics.compute(),
        false_alarms=_share(flagged, test.labels == NORMAL),
        detected=_share(flagged, test.labels == ANOMALOUS),
        scores=every,
    )


def _share(flagged: Tensor, among: Tensor) -> float | None:
    return float(flagged[among].double().mean()) if among.any() else None


def beats(figures: Sequence[float | None], floor: Sequence[float | None]) -> bool:
    """Whether each figure is above the floor's; one that is not defined is above nothing, and a floor's stops nobody."""
    pairs = zip(figures, floor, strict=True)
    return all(mine is not None and (other is None or mine > other) for mine, other in pairs)


def _both(figures: PixelResult) -> tuple[float | None, float | None]:
    """What a method has to be above every floor in."""
    return figures.auroc, figures.average_precision
