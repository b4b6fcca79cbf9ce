from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from vaelens.errors import UsageError
from vaelens.report.colour import (
    colour_bar,
    colourise,
    common_limit,
    encode_levels,
    encode_png,
    levels,
    opacity,
    overlay,
    palette,
    picture,
    resize_map,
)

Array = npt.NDArray[np.float64]
MAPS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(0, 5))


def decode(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def bilinear(values: Array, size: tuple[int, int]) -> Array:
    """Bilinear interpolation between cell centres, worked out pixel by pixel; beyond the outer centres the edge goes on."""
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * values.shape[0] / size[0] - 0.5, 0), values.shape[0] - 1)
            u = min(max((x + 0.5) * values.shape[1] / size[1] - 0.5, 0), values.shape[1] - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
            upper = values[top, left] * (1 - u + left) + values[top, right] * (u - left)
            lower = values[bottom, left] * (1 - u + left) + values[bottom, right] * (u - left)
            out[y, x] = upper * (1 - v + top) + lower * (v - top)
    return out


def test_the_palette_is_viridis() -> None:
    # The ends of viridis as its authors published them.
    assert palette().shape == (256, 3)
    assert palette()[0].tolist() == [68, 1, 84]
    assert palette()[255].tolist() == [253, 231, 36]


def test_lightness_grows_along_the_palette() -> None:
    linear = (palette() / 255.0) ** 2.2
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > -1e-3).all()
    assert luminance[-1] > 10 * luminance[0]


