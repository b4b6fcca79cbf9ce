"""Points to learn a factor from and others to be tested on, and how often a classifier is right on those."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelens.errors import whole

TRAINING_POINTS = 10_000
TEST_POINTS = 5_000


def split(count: int, training: int, test: int, random: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """So many of `count` observations to learn from, and so many others to test on.

    Args:
        count: 2 or more. Where it is less than both numbers together, all are used, in the same proportion.

    Raises:
        UsageError: one of the numbers is below 1.
    """
    training, test = whole("training_points", training), whole("test_points", test)
    if training + test > count:
        training = min(max(1, round(count * training / (training + test))), count - 1)
        test = count - training
    rows = random.choice(count, training + test, replace=False)
    return rows[:training], rows[training:]


def fitted_accuracy(
    model: Any, points: NDArray[Any], labels: NDArray[Any], test_points: NDArray[Any], test_labels: NDArray[Any]
) -> float:
    """The share of test points that a classifier of scikit-learn, which is fitted on the others, gets right.

    Where the labels to learn from are all the same, that is the answer, and the model stays as it is: most refuse to fit.
    """
    if (labels == labels[0]).all():
        return float((test_labels == labels[0]).mean())
    return float((model.fit(points, labels).predict(test_points) == test_labels).mean())
