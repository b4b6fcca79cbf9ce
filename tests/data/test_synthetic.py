"""Synthetic defects: the mask says where the image changed, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaelens.data.synthetic import KINDS, with_defects
from vaelens.errors import UsageError


def pictures(count: int, seed: int = 0, shape: tuple[int, int, int] = (1, 48, 64)) -> Tensor:
    """Random images with structure, coarse and fine: (count, C, H, W), floats in [0, 1]."""
    generator, (channels, *size) = torch.Generator().manual_seed(seed), shape
    coarse = torch.rand(count, channels, 6, 6, generator=generator)
    fine = torch.rand(count, channels, *size, generator=generator)
    return (0.8 * nn.functional.interpolate(coarse, tuple(size), mode="bilinear") + 0.2 * fine).clamp(0, 1)


def draw(images: Tensor, seed: int = 0, **options: object) -> tuple[Tensor, Tensor]:
    others = pictures(5, seed=99, shape=tuple(images.shape[1:]))  # type: ignore[arg-type]
    return with_defects(images, others, torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_changes_something_and_its_mask_says_where(kind: str) -> None:
    images = pictures(64)
    drawn, masks = draw(images, clean=0, kinds=[kind])
    assert drawn.shape == images.shape
    assert masks.dtype == torch.bool
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    changed = (drawn - images).abs().amax(1)
    assert float((masks.flatten(1).any(1)).float().mean()) > 0.5, "most defects are visible"
    # Within the mask the mean change of the 3x3 pixels around is above the threshold, for images with one defect or two.
    around = nn.functional.avg_pool2d(changed[:, None], 3, stride=1, padding=1)[:, 0]
    assert float((around[masks] > 0.01).float().mean()) > 0.97
    # What is far from the mask is as it was, but for faint rims; and what changed much lies in or beside it.
    beside = nn.functional.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
    assert float((beside | (around < 0.1)).float().mean()) > 0.995


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(1, 32, 32), (3, 40, 33), (1, 24, 50)]), st.floats(0, 1))
def test_whatever_is_drawn(seed: int, shape: tuple[int, int, int], clean: float) -> None:
    images = pictures(6, shape=shape)
    before = images.clone()
    drawn, masks = draw(images, seed, clean=clean)
    assert torch.equal(images, before), "the images given stay as they are"
    assert drawn.shape == images.shape
    assert masks.shape == (6, *shape[1:])
    assert bool(drawn.isfinite().all())
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    same = (drawn == images).flatten(1).all(1)
    assert not masks[same].any(), "where nothing changed nothing is marked"


def test_a_stroke_is_marked_where_it_changed_the_image_visibly() -> None:
    images = torch.full((200, 1, 48, 48), 0.5)
    drawn, masks = draw(images, clean=0, kinds=["stroke"])
    change = nn.functional.avg_pool2d((drawn - images).abs(), 3, stride=1, padding=1)[:, 0]
    assert float((change[masks] > 0.03).float().mean()) > 0.99, "marked, so changed, but where a second stroke undoes a first"
    # and changed most, so marked: the middle of a stroke
    alone = (drawn - images).abs()[:, 0]
    middle = alone > 0.7 * alone.flatten(1).amax(1)[:, None, None].clamp_min(0.15)
    assert float(masks[middle].float().mean()) > 0.95


def test_the_share_left_as_it_is() -> None:
    images = pictures(400, shape=(1, 24, 24))
    for clean, least, most in ((0.0, 0, 0), (0.25, 0.18, 0.33), (1.0, 1, 1)):
        drawn, masks = draw(images, clean=clean)
        untouched = (drawn == images).flatten(1).all(1)
        assert least <= float(untouched.float().mean()) <= most + (0.02 if clean == 0 else 0)
        assert not masks[untouched].any()


def test_the_generator_decides() -> None:
    images = pictures(8)
    first, second, other = draw(images, 3), draw(images, 3), draw(images, 4)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(11)
    before = torch.get_rng_state()
    draw(images)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"


def test_patches_of_others_come_from_others() -> None:
    """Black images and white others: what another image's patch brings is white."""
    images = torch.zeros(60, 1, 40, 40)
    drawn, masks = with_defects(images, torch.ones(2, 1, 40, 40), torch.Generator().manual_seed(0), clean=0, kinds=["other"])
    assert float(masks.flatten(1).any(1).float().mean()) > 0.5
    assert float(drawn[:, 0][masks].median()) > 0.5
    same, none = with_defects(images, images[:2], torch.Generator().manual_seed(0), clean=0, kinds=["other"])
    assert torch.equal(same, images)
    assert not none.any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ["scratch"]}, "unknown kind of synthetic defect 'scratch'; there are: patch"),
        ({"clean": -0.1}, "between 0 and 1"),
        ({"clean": 1.5}, "between 0 and 1"),
        ({"clean": float("nan")}, "between 0 and 1"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "float images"),
        ({"images": torch.zeros(1, 8, 8)}, r"\(1, 8, 8\)"),
        ({"others": torch.zeros(2, 1, 8, 9)}, r"\(2, 1, 8, 9\)"),
        ({"others": torch.zeros(0, 1, 8, 8)}, r"\(0, 1, 8, 8\)"),
    ],
)
def test_misuse_is_one_line(options: dict[str, object], says: str) -> None:
    given_ = {"images": torch.zeros(2, 1, 8, 8), "others": torch.zeros(2, 1, 8, 8), "generator": torch.Generator()} | options
    with pytest.raises(UsageError, match=says) as error:
        with_defects(**given_)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
