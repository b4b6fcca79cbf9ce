"""Thresholds and p-values: by hand, and the promise that they make, exactly and by simulation."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.localizers import Calibration, check_false_alarms

rates = st.floats(1e-6, 1, exclude_max=True)
# Few different values, so that ties are common.
held_out_scores = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=60)


def calibration(scores: list[float] | Tensor, peaks: list[float] | Tensor | None = None) -> Calibration:
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return Calibration(scores, scores if peaks is None else torch.as_tensor(peaks, dtype=torch.float32))


def test_p_values_by_hand() -> None:
    nine = calibration([5, 3, 9, 1, 7, 2, 8, 4, 6])
    found = nine.p_values(torch.tensor([10.0, 9.0, 8.5, 5.0, 1.0, 0.0]))
    assert found.tolist() == [0.1, 0.2, 0.2, 0.6, 1.0, 1.0]


def test_p_values_count_ties_as_at_least_as_high() -> None:
    assert calibration([2, 2, 2, 1]).p_values(torch.tensor([2.0, 1.5, 2.5])).tolist() == [0.8, 0.8, 0.2]


@pytest.mark.parametrize(
    ("rate", "threshold"),
    [(0.1, 9.0), (0.19, 9.0), (0.2, 8.0), (0.5, 5.0), (0.9, 1.0), (0.99, 1.0), (0.0999, math.inf), (0.05, math.inf)],
)
def test_thresholds_by_hand(rate: float, threshold: float) -> None:
    nine = calibration(list(range(1, 10)), [10.0 * i for i in range(1, 10)])
    assert nine.score_threshold(rate) == threshold
    assert nine.pixel_threshold(rate) == 10 * threshold


def test_nineteen_images_are_the_fewest_for_five_percent() -> None:
    assert calibration([1.0] * 18).score_threshold(0.05) == math.inf
    assert calibration([1.0] * 19).score_threshold(0.05) == 1.0


def test_with_too_few_images_nothing_is_flagged() -> None:
    few = calibration([1.0, 2.0, 3.0])
    scores = torch.tensor([1e30, math.inf])
    assert not (scores > few.score_threshold(0.05)).any()
    assert not (few.p_values(scores) <= 0.05).any()


@given(held_out_scores, rates)
def test_a_p_value_within_the_rate_is_a_score_above_the_threshold(held_out: list[float], rate: float) -> None:
    fitted, scores = calibration(held_out), torch.arange(-1.0, 11.0, 0.5)
    assert torch.equal(fitted.p_values(scores) <= rate, scores > fitted.score_threshold(rate))


@given(held_out_scores, st.randoms(use_true_random=False), st.sampled_from([0.0, 1e-17, -1e-17, 1e-16, -1e-16, 1e-12, -1e-12]))
def test_and_so_it_is_where_the_rate_is_next_to_a_p_value(held_out: list[float], random: Random, off: float) -> None:
    rate = random.randint(1, len(held_out)) / (len(held_out) + 1) + off
    fitted, scores = calibration(held_out), torch.arange(-1.0, 11.0, 0.5)
    assert torch.equal(fitted.p_values(scores) <= rate, scores > fitted.score_threshold(rate))


@given(st.lists(st.integers(0, 9).map(float), min_size=2, max_size=60), rates)
def test_the_promise_is_exact(pool: list[float], rate: float) -> None:
    """Of any pool of normal images, whichever is the fresh one: at most the promised share of them is flagged.

    That is the guarantee of split conformal prediction, in every finite sample and for any distribution.
    """
    flagged = sum(
        pool[i] > calibration(pool[:i] + pool[i + 1 :]).score_threshold(rate)  # the i-th is fresh, the others held out
        for i in range(len(pool))
    )
    assert flagged / len(pool) <= rate


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("held_out", [25, 99, 400])
@pytest.mark.parametrize("law", ["normal", "heavy tails", "ties"])
def test_false_alarms_in_many_draws(rate: float, held_out: int, law: str) -> None:
    """Image level: the share flagged over many draws of held-out and fresh images, and that it is not needlessly low."""
    draws, fresh = 400, 50
    generator = torch.Generator().manual_seed(held_out)
    normal = torch.randn(draws, held_out + fresh, generator=generator)
    if law == "heavy tails":
        normal = normal / torch.randn(normal.shape, generator=generator).abs().clamp_min(1e-6)
    elif law == "ties":
        normal = normal.round()
    by_score, by_p_value = 0, 0
    for scores in normal:
        fitted = calibration(scores[:held_out])
        by_score += int((scores[held_out:] > fitted.score_threshold(rate)).sum())
        by_p_value += int((fitted.p_values(scores[held_out:]) <= rate).sum())
    share = by_score / (draws * fresh)
    # A draw's share has a spread of about sqrt(rate / held_out) beside its own; four of its standard errors.
    tolerance = 4 * math.sqrt(rate * (1 - rate) * (1 / held_out + 1 / fresh) / draws)
    assert by_p_value == by_score
    assert share <= rate + tolerance
    if law != "ties":
        assert share >= rate - 1 / (held_out + 1) - tolerance


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_false_alarms_anywhere_in_an_image_in_many_draws(rate: float) -> None:
    """Pixel level: the share of fresh normal images that have any pixel above the threshold."""
    draws, held_out, fresh = 400, 60, 20
    generator = torch.Generator().manual_seed(3)
    flagged = 0
    for _ in range(draws):
        noise = torch.rand(held_out + fresh, 1, 9, 9, generator=generator)
        maps = torch.nn.functional.avg_pool2d(noise, 3, 1).squeeze(1)  # neighbouring pixels go together
        fitted = Calibration(maps[:held_out].mean((1, 2)), maps[:held_out].amax((1, 2)))
        flagged += int((maps[held_out:] > fitted.pixel_threshold(rate)).any(2).any(1).sum())
    share = flagged / (draws * fresh)
    tolerance = 4 * math.sqrt(rate * (1 - rate) * (1 / held_out + 1 / fresh) / draws)
    assert rate - 1 / (held_out + 1) - tolerance <= share <= rate + tolerance


def test_p_values_of_fresh_images_are_spread_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    found = torch.stack(
        [calibration(one[:19]).p_values(one[19:]) for one in torch.randn(4000, 20, generator=generator)]
    ).flatten()
    for k in range(1, 21):
        assert float((found <= k / 20).double().mean()) == pytest.approx(k / 20, abs=0.03)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_a_rate_that_is_no_share_is_an_error(rate: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        check_false_alarms(rate)
    with pytest.raises(UsageError, match="between 0 and 1"):
        calibration([1.0]).score_threshold(rate)
