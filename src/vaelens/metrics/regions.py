"""Connected regions of masks, and the per-region overlap that is measured on them.

Reference: Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021), section 5.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaelens.metrics.spans import Floats

FPR_LIMIT = 0.3


def region_weights(masks: NDArray[np.bool_]) -> tuple[Floats, int]:
    """One over the size of its region for every abnormal pixel, and how many regions there are.

    Pixels that touch by a side or a corner are one region (8-connectivity). The mean over regions of the share of each that is
    flagged is then the weights of the flagged pixels, summed, over the number of regions: no region needs to be kept.

    Args:
        masks: (B, H, W).

    Returns:
        The weights (P,) of the P pixels of the masks in the order of `masks.nonzero()`, and the number of regions.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    within_image = np.zeros((3, 3, 3), dtype=bool)
    within_image[1] = True
    labels, count = ndimage.label(masks, within_image)
    regions = labels.compress(masks.reshape(-1))
    with np.errstate(divide="ignore"):  # label 0, the background, is not among them
        return (1 / np.bincount(regions, minlength=count + 1)).take(regions), int(count)


def partial_area(false_positives: Floats, overlap: Floats) -> float:
    """The area under the overlap up to a false positive rate of 0.3, over 0.3: in [0, 1].

    Args:
        false_positives: (T,), rates in [0, 1] that never fall.
        overlap: (T,), the mean per-region overlap at each.
    """
    rate = np.concatenate([[0.0], false_positives])
    height = np.concatenate([[0.0], overlap])
    inside = int(np.searchsorted(rate, FPR_LIMIT, side="right"))
    at_limit = np.interp(FPR_LIMIT, rate[inside - 1 : inside + 1], height[inside - 1 : inside + 1])
    rate = np.append(rate[:inside], FPR_LIMIT)
    height = np.append(height[:inside], at_limit)
    return float(np.clip(np.trapezoid(height, rate) / FPR_LIMIT, 0, 1))
