"""The nearest normal images and their weights, in operations that a graph of a file can hold.

`Deviation` takes torch's distances and its solver of linear systems; ONNX has neither. What comes out is the same up to
rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CANDIDATES = 4  # for each neighbour wanted, so many codes that are roughly the nearest are measured exactly
_ACCURACY = 1e-9  # what the inverse's iterations are counted for; float32 itself stops at 1e-7


def nearest(codes: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest of `among` to each code, by Euclidean distance.

    Differences for all pairs would take (B, N, D) numbers, and a matrix product alone cancels where codes lie close together:
    so the product finds candidates, and differences choose among them.

    Args:
        codes: (B, D).
        among: (N, D), constant.
        count: k, N at most.

    Returns:
        (B, k), their indices; (B, k, D), their codes less the code that they are near to.
    """
    center = among.mean(0)
    rest = among - center
    half = rest.square().sum(1) / 2
    rough = half - (codes - center) @ rest.T  # half the squared distance, less what is the same for all of a row
    candidates = rough.topk(min(_CANDIDATES * count, among.shape[0]), dim=1, largest=False).indices
    offsets = among[candidates] - codes.unsqueeze(1)
    chosen = offsets.square().sum(2).topk(count, dim=1, largest=False).indices
    return candidates.gather(1, chosen), offsets.gather(1, chosen.unsqueeze(2).expand(-1, -1, among.shape[1]))


def solved_for_ones(gram: Tensor, scale: Tensor, ridge: float) -> Tensor:
    """The solution of gram @ x = 1, up to a factor of each row.

    The inverse by Newton's iteration, X <- X (2 - A X), whose error squares at each step. The eigenvalues of A = gram / scale
    lie between the ridge and k + ridge, since its diagonal is 1 in the mean before the ridge is added, so that the number of
    steps is known beforehand: 10 for 20 neighbours and a ridge of 0.3.

    Args:
        gram: (B, k, k), see `vaelens.attention.scores.ridged`.
        scale: (B,), what it was made with.
        ridge: likewise.

    Returns:
        (B, k).
    """
    size = gram.shape[1]
    system = gram / scale[:, None, None]
    eye = torch.eye(size, dtype=gram.dtype, device=gram.device)
    middle = 2 / (size + 2 * ridge)  # the inverse of the middle of the spectrum; it is wrong by k / (k + 2 ridge) at most
    steps = math.ceil(math.log2(math.log(_ACCURACY) / math.log(size / (size + 2 * ridge))))
    inverse = middle * (2 * eye - middle * system)  # the first step
    for _ in range(steps - 1):
        inverse = 2 * inverse - inverse @ (system @ inverse)
    solution = inverse.sum(2)
    # One step of refinement: what rounding has left of it.
    missing = 1 - (system @ solution.unsqueeze(2)).squeeze(2)
    return solution + (inverse @ missing.unsqueeze(2)).squeeze(2)
