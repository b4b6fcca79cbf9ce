"""Maps as one: what each counts for, by hand and against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from vaelens.localizers.combined import Combined

MASKS = torch.zeros(3, 2, 2, dtype=torch.bool)
MASKS[2, 0] = True  # two images without a defect, one with two marked pixels


def test_by_hand() -> None:
    sees = torch.tensor([[[0.0, 2.0], [4.0, 6.0]], [[1.0, 3.0], [5.0, 7.0]], [[9.0, 8.0], [0.0, 1.0]]])
    half = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.5], [0.0, 1.0]]])
    combined = Combined.measured(torch.stack([sees, half]), MASKS)
    # All is above: AUROC 1. Of ten unmarked, 2.0 is above ten and 0.5 above five: AUROC 15 / 20.
    weights = [1 / 1.5, 0.5 / 1.5]
    means, spreads = [3.5, 0.5], [6**0.5, (2 / 7) ** 0.5]
    torch.testing.assert_close(combined.table, torch.tensor(list(zip(means, spreads, weights, strict=True))))
    found = combined(torch.tensor([[[[5.0]]], [[[1.0]]]]))
    mean = weights[0] * 1.5 / spreads[0] + weights[1] * 0.5 / spreads[1]
    assert float(found) == pytest.approx(math.log(1 + math.exp(mean)))


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 50))
def test_weights_are_gini_coefficients(seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(6, 5, 4, generator=generator) < 0.2
    masks[:2] = False
    masks[2, 0, 0] = True
    maps = (torch.rand(3, 6, 5, 4, generator=generator) + masks * torch.rand(3, 1, 1, 1, generator=generator)) * levels
    maps = maps.round()  # with ties
    ginis = [max(0.0, 2 * roc_auc_score(masks.flatten(), one.flatten()) - 1) for one in maps]
    expected = torch.tensor(ginis) / sum(ginis) if sum(ginis) else torch.full((3,), 1 / 3)
    torch.testing.assert_close(Combined.measured(maps, masks).table[:, 2], expected.float())


def test_what_finds_less_than_chance_is_not_heard_and_never_turned_round() -> None:
    sees = MASKS.float() + torch.arange(2.0)[:, None]
    combined = Combined.measured(torch.stack([sees.expand(3, 2, 2), -sees.expand(3, 2, 2)]), MASKS)
    assert combined.table[:, 2].tolist() == [1, 0]


@pytest.mark.parametrize("masks", [MASKS, torch.zeros_like(MASKS)], ids=["none finds more than chance", "nothing is marked"])
def test_where_nothing_is_known_all_weigh_alike(masks: torch.Tensor) -> None:
    constant = Combined.measured(torch.ones(2, 3, 2, 2), masks)
    assert constant.table[:, 2].tolist() == [0.5, 0.5]
    assert bool(constant(torch.ones(2, 1, 2, 2)).isfinite().all())  # nor is anything divided by a spread of 0
