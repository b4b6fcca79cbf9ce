"""The choice of held-out images and clips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaelens.data.held_out import hold_out, hold_out_groups
from vaelens.errors import DataError, UsageError


@given(st.integers(10, 300), st.floats(0.1, 0.9), st.integers(0, 2**63 - 1))
def test_parts_are_whole_ordered_and_of_the_share(total: int, share: float, seed: int) -> None:
    train, calibration = (part.tolist() for part in hold_out(total, share, seed, "x"))
    assert sorted(train + calibration) == list(range(total))
    assert train == sorted(train)
    assert calibration == sorted(calibration)
    assert len(calibration) == round(total * share)
    assert hold_out(total, share, seed, "x")[1].tolist() == calibration


def test_the_choice_is_the_same_on_every_machine() -> None:
    assert hold_out(20, 0.2, 0, "x")[1].tolist() == [4, 5, 13, 19]
    assert hold_out_groups([10] * 20, 0.2, 0, "x")[1] == [4, 5, 13, 19]


@given(st.lists(st.integers(1, 200), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_groups_are_whole_and_near_the_share(sizes: list[int], share: float, seed: int) -> None:
    train, calibration = hold_out_groups(sizes, share, seed, "x")
    assert sorted(train + calibration) == list(range(len(sizes)))
    assert train
    assert calibration
    held = sum(sizes[i] for i in calibration)
    if len(calibration) > 1:  # every group that was added brought the share nearer
        assert abs(held - share * sum(sizes)) <= share * sum(sizes)
    if len(train) > 1:  # the next one would not have, so less than its size is missing
        assert held > share * sum(sizes) - max(sizes)


def test_too_few() -> None:
    with pytest.raises(DataError, match="it takes two"):
        hold_out_groups([100], 0.1, 0, "x: clips")
    with pytest.raises(UsageError, match="x leaves 4 to train and 0 to calibrate on"):
        hold_out(4, 0.1, 0, "x")
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="held_out"):
            hold_out(4, share, 0, "x")
        with pytest.raises(UsageError, match="held_out"):
            hold_out_groups([1, 2], share, 0, "x")
    with pytest.raises(UsageError, match="seed"):
        hold_out(4, 0.5, "one", "x")  # type: ignore[arg-type]