@given(MAPS, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_resizing_is_bilinear_over_the_same_area(values: Array, down: int, across: int) -> None:
    size = values.shape[0] * down, values.shape[1] * across
    assert np.allclose(resize_map(values, size), bilinear(values, size), atol=1e-5)


def test_shrinking_averages() -> None:
    values = np.kron(np.array([[0.0, 1.0], [2.0, 3.0]]), np.ones((8, 8)))
    small = resize_map(values, (2, 2))
    assert small.mean() == pytest.approx(values.mean(), abs=1e-6)
    assert small[0, 0] < small[0, 1] < small[1, 0] < small[1, 1]


@given(hnp.arrays(np.uint8, (6, 5, 3)))
@settings(max_examples=20, deadline=None)
def test_a_zero_map_leaves_the_image(image: npt.NDArray[np.uint8]) -> None:
    assert (overlay(image, np.zeros((2, 2)), 1.0) == image).all()
    assert (overlay(image[:, :, 0], np.zeros((2, 2)), 1.0) == image[:, :, :1]).all()


def test_overlay_against_values_worked_out_by_hand() -> None:
    # Level 1 covers 0.85 and level 0.5 covers 0.85 * 0.5 * 1.5 = 0.6375; viridis at 1 is (253, 231, 36), at 0.5 (32, 144, 140).
    shown = overlay(np.full((1, 2), 100, np.uint8), np.array([[2.0, 1.0]]), 2.0)
    assert shown[0, 0].tolist() == [round(0.15 * 100 + 0.85 * c) for c in (253, 231, 36)]
    assert palette()[128].tolist() == [32, 144, 140]
    assert shown[0, 1].tolist() == [round(0.3625 * 100 + 0.6375 * c) for c in (32, 144, 140)]


def test_values_above_the_limit_take_the_last_colour() -> None:
    assert (
        overlay(np.zeros((1, 1), np.uint8), np.array([[9.0]]), 2.0)
        == overlay(np.zeros((1, 1), np.uint8), np.array([[2.0]]), 2.0)
    ).all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_hot_corner_colours_that_corner(row: int, column: int) -> None:
    values = np.zeros((7, 5))
    values[row, column] = 1.0
    shown = overlay(np.zeros((28, 20), np.uint8), values, 1.0, scale=4)
    assert shown.shape == (112, 80, 3)
    bright = shown.sum(axis=2) > 200
    rows, columns = np.nonzero(bright)
    # The cell covers 16 x 16 enlarged pixels; its colour fades out to the centre of the neighbouring cell.
    assert rows.min() == (0 if row == 0 else 112 - 1 - (rows.max() - rows.min()))
    assert columns.min() == (0 if column == 0 else 80 - 1 - (columns.max() - columns.min()))
    assert rows.max() - rows.min() < 24
    assert shown[row, column].tolist() == [round(0.85 * c) for c in (253, 231, 36)]


def test_opacity_grows() -> None:
    level = np.linspace(0, 1, 50)
    assert opacity(level)[0] == 0
    assert opacity(level)[-1] == pytest.approx(0.85)
    assert (np.diff(opacity(level)) > 0).all()


def test_the_common_limit_is_the_percentile_over_all_maps() -> None:
    maps = [np.arange(0, 500.0).reshape(20, 25), np.arange(500.0, 1001.0).reshape(3, 167)]
    assert common_limit(maps) == pytest.approx(995.0)
    assert common_limit(maps, 3.0) == 3.0


def test_the_common_limit_of_sparse_empty_and_zero_maps() -> None:
    sparse = np.zeros((100, 100))
    sparse[3, 3] = 7.0
    assert common_limit([sparse]) == 7.0
    assert common_limit([np.zeros((4, 4))]) == 1.0
    assert common_limit([]) == 1.0
    assert common_limit([np.zeros((0, 0)), np.ones((2, 2))]) == 1.0


def test_the_common_limit_of_very_many_values_comes_from_a_part() -> None:
    values = np.random.default_rng(0).random((3000, 3000), dtype=np.float32)
    assert common_limit([values]) == pytest.approx(0.995, abs=1e-3)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        overlay(np.zeros((2, 2), np.uint8), np.zeros((2, 2)), limit)
    with pytest.raises(UsageError, match="positive"):
        common_limit([np.ones((2, 2))], limit)


@pytest.mark.parametrize(
    ("image", "values", "message"),
    [
        (np.zeros((2, 2), np.int32), np.zeros((2, 2)), "uint8"),
        (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)), r"\(2, 2, 4\)"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), -1.0), "negative"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), np.nan), "finite"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1)), r"\(h, w\)"),
        (np.zeros((0, 2), np.uint8), np.zeros((2, 2)), "empty"),
    ],
)
def test_overlay_names_what_does_not_fit(image: Array, values: Array, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        overlay(image, values, 1.0)
    assert "\n" not in str(caught.value)


def test_pictures_from_floats() -> None:
    assert picture(np.array([[0.0, 0.5, 1.0, 2.0, -1.0]])).tolist() == [[0, 128, 255, 255, 0]]
    assert picture(np.zeros((3, 4, 1), np.uint8)).shape == (3, 4)


def test_the_colour_bar_runs_along_the_palette() -> None:
    assert (colour_bar() == palette()[None]).all()
    assert colour_bar(10, 3).shape == (3, 10, 3)


@given(hnp.arrays(np.uint8, st.sampled_from([(4, 7), (4, 7, 3)])))
@settings(max_examples=20, deadline=None)
def test_png_is_lossless_and_repeatable(image: npt.NDArray[np.uint8]) -> None:
    png = encode_png(image)
    assert (np.asarray(decode(png)) == image).all()
    assert png == encode_png(image.copy())


@given(MAPS)
@settings(max_examples=30, deadline=None)
def test_a_layer_over_the_image_is_the_overlay(values: Array) -> None:
    """What the report embeds, laid over the image as a browser does, is what `overlay` computes."""
    base = np.random.default_rng(0).integers(0, 256, (*values.shape, 3), dtype=np.uint8)
    layer = decode(encode_levels(levels(values, 2.0), 256, see_through=True)).convert("RGBA")
    over = Image.alpha_composite(Image.fromarray(base).convert("RGBA"), layer).convert("RGB")
    # Opacity in 256 steps, and a value between two colours that may fall to either.
    assert np.abs(np.asarray(over, int) - overlay(base, values, 2.0)).max() <= 5


@given(MAPS)
@settings(max_examples=20, deadline=None)
def test_an_opaque_layer_is_the_map_in_colours(values: Array) -> None:
    png = encode_levels(levels(values, 2.0), 256, see_through=False)
    assert (np.asarray(decode(png).convert("RGB")) == colourise(values, 2.0)).all()
