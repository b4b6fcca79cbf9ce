"""Latents are gathered to few axes, and turned to independent ones, while a high KL weight still keeps their codes plain."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaelens.training.heads import Fresh, Layer, layers_of, means_and_closed

STRONG = 0.25
"""What the variance of a gathered latent's means is at least, as a share of the strongest one's; weaker ones are closed."""
_TOLERANCE, _MOST = 1e-6, 1000


@torch.no_grad()
def gather(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> Tensor:
    """Turn all latents to the principal axes of their means, and close those that are weak.

    Under a KL weight that falls, several latents open at once, each with means that are linear in position. Position takes
    two; what the others hold of it bends within a few hundred steps, to x^2, y^2 or xy, and then stays, in the place of scale
    or shape. While all are linear they are of rank two, and the principal axes show it. A closed latent's posterior is the
    prior; the decoder keeps its weights, so that it goes on to put up with the noise.

    Args:
        model: as `layers_of` takes it.
        optimizer: of the model, Adam; it forgets what it knew of the weights that are turned.
        images: (B, C, H, W) in [0, 1]; four thousand are enough.

    Returns:
        (D,), the variance of each latent's means, along the axes to which they were turned; (0,) where the layers about the
        latents are frozen, or no mean varies.
    """
    _, heads, entrance = layers_of(model)
    if _is_frozen(heads, entrance):
        return torch.zeros(0)
    mean, closed = means_and_closed(model, images)
    values, vectors = np.linalg.eigh(np.cov(mean.double().cpu().numpy().T, ddof=0).reshape(mean.shape[1], -1))
    if values[-1] <= 0:
        return torch.zeros(0)
    rows, order = _nearest(vectors.T)
    variances = values[order]
    fresh, all_ = Fresh(optimizer), torch.ones_like(closed)
    _rotate(fresh, heads, entrance, all_, torch.from_numpy(rows).to(mean))
    weak = torch.from_numpy(variances < STRONG * values[-1]).to(mean.device)
    for head in heads:
        fresh.put(head.weight, weak, 0.0)
        fresh.put(head.bias, weak, 0.0)
    return torch.from_numpy(variances).to(mean)


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
    if _is_frozen(heads, entrance):
        return torch.eye(0)
    mean, closed = means_and_closed(model, images)
    open_ = ~closed
    rotation = torch.from_numpy(rotation_to_independence(mean[:, open_].double().cpu().numpy())).to(mean)
    if len(rotation) < 2:
        return rotation
    _rotate(Fresh(optimizer), heads, entrance, open_, rotation)
    return rotation


def _is_frozen(heads: tuple[Layer, Layer], entrance: Layer) -> bool:
    """Whether one of the layers about the latents is: what is frozen stays."""
    return not all(weight.requires_grad for layer in (*heads, entrance) for weight in layer.parameters())


def _rotate(fresh: Fresh, heads: tuple[Layer, Layer], entrance: Layer, which: Tensor, rotation: Tensor) -> None:
    """Turn some latents (D,) by a rotation (K, K), and the decoder's first layer with them."""
    # Of variances the mean in logarithms, which is exact where they are equal.
    for head, mixed in zip(heads, (rotation, rotation.square()), strict=True):
        for weight in (head.weight, head.bias):
            if weight is not None:
                there = weight[which]
                fresh.put(weight, which, (mixed @ there.reshape(len(rotation), -1)).reshape(there.shape))
    column = entrance.weight[:, which]
    fresh.put(entrance.weight, (slice(None), which), (column.flatten(1) @ rotation.T).reshape(column.shape))


def _nearest(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Orthonormal rows (K, K), ordered and signed so that each is near the axis it comes to, and that order."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    _, order = linear_sum_assignment(-np.abs(rows.T))
    rows = rows[order]
    return rows * np.where(np.diag(rows) < 0, -1.0, 1.0)[:, None], order


def rotation_to_independence(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (K, K) that makes codes (N, K) most independent, by kurtosis; the identity where FastICA finds none.

    Its rows are ordered and signed so that each is near the axis it comes from.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    count = codes.shape[1]
    if count < 2 or len(codes) < 2:
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
    return _nearest(left @ right)[0]
