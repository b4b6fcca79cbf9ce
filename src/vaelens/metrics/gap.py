"""How far the best latent is ahead of the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gap(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest less the second largest value of each column: (D, F) with D of 2 and more -> (F,), never negative."""
    second, best = np.partition(matrix, len(matrix) - 2, axis=0)[-2:]
    ahead: NDArray[np.float64] = best - second
    return ahead
