"""Augmentation: what it does to images, and that it draws from the given generator alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.data import default_augmentation
from vaelens.data.augment import Augmentation, _rotated, parse
from vaelens.data.mvtec import CATEGORIES
from vaelens.errors import UsageError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_quarter_and_half_turns_are_exact() -> None:
    images = torch.rand(2, 3, 7, 7)
    turned = _rotated(images, torch.tensor([90.0, 180.0]))
    expected = torch.stack([torch.rot90(images[0], 1, (-2, -1)), torch.rot90(images[1], 2, (-2, -1))])
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)


def test_what_a_rotation_brings_in_is_the_image_and_not_black() -> None:
    images = torch.full((8, 1, 20, 30), 0.7)
    turned = Augmentation(45)(images, generator())
    torch.testing.assert_close(turned, images)


def test_angles_are_uniform_within_the_bound() -> None:
    """The angle is read off a bright point that goes round the centre."""
    images = torch.zeros(400, 1, 65, 65)
    images[:, :, 31:34, 55:58] = 1
    turned = Augmentation(30)(images, generator())[:, 0]
    weight = turned / turned.sum((1, 2), keepdim=True)
    at = torch.arange(65.0) - 32
    angles = torch.rad2deg(torch.atan2(-(weight.sum(2) * at).sum(1), (weight.sum(1) * at).sum(1)))
    assert angles.abs().max() < 30.5
    assert (angles.abs() > 25).sum() > 30
    assert angles.mean().abs() < 3
    assert 15.5 < angles.std() < 19.5  # 60 / sqrt(12) = 17.3


@pytest.mark.parametrize(("option", "dims"), [("mirror", (-1,)), ("flip", (-2,)), ("mirror,flip", (-1, -2))])
def test_mirroring_takes_each_image_by_itself(option: str, dims: tuple[int, ...]) -> None:
    images = torch.rand(200, 2, 4, 5)
    out = parse(option)(images, generator())
    kinds = [images, *(images.flip(dim) for dim in dims)] + ([images.flip(-1, -2)] if len(dims) == 2 else [])
    shares = [(out == kind).flatten(1).all(1).float().mean().item() for kind in kinds]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.6 / len(kinds)


def test_the_given_generator_decides_alone() -> None:
    images, augmentation = torch.rand(6, 1, 9, 9), Augmentation(30, True, True)
    torch.manual_seed(1)
    first = augmentation(images, generator(5))
    before = torch.get_rng_state()
    again = augmentation(images, generator(5))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, augmentation(images, generator(6)))


def test_as_many_numbers_are_drawn_whatever_the_settings() -> None:
    states = []
    for augmentation in (Augmentation(10), Augmentation(0, True), Augmentation(30, True, True)):
        drawn = generator()
        augmentation(torch.rand(5, 1, 4, 4), drawn)
        states.append(drawn.get_state())
    assert all(torch.equal(states[0], state) for state in states)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(2, 9),
)
def test_shape_dtype_and_range_stay(dtype: torch.dtype, count: int, channels: int, height: int, width: int) -> None:
    images = torch.rand(count, channels, height, width, generator=generator()).to(dtype)
    kept = images.clone()
    out = Augmentation(180, True, True)(images, generator(1))
    assert out.shape == images.shape
    assert out.dtype == dtype
    assert torch.equal(images, kept)
    assert count == 0 or (out.min() >= 0 and out.max() <= 1)


def test_nothing_is_the_same_tensor() -> None:
    images = torch.rand(2, 1, 3, 3)
    assert Augmentation()(images, generator()) is images
    assert not Augmentation()


@given(st.floats(0, 180), st.booleans(), st.booleans())
def test_text_and_back(degrees: float, mirror: bool, flip: bool) -> None:
    augmentation = Augmentation(round(degrees, 2), mirror, flip)
    assert parse(str(augmentation)) == augmentation


def test_parse() -> None:
    assert parse("none") == Augmentation()
    assert parse("rotate30,mirror,flip") == Augmentation(30, True, True)
    assert parse("flip, rotate7.5") == Augmentation(7.5, False, True)
    assert parse("auto") == Augmentation()
    assert parse("auto", Augmentation(30)) == Augmentation(30)


@pytest.mark.parametrize(
    "text", ["", "spin", "rotate", "rotate-3", "rotate0", "rotate181", "rotatenan", "mirror,mirror", "none,flip", "mirror,"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="rotate"):
        parse(text)


@pytest.mark.parametrize("images", [torch.rand(1, 3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.uint8)])
def test_other_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"float \(B, C, H, W\)"):
        Augmentation(30)(images, generator())


def test_rules() -> None:
    assert all(default_augmentation("mvtec", category).rotation_degrees in (0, 30) for category in CATEGORIES)
    assert default_augmentation("mvtec", "screw") == Augmentation(30)
    assert not default_augmentation("mvtec", "metal_nut").mirror_horizontal
    assert not default_augmentation("mvtec", "transistor").rotation_degrees
    for dataset in ("ucsd-ped1", "ucsd-ped2", "folder"):
        assert not default_augmentation(dataset)
    with pytest.raises(UsageError, match="there are: bottle"):
        default_augmentation("mvtec", "spoon")
    with pytest.raises(UsageError, match="unknown data set"):
        default_augmentation("cifar")
