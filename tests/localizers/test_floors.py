"""The floors, against values worked out by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.localizers.floors import (
    SURROUNDINGS,
    ContrastFloor,
    FloorLocalizer,
    MeanFloor,
    MotionFloor,
    NeighboursFloor,
)
from vaelens.localizers.smoothing import blurred

FLOORS = (MeanFloor, NeighboursFloor, ContrastFloor, MotionFloor)


def build(kind: type[FloorLocalizer]) -> FloorLocalizer:
    return kind(nn.Identity())


def flat(*values: float, side: int = 5) -> Tensor:
    """Images (B, 1, side, side), each of one grey."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, side, side).clone()


def test_names_are_those_of_the_tables() -> None:
    assert [kind.name for kind in FLOORS] == ["floor-mean", "floor-neighbours", "floor-contrast", "floor-motion"]


def test_mean_is_the_difference_from_the_mean_image_averaged_over_channels() -> None:
    floor = build(MeanFloor).fit(torch.cat([flat(0.2, 0.4), flat(0.0, 1.0)], 1))  # means 0.3 and 0.5
    result = floor.localize(torch.cat([flat(0.9), flat(0.1)], 1))
    torch.testing.assert_close(result.maps, torch.full((1, 5, 5), (0.6 + 0.4) / 2))  # a blur leaves a flat map as it is
    torch.testing.assert_close(result.score, torch.tensor([0.5]))


def test_uint8_normal_images_count_as_255th_parts() -> None:
    images = torch.rand(3, 1, 6, 6)
    bytes_ = torch.randint(0, 256, (20, 1, 6, 6), dtype=torch.uint8)
    for kind in (MeanFloor, NeighboursFloor):
        a = build(kind).fit(bytes_).localize(images).maps
        b = build(kind).fit(bytes_.float() / 255).localize(images).maps
        torch.testing.assert_close(a, b)


def test_neighbours_take_the_least_of_five_and_no_sixth() -> None:
    # Near in all pixels: 0.5 + 0.1 to 0.14, each with one pixel of its own far off; the sixth fits one pixel exactly, no other.
    normal = flat(0.60, 0.61, 0.62, 0.63, 0.64, 1.0)
    normal[5, 0, 0, 0] = 0.5
    floor = build(NeighboursFloor).fit(normal)
    difference = floor.difference(flat(0.5))
    torch.testing.assert_close(difference, torch.full((1, 5, 5), 0.1))
    normal[3, 0, 2, 2] = 0.52  # the fourth is now the best at one place
    assert math.isclose(float(build(NeighboursFloor).fit(normal).difference(flat(0.5))[0, 2, 2]), 0.02, abs_tol=1e-6)


@pytest.mark.parametrize(("count", "channels"), [(3, 1), (40, 3), (1200, 2)])
def test_neighbours_equal_a_plain_loop(count: int, channels: int) -> None:
    normal, images = torch.rand(count, channels, 7, 6), torch.rand(40, channels, 7, 6)
    found = build(NeighboursFloor).fit(normal).difference(images)
    for image, got in zip(images, found, strict=True):
        distances = [float((image - other).double().square().sum()) for other in normal]
        nearest = np.argsort(distances)[:5]
        wanted = torch.stack([(image - normal[i]).abs().mean(0) for i in nearest]).amin(0)
        torch.testing.assert_close(got, wanted)


def test_contrast_of_a_flat_image_is_nothing_and_of_a_point_is_what_the_blur_takes_away() -> None:
    image = flat(0.3, side=61)
    floor = build(ContrastFloor).fit(image)
    assert float(floor.localize(image).maps.abs().max()) < 1e-6
    image[0, 0, 30, 30] += 0.5
    steps = [math.exp(-(i**2) / (2 * SURROUNDINGS**2)) for i in range(-12, 13)]
    height = (1 / sum(steps)) ** 2  # of the Gaussian in its middle
    assert math.isclose(float(floor.difference(image)[0, 30, 30]), 0.5 * (1 - height), rel_tol=1e-4)


def test_motion_is_the_difference_from_the_frame_before() -> None:
    frames = torch.cat([flat(0.1), flat(0.4), flat(0.9)], 1)
    torch.testing.assert_close(build(MotionFloor).fit(frames).localize(frames).maps, torch.full((1, 5, 5), 0.3))
    longer = torch.cat([flat(0.0), flat(0.1), flat(0.3), flat(0.9), flat(0.9)], 1)
    torch.testing.assert_close(build(MotionFloor).fit(longer).localize(longer).maps, torch.full((1, 5, 5), 0.2))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_motion_without_neighbouring_frames_is_misuse(channels: int) -> None:
    floor = build(MotionFloor)
    with pytest.raises(UsageError, match=f"'floor-motion' needs video .*--frames 3.* got images of {channels} channel"):
        floor.fit(torch.rand(4, channels, 5, 5))
    with pytest.raises(UsageError, match="not been fitted"):
        floor.localize(torch.rand(4, channels, 5, 5))


def test_maps_are_smoothed_with_sigma_2() -> None:
    normal = torch.zeros(6, 1, 32, 24)
    image = torch.rand(2, 1, 32, 24)
    result = build(MeanFloor).fit(normal).localize(image)
    for got, plain in zip(result.maps, image[:, 0], strict=True):
        wanted = ndimage.gaussian_filter(plain.double().numpy(), 2, mode="mirror", radius=6)
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-6)
    torch.testing.assert_close(result.score, result.maps.flatten(1).max(1).values)


def test_blur_fits_images_smaller_than_itself() -> None:
    for shape in ((1, 1), (3, 2), (28, 28)):
        torch.testing.assert_close(blurred(torch.full((1, 1, *shape), 0.7), 8.0), torch.full((1, 1, *shape), 0.7))


@pytest.mark.parametrize("kind", FLOORS)
def test_every_floor(kind: type[FloorLocalizer]) -> None:
    """Shapes, no negative value, the same alone as in a batch, and errors in one line."""
    normal, images = torch.randint(0, 256, (12, 3, 20, 16), dtype=torch.uint8), torch.rand(70, 3, 20, 16)
    with pytest.raises(UsageError, match=f"'{kind.name}' has not been fitted"):
        build(kind).localize(images)
    with pytest.raises(UsageError, match=f"'{kind.name}' needs normal images"):
        build(kind).fit(normal[:0])
    floor = build(kind).fit(normal)
    result = floor.localize(images)
    assert result.maps.shape == (70, 20, 16)
    assert result.score.shape == (70,)
    assert float(result.maps.min()) >= 0
    torch.testing.assert_close(floor.localize(images[40:41]).maps, result.maps[40:41])
    with pytest.raises(UsageError, match=r"fitted on images of the shape \(3, 20, 16\), got \(3, 16, 20\)"):
        floor.localize(images.transpose(2, 3))
