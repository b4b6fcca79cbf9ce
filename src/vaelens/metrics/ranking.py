"""How well one score ranks abnormal above normal."""

from __future__ import annotations

import torch
from torch import Tensor

from vaelens.errors import UsageError


def auroc(normal: Tensor, abnormal: Tensor) -> float:
    """Area under the ROC curve, in [0, 1]: the chance that an abnormal one scores above a normal one, ties counting half.

    Args:
        normal: scores (N,) of normal images or pixels; infinite ones are ranked like any other.
        abnormal: scores (M,) of abnormal ones.

    Raises:
        UsageError: one of them is empty, or a score is NaN.
    """
    if not normal.numel() or not abnormal.numel():
        raise UsageError("AUROC needs at least one normal and one abnormal score")
    if bool(normal.isnan().any() or abnormal.isnan().any()):
        raise UsageError("AUROC is not defined for scores that are NaN")
    ordered = normal.flatten().double().sort().values
    scores = abnormal.flatten().double().contiguous()
    below = torch.searchsorted(ordered, scores, right=False)
    not_above = torch.searchsorted(ordered, scores, right=True)
    # Counted in whole numbers, so that order and size of the sums cannot matter.
    return int((below + not_above).sum()) / (2 * len(ordered) * len(scores))
