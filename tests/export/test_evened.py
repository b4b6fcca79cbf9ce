"""Brightness evened out in operations of a file: byte for byte what `vaelens.data.brightness` gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.data.brightness import normalise
from vaelens.export.evened import Evened


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    low=st.integers(0, 255),
    high=st.integers(0, 255),
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
)
def test_images_of_any_range(seed: int, low: int, high: int, size: tuple[int, int, int]) -> None:
    low, high = sorted((low, high))
    images = torch.randint(low, high + 1, (4, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.equal(Evened(apart=False)(images), torch.stack([normalise(image) for image in images]))
    frames = torch.stack([torch.cat([normalise(frame) for frame in image.split(1)]) for image in images])
    assert torch.equal(Evened(apart=True)(images), frames)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_of_one_value_becomes_the_middle(value: int) -> None:
    images = torch.full((2, 1, 4, 5), value, dtype=torch.uint8)
    assert torch.equal(Evened(apart=False)(images), torch.full_like(images, 128))
