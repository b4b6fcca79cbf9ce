"""AUROC: values worked out by hand, ties, and that only the order counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.metrics import auroc

# Few different values, so that ties are common; halves, so that every step is exact in floating point.
scores = st.lists(st.integers(-20, 20).map(lambda i: i / 2), min_size=1, max_size=30).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@pytest.mark.parametrize(
    ("normal", "abnormal", "expected"),
    [
        ([1, 2, 3], [4, 5], 1.0),
        ([4, 5], [1, 2, 3], 0.0),
        ([1], [1], 0.5),
        ([1, 1, 1], [1, 1], 0.5),
        ([1, 3], [2, 4], 3 / 4),  # 2 > 1, 2 < 3, 4 > 1, 4 > 3
        ([1, 2, 2], [2, 3], (1 + 0.5 + 0.5 + 3) / 6),
        ([0, -math.inf], [math.inf, 0], (2 + 1 + 0.5) / 4),
    ],
)
def test_values_worked_out_by_hand(normal: list[float], abnormal: list[float], expected: float) -> None:
    assert auroc(torch.tensor(normal, dtype=torch.float32), torch.tensor(abnormal, dtype=torch.float32)) == expected


@given(scores, scores)
def test_equals_the_share_of_pairs_in_order(normal: Tensor, abnormal: Tensor) -> None:
    pairs = (abnormal[:, None] > normal).double() + (abnormal[:, None] == normal).double() / 2
    assert auroc(normal, abnormal) == pytest.approx(float(pairs.mean()), abs=1e-12)


@given(scores, scores)
def test_swapping_the_classes_turns_it_around(normal: Tensor, abnormal: Tensor) -> None:
    assert auroc(normal, abnormal) == pytest.approx(1 - auroc(abnormal, normal), abs=1e-12)


@pytest.mark.parametrize("transform", [lambda x: 3 * x + 7, torch.exp, lambda x: x**3, torch.atan])
@given(normal=scores, abnormal=scores)
def test_only_the_order_counts(transform: object, normal: Tensor, abnormal: Tensor) -> None:
    assert callable(transform)
    assert auroc(transform(normal), transform(abnormal)) == auroc(normal, abnormal)
    assert auroc(-normal, -abnormal) == pytest.approx(1 - auroc(normal, abnormal), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_equals_scikit_learn_on_many_scores_of_any_type(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    normal = (torch.randn(5000, generator=generator) * 8).to(dtype)
    abnormal = (torch.randn(3000, generator=generator) * 8 + 4).to(dtype)
    truth = torch.cat([torch.zeros(5000), torch.ones(3000)]).numpy()
    expected = roc_auc_score(truth, torch.cat([normal, abnormal]).double().numpy())
    assert auroc(normal, abnormal) == pytest.approx(expected, abs=1e-12)


def test_pixels_may_come_as_images() -> None:
    assert auroc(torch.zeros(2, 3, 3), torch.ones(4, 3, 3)) == 1.0


@pytest.mark.parametrize(
    ("normal", "abnormal"),
    [([], [1.0]), ([1.0], []), ([], []), ([math.nan], [1.0]), ([1.0], [2.0, math.nan])],
)
def test_what_has_no_auroc_is_an_error(normal: list[float], abnormal: list[float]) -> None:
    with pytest.raises(UsageError, match=r"AUROC"):
        auroc(torch.tensor(normal), torch.tensor(abnormal))
