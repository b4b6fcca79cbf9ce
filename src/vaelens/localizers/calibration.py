"""What counts as abnormal, from held-out normal images alone (split conformal).

With M held-out normal images and a fresh normal image exchangeable with them, its p-value is at most a with a probability of at
most a, whatever the model, the localizer and the distribution of scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.localizers.base import Localizer, as_batches


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out normal images.

    Attributes:
        scores: (M,), their scores.
        peaks: (M,), the largest value of each one's map.
    """

    scores: Tensor
    peaks: Tensor

    @classmethod
    def measure(cls, localizer: Localizer, held_out: Tensor) -> Calibration:
        """Score held-out normal images (M, C, H, W), uint8 or float in [0, 1], that neither network nor localizer has seen."""
        results = [localizer.localize(batch) for batch in as_batches(held_out)]
        return cls(torch.cat([r.score for r in results]), torch.cat([r.maps.amax((1, 2)) for r in results]))

    def p_values(self, scores: Tensor) -> Tensor:
        """Scores (B,) -> (B,): (1 + number of held-out normal images that score at least as high) / (M + 1)."""
        ordered = self.scores.sort().values
        below = torch.searchsorted(ordered, scores.to(ordered), right=False)
        return (1 + len(ordered) - below).to(torch.float64) / (len(ordered) + 1)

    def score_threshold(self, false_alarms: float) -> float:
        """An image that scores above this is flagged; at most a share `false_alarms` of normal images does."""
        return _quantile(self.scores, false_alarms)

    def pixel_threshold(self, false_alarms: float) -> float:
        """A pixel above this is flagged; at most a share `false_alarms` of normal images has any."""
        return _quantile(self.peaks, false_alarms)


def check_false_alarms(false_alarms: float) -> float:
    """Return a usable rate, else raise UsageError."""
    if not 0 < false_alarms < 1:
        raise UsageError(f"the false-alarm rate is a share between 0 and 1 such as 0.05, got {false_alarms}")
    return false_alarms


def _quantile(values: Tensor, false_alarms: float) -> float:
    """The smallest held-out value that a fresh normal one exceeds with a probability of at most `false_alarms`.

    Exceeding it is the same as a p-value of at most `false_alarms`. Infinite where there are too few held-out images for
    that rate: nothing is then flagged.
    """
    check_false_alarms(false_alarms)
    total = len(values) + 1
    # The most p-values k / total within the rate; the product alone may round to the wrong side.
    within = math.floor(total * false_alarms)
    within += (within + 1) / total <= false_alarms
    within -= within / total > false_alarms
    return float(values.sort().values[len(values) - within]) if within else math.inf
