"""Open latents are turned to the axes that are independent, while a high KL weight still keeps their codes plain."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaelens.training.heads import Fresh, layers_of, means_and_closed

_TOLERANCE, _MOST = 1e-6, 1000


@torch.no_grad()
def turn(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> Tensor:
    """Turn the latents that are open so that their means are as independent as a rotation makes them, by FastICA.

    Two latents of position may lie askew to the two axes of the image, which the evidence lower bound does not mind. Under a
    high KL weight their means are linear in position, so that independent component analysis finds the axes; later each has the
    shape of the prior, and then nothing tells one rotation from another. Each latent goes to the axis nearest to it. What is
    decoded stays as it was, as far as turned posteriors are alike.

    Args:
        model: as `layers_of` takes it.
        optimizer: of the model, Adam; it forgets what it knew of the weights that are turned.
        images: (B, C, H, W) in [0, 1]; four thousand are enough.

    Returns:
        (K, K), the rotation of the K open latents; the identity where fewer than two are open, or none is found; (0, 0) where
        the layers about the latents are frozen.
    """
    _, heads, entrance = layers_of(model)
    if not all(weight.requires_grad for layer in (*heads, entrance) for weight in layer.parameters()):
        return torch.eye(0)  # what is frozen stays
    mean, closed = means_and_closed(model, images)
    open_ = ~closed
    rotation = torch.from_numpy(rotation_to_independence(mean[:, open_].double().cpu().numpy())).to(mean)
    if len(rotation) < 2:
        return rotation
    fresh = Fresh(optimizer)
    # Of variances the mean in logarithms, which is exact where they are equal.
    for head, mixed in zip(heads, (rotation, rotation.square()), strict=True):
        for weight in (head.weight, head.bias):
            if weight is not None:
                there = weight[open_]
                fresh.put(weight, open_, (mixed @ there.reshape(len(rotation), -1)).reshape(there.shape))
    column = entrance.weight[:, open_]
    fresh.put(entrance.weight, (slice(None), open_), (column.flatten(1) @ rotation.T).reshape(column.shape))
    return rotation


def rotation_to_independence(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (K, K) that makes codes (N, K) most independent, by kurtosis; the identity where FastICA finds none.

    Its rows are ordered and signed so that each is near the axis it comes from.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    count = codes.shape[1]
    if count < 2:
        return np.eye(count)
    codes = codes - codes.mean(0)
    values, vectors = np.linalg.eigh(np.cov(codes.T))
    if values[0] <= 0:
        return np.eye(count)
    white = codes @ (vectors * values**-0.5) @ vectors.T
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            found = FastICA(whiten=False, fun="cube", w_init=np.eye(count), max_iter=_MOST, tol=_TOLERANCE).fit(white)
        except ConvergenceWarning:
            return np.eye(count)
    left, _, right = np.linalg.svd(found.components_)
    rows = left @ right
    _, order = linear_sum_assignment(-np.abs(rows.T))
    rows = rows[order]
    turned: NDArray[np.float64] = rows * np.sign(np.diag(rows))[:, None]
    return turned
