"""ImageSet: what it refuses, and that subsets and batches keep image, name and label together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaelens.data.images import ImageSet, to_float
from vaelens.errors import UsageError


def make(count: int, channels: int = 1, labelled: bool = True) -> ImageSet:
    """Image i is filled with the value i and has label i % 3."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, channels, 2, 3).clone()
    labels = torch.arange(count) % 3 if labelled else None
    return ImageSet(images, tuple(f"n{i}" for i in range(count)), labels)


def test_to_float_maps_every_byte_exactly() -> None:
    values = to_float(torch.arange(256, dtype=torch.int64).to(torch.uint8))
    assert values.dtype == torch.float32
    assert values[0] == 0.0
    assert values[255] == 1.0
    expected = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    assert np.abs(values.numpy() - expected).max() <= np.spacing(np.float32(1.0)) / 2
    assert torch.equal(values.mul(255).round().to(torch.int64), torch.arange(256))


def test_to_float_leaves_its_argument_alone_and_refuses_floats() -> None:
    images = torch.full((2, 2), 7, dtype=torch.uint8)
    to_float(images)
    assert torch.equal(images, torch.full((2, 2), 7, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"uint8.*float32"):
        to_float(torch.zeros(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.zeros(2, 1, 2, 2)}, "uint8.*float32"),
        ({"images": torch.zeros(2, 2, 2, dtype=torch.uint8)}, r"\(N, C, H, W\), not \(2, 2, 2\)"),
        ({"images": torch.zeros(2, 1, 0, 2, dtype=torch.uint8)}, r"\(2, 1, 0, 2\)"),
        ({"images": np.zeros((2, 1, 2, 2), np.uint8)}, "ndarray"),
        ({"names": ("a",)}, "2 names, not 1"),
        ({"names": ["a", "b"]}, "tuple of str"),
        ({"names": ("a", 1)}, "tuple of str"),
        ({"names": ("a", "a")}, "'a' occurs more than once"),
        ({"labels": torch.zeros(2)}, "int64.*float32"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"\(2,\).*\(3,\)"),
        ({"labels": torch.zeros(2, 1, dtype=torch.int64)}, r"\(2, 1\)"),
        ({"labels": [0, 1]}, "list"),
    ],
)
def test_refuses_malformed_fields(change: dict[str, Any], words: str) -> None:
    fields = {"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "names": ("a", "b"), "labels": torch.tensor([0, 1])}
    ImageSet(**fields)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words) as caught:
        ImageSet(**(fields | change))
    assert "\n" not in str(caught.value)


def test_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(2).names = ()  # type: ignore[misc]


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)), st.integers(0, n))))
def test_subset_keeps_image_name_and_label_together(drawn: tuple[int, list[int], int]) -> None:
    count, order, taken = drawn
    chosen = order[:taken]
    subset = make(count).subset(chosen)
    assert subset.names == tuple(f"n{i}" for i in chosen)
    assert subset.images[:, 0, 0, 0].tolist() == chosen
    assert subset.labels is not None
    assert subset.labels.tolist() == [i % 3 for i in chosen]


def test_subset_takes_masks_arrays_and_ranges() -> None:
    images = make(6)
    mask = torch.tensor([True, False, False, True, False, True])
    for chosen in (mask, torch.tensor([0, 3, 5], dtype=torch.int32), np.array([0, 3, 5]), [0, 3, 5]):
        assert images.subset(chosen).names == ("n0", "n3", "n5")
    assert images.subset(range(2, 4)).names == ("n2", "n3")
    assert make(6, labelled=False).subset([1]).labels is None


def test_subset_is_a_copy() -> None:
    images = make(3)
    images.subset([1]).images.zero_()
    assert images.images[1].eq(1).all()


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([6], r"position 6 .* 6 images \(0 to 5\)"),
        ([0, -1], "position -1 "),
        ([1, 1], "'n1' occurs more than once"),
        ([0.5], "whole numbers"),
        (torch.tensor([0.0]), "whole numbers"),
        (torch.tensor([[0]]), "whole numbers"),
        (torch.ones(5, dtype=torch.bool), r"\(6,\), not \(5,\)"),
    ],
)
def test_subset_refuses(indices: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make(6).subset(indices)


def test_with_label() -> None:
    assert make(7).with_label(1).names == ("n1", "n4")
    assert make(7).classes == (0, 1, 2)
    with pytest.raises(UsageError, match=r"unknown label 9; there are: 0, 1, 2"):
        make(7).with_label(9)
    with pytest.raises(UsageError, match="no labels"):
        make(7, labelled=False).with_label(1)


@given(st.integers(0, 20), st.integers(1, 25))
def test_batches_cover_all_images_in_order(count: int, batch_size: int) -> None:
    batches = list(make(count, channels=3).batches(batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(0 < len(batch) <= batch_size for batch in batches)
    values = [v for batch in batches for v in batch[:, 0, 0, 0].tolist()]
    assert values == pytest.approx([i / 255 for i in range(count)])
    assert all(batch.dtype == torch.float32 and batch.shape[1:] == (3, 2, 3) for batch in batches)


def test_batches_refuses_before_the_first_step() -> None:
    with pytest.raises(UsageError, match="at least 1, not 0"):
        make(3).batches(0)


def test_shape_and_repr() -> None:
    assert make(4, channels=3).image_shape == (3, 2, 3)
    assert repr(make(4)) == "ImageSet(4 images, (C, H, W) = (1, 2, 3), labels (0, 1, 2))"
