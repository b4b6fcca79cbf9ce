"""Batches: every image once, in an order that seed and epoch fix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.training.batches import Batches, derived_seed, fingerprint, seeded


def numbered(count: int) -> torch.Tensor:
    """Images (N, 1, 2, 2), of which image i is filled with i."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)


@given(st.integers(1, 200), st.integers(1, 64), st.none() | st.integers(0, 5), st.integers(0, 3))
def test_a_pass_holds_every_image_once(count: int, size: int, seed: int | None, epoch: int) -> None:
    batches = Batches(numbered(count), size, seed)
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    assert all(len(batch.images) == size for batch in found[:-1])
    indices = torch.cat([batch.indices for batch in found])
    assert sorted(indices.tolist()) == list(range(count))
    for batch in found:
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.images, batch.indices[:, None, None, None].expand(-1, 1, 2, 2) / 255)


def test_values_span_zero_to_one() -> None:
    (batch,) = Batches(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3), 4)
    torch.testing.assert_close(batch.images.flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_the_order_changes_with_epoch_and_seed_and_nothing_else() -> None:
    batches = Batches(numbered(100), 10, seed=3)
    assert torch.equal(batches.order(4), Batches(numbered(100), 7, seed=3).order(4))
    assert not torch.equal(batches.order(4), batches.order(5))
    assert not torch.equal(batches.order(4), Batches(numbered(100), 10, seed=4).order(4))
    assert torch.equal(Batches(numbered(100), 10).order(4), torch.arange(100))


def test_the_order_is_drawn_with_the_first_batch() -> None:
    batches = Batches(numbered(50), 50, seed=0)
    early = iter(batches)
    batches.set_epoch(2)
    assert torch.equal(next(early).indices, batches.order(2))


def test_batches_leave_the_global_generator_and_the_images_alone() -> None:
    images = numbered(20).clone()
    before, state = images.clone(), torch.random.get_rng_state()
    list(Batches(images, 4, seed=1))
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["order", "noise"]), st.integers(0, 50)), unique=True))
def test_derived_seeds_differ(keys: list[tuple[int, str, int]]) -> None:
    assert len({derived_seed(*key) for key in keys}) == len(keys)


def test_seeded_is_repeatable() -> None:
    first, second = (torch.randn(5, generator=seeded(1, "noise", 7)) for _ in range(2))
    assert torch.equal(first, second)
    # Step 1 of seed 0 is not step 0 of seed 1.
    assert not torch.equal(torch.randn(5, generator=seeded(0, "n", 1)), torch.randn(5, generator=seeded(1, "n", 0)))


def test_fingerprint_sees_one_pixel_and_the_shape() -> None:
    images = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    changed = images.clone()
    changed[5, 0, 3, 3] = 1
    prints = {fingerprint(i) for i in (images, changed, images.view(6, 1, 2, 8), images[:5])}
    assert len(prints) == 4
    assert fingerprint(images.clone()) == fingerprint(images)
    assert fingerprint(changed.transpose(2, 3).contiguous().transpose(2, 3)) == fingerprint(changed)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 4, 4), r"uint8 tensor \(N, C, H, W\), got \(2, 1, 4, 4\), torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), r"got \(2, 4, 4\)"),
        ([1, 2], "got list"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "at least one image"),
    ],
)
def test_what_is_no_set_of_images_is_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Batches(images, 4)


def test_batch_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        Batches(numbered(3), 0)
