from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.report.content import ReportImage
from vaelens.report.selection import select


def names(images: tuple[ReportImage, ...]) -> list[str]:
    return [image.name for image in images]


def test_few_images_are_all_shown_highest_score_first(make_image: Any) -> None:
    images = [make_image("low", 1.0), make_image("none", float("nan")), make_image("high", 3.0), make_image("tie", 1.0)]
    chosen = select(images, 4)
    assert names(chosen.images) == ["high", "low", "tie", "none"]
    assert chosen.sentence == ""


def test_of_many_the_highest_and_a_sample_are_shown(make_image: Any) -> None:
    images = [make_image(str(i), float(i)) for i in range(100)]
    chosen = select(images, 20)
    assert len(chosen.images) == 20
    scores = [image.score for image in chosen.images]
    assert scores == sorted(scores, reverse=True)
    # 16 of the highest, 4 drawn from the other 84.
    assert scores[:16] == [float(i) for i in range(99, 83, -1)]
    assert all(score < 84 for score in scores[16:])
    assert (
        chosen.sentence
        == "The gallery shows 20 of 100 images: the 16 with the highest scores and 4 drawn at random from the others (seed 0)."
    )


def test_the_sample_follows_the_seed(make_image: Any) -> None:
    images = [make_image(str(i), float(i)) for i in range(100)]
    assert names(select(images, 20, 3).images) == names(select(images, 20, 3).images)
    assert names(select(images, 20, 3).images) != names(select(images, 20, 4).images)


def test_failed_images_keep_a_tenth(make_image: Any) -> None:
    images = [make_image(str(i), float(i)) for i in range(80)]
    images += [make_image(f"bad{i}", float("nan"), error="no image") for i in range(40)]
    chosen = select(images, 20)
    assert sum(image.error is not None for image in chosen.images) == 2
    assert (
        "the 14 with the highest scores, 4 drawn at random from the others (seed 0) and 2 of 40 that failed" in chosen.sentence
    )


@given(st.integers(0, 25), st.integers(0, 25), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_whatever_fails_the_gallery_is_full_and_no_image_comes_twice(
    make_image: Any, sound: int, failed: int, most: int
) -> None:
    images = [make_image(f"s{i}", float(i % 7)) for i in range(sound)]
    images += [make_image(f"f{i}", math.nan, error="x") for i in range(failed)]
    chosen = select(images, most)
    assert len(chosen.images) == min(most, sound + failed)
    assert len(set(names(chosen.images))) == len(chosen.images)
    assert chosen.total == sound + failed
    assert (chosen.sentence == "") == (sound + failed <= most)
    if sound > 0:
        assert any(image.error is None for image in chosen.images)


def test_most_must_be_positive() -> None:
    with pytest.raises(UsageError, match="most is 0"):
        select([], 0)
