"""How well one score ranks abnormal above normal."""

from __future__ import annotations

from torch import Tensor

from vaelens.errors import UsageError


def auroc(normal: Tensor, abnormal: Tensor) -> float:
    """Area under the ROC curve, in [0, 1]: the chance that an abnormal one scores above a normal one, ties counting half.

    Args:
        normal: scores (N,) of normal images or pixels.
        abnormal: scores (M,) of abnormal ones.

    Raises:
        UsageError: one of them is empty, or a score is NaN.
    """
    if not len(normal) or not len(abnormal):
        raise UsageError("AUROC needs at least one normal and one abnormal score")
    if bool(normal.isnan().any() or abnormal.isnan().any()):
        raise UsageError("AUROC is not defined for scores that are NaN")
    import numpy as np
    from sklearn.metrics import roc_auc_score

    scores = np.concatenate([normal.double().cpu().numpy(), abnormal.double().cpu().numpy()])
    truth = np.concatenate([np.zeros(len(normal)), np.ones(len(abnormal))])
    return float(roc_auc_score(truth, scores))
