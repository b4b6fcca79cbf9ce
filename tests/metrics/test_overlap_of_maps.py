"""The overlap of attention maps as a figure: by hand, against the loss, and what cannot be measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.metrics import attention_overlap
from vaelens.objectives import attention_disentanglement


def test_by_hand() -> None:
    """Of one image 2 min(1, 3) / 4 = 1/2 with the second latent, 0 with the third, whose map lies elsewhere; of the other the
    first two are equal and the third is empty.
    """
    maps = np.zeros((2, 3, 1, 2))
    maps[0, :, 0] = [[1, 0], [3, 0], [0, 5]]
    maps[1, :2, 0] = [2, 1]
    found = attention_overlap(maps)
    assert found.per_pair == pytest.approx(np.array([[1, 0.75, 0], [0.75, 1, 0], [0, 0, 1]]))
    assert found.score == pytest.approx(0.25)
    assert found.of_drawn == pytest.approx(1.5 / 4)  # four pairs are of two maps that are there
    assert found.empty.tolist() == [0, 0, 0.5]
    assert found.to_dict()["empty"] == [0, 0, 0.5]


def test_identical_disjoint_and_empty_maps() -> None:
    same = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)).expand(4, 5, 3, 3)
    assert attention_overlap(same).score == pytest.approx(1)
    disjoint = np.eye(4).reshape(1, 4, 2, 2)
    assert attention_overlap(disjoint).score == attention_overlap(disjoint).of_drawn == 0
    nothing = attention_overlap(np.zeros((2, 3, 2, 2)))
    assert (nothing.score, nothing.of_drawn, nothing.empty.tolist()) == (0, None, [1, 1, 1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(2, 5), st.sampled_from([1, 100, 1 << 24]))
def test_is_the_loss_over_all_pairs_whatever_is_taken_at_once(seed: int, count: int, latents: int, at_once: int) -> None:
    maps = torch.randn(count, latents, 2, 3, generator=torch.Generator().manual_seed(seed)).relu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaelens.metrics.overlap._FLOATS", at_once)
        found = attention_overlap(maps.bfloat16().double() if seed % 2 else maps)
    expected = attention_disentanglement(maps.bfloat16().float() if seed % 2 else maps, "all")
    assert found.score == pytest.approx(float(expected), abs=1e-6)
    assert found.score == pytest.approx((found.per_pair.sum() - latents) / (latents * (latents - 1)))


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (np.ones((2, 3, 4)), r"attention maps are \(images, latents, height, width\), of at least 2 latents, got \(2, 3, 4\)"),
        (np.ones((2, 1, 4, 4)), "at least 2 latents"),
        (np.ones((0, 2, 4, 4)), "at least 2 latents"),
        (-np.ones((2, 2, 4, 4)), "finite real numbers from 0 on; give the rectified maps"),
        (np.full((2, 2, 4, 4), np.nan), "finite real numbers"),
        (np.full((2, 2, 4, 4), "x"), "finite real numbers"),
        ([[1.0], [1.0, 2.0]], r"attention maps must be an array \(images, latents, height, width\), got"),
        (torch.ones(2, 2, 4, 4).to_sparse(), "attention maps must be an array"),
    ],
)
def test_what_are_no_maps(maps: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        attention_overlap(maps)
    assert "\n" not in str(caught.value)
