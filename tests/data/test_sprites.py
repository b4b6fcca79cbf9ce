"""dSprites drawn here: worked out by hand, against real frames of the official one, and as a data set."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vaelens.data.sprites import FACTORS, SIZES, Sprites, render
from vaelens.errors import UsageError

COUNT = 737_280
SQUARE, ELLIPSE, HEART = range(3)
ON = np.array([i.bit_count() for i in range(256)], np.uint8)  # how many pixels of a byte are on
classes = st.tuples(*(st.integers(0, size - 1) for size in SIZES))


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return Sprites()


@pytest.fixture(scope="module")
def areas(sprites: Sprites) -> Any:
    """How many pixels are on, by shape, scale, orientation and position: (3, 6, 40, 1024)."""
    bits = sprites.packed.numpy()
    parts = [ON[bits[start : start + 4096]].sum(1, dtype=np.int64) for start in range(0, COUNT, 4096)]
    return np.concatenate(parts).reshape(*SIZES[:3], -1)


def draw(*latent_classes: int) -> Any:
    """One image as 0 and 1, (64, 64)."""
    return render([latent_classes])[0].astype(int)


def block(rows: range, columns: range) -> Any:
    """An image of which the pixels in these rows and columns are on."""
    image = np.zeros((64, 64), int)
    image[rows.start : rows.stop, columns.start : columns.stop] = 1
    return image


# A square of scale s and orientation 0 at a centre x has the columns whose centres c + 0.5 are nearer than 9.6 s to x.
@pytest.mark.parametrize(
    ("scale", "x", "y", "rows", "columns"),
    [
        # s = 1, x = y = 16: 6.4 < c + 0.5 < 25.6, so 6 to 25
        (5, 0, 0, range(6, 26), range(6, 26)),
        # y = 16 + 32 = 48: 38.4 < r + 0.5 < 57.6, so 38 to 57
        (5, 0, 31, range(38, 58), range(6, 26)),
        # x = 16 + 32 * 10/31 = 26.323: 16.723 < c + 0.5 < 35.923, so 17 to 35, one less
        (5, 10, 0, range(6, 26), range(17, 36)),
        # x = 16 + 32 * 20/31 = 36.645: 27.045 < c + 0.5 < 46.245, so 27 to 45
        # y = 16 + 32 * 3/31 = 19.097: 9.497 < r + 0.5 < 28.697, so 9 to 28
        (5, 20, 3, range(9, 29), range(27, 46)),
        # s = 0.5, half a side 4.8: 11.2 < c + 0.5 < 20.8, so 11 to 20
        (0, 0, 0, range(11, 21), range(11, 21)),
        # s = 0.7, half a side 6.72, x = 48: 41.28 < c + 0.5 < 54.72, so 41 to 54; y = 16: 9.28 < r + 0.5 < 22.72, so 9 to 22
        (2, 31, 0, range(9, 23), range(41, 55)),
    ],
)
def test_squares_worked_by_hand(scale: int, x: int, y: int, rows: range, columns: range) -> None:
    assert np.array_equal(draw(SQUARE, scale, 0, x, y), block(rows, columns))


def test_an_ellipse_worked_by_hand() -> None:
    image = draw(ELLIPSE, 5, 0, 0, 0)
    # The centres of rows 15 and 16 lie 0.5 from the middle: 12.8 sqrt(1 - (0.5/7.2)^2) = 12.769, and column 3's 12.5.
    assert np.flatnonzero(image[15]).tolist() == list(range(3, 29))
    assert np.array_equal(image[16], image[15])
    # Row 9 lies 6.5 away: 12.8 sqrt(1 - (6.5/7.2)^2) = 5.506, and column 10 lies 5.5 away.
    assert np.flatnonzero(image[9]).tolist() == list(range(10, 22))
    # Row 8 lies 7.5 away, more than 7.2.
    assert np.flatnonzero(image.any(1)).tolist() == list(range(9, 23))


def test_turning_is_counterclockwise() -> None:
    """Orientation 5 is 46 degrees: the ellipse's long axis then points up and to the right, where row numbers fall."""
    image = draw(ELLIPSE, 5, 5, 0, 0)
    assert image[16 - 8, 16 + 7] == image[16 + 7, 16 - 8] == 1
    assert image[16 + 7, 16 + 7] == image[16 - 8, 16 - 8] == 0


def test_a_heart_has_two_lobes_above_and_a_tip_below() -> None:
    image = draw(HEART, 5, 0, 0, 0)
    rows = np.flatnonzero(image.any(1))
    top, bottom = image[rows[0]], image[rows[-1]]
    assert np.count_nonzero(np.diff(top) == 1) == 2
    assert np.flatnonzero(bottom).tolist() == [15, 16]
    assert rows[0] > 16 - 14
    assert rows[-1] < 16 + 14


def test_symmetry() -> None:
    """At posX 0 and posY 0 the centre lies on the corner of four pixels, so that mirrored pixels are pixels."""

    def middle(shape: int, orientation: int) -> Any:
        return draw(shape, 5, orientation, 0, 0)[:32, :32]

    for shape in range(3):  # left and right
        assert np.array_equal(middle(shape, 0), middle(shape, 0)[:, ::-1])
    for shape in (SQUARE, ELLIPSE):  # half a turn
        for orientation in range(40):
            assert np.array_equal(middle(shape, orientation), middle(shape, orientation)[::-1, ::-1])
    for orientation in range(40):  # a quarter turn
        assert np.array_equal(middle(SQUARE, orientation), np.rot90(middle(SQUARE, orientation)))
    for shape in range(3):  # turned as far to the left as to the right
        for orientation in range(1, 20):
            assert np.array_equal(middle(shape, orientation), middle(shape, 39 - orientation)[:, ::-1])


def test_the_first_and_the_last_orientation_look_the_same(sprites: Sprites) -> None:
    by_factor = sprites.packed.view(*SIZES, 512)
    assert torch.equal(by_factor[:, :, 0], by_factor[:, :, 39])
    assert not torch.equal(by_factor[:, :, 0], by_factor[:, :, 38])


def test_areas(areas: Any) -> None:
    scales = np.linspace(0.5, 1, 6)
    for scale, size in enumerate(scales):
        square, ellipse, heart = areas[:, scale]
        assert square.mean() == pytest.approx((19.2 * size) ** 2, rel=1e-3)
        assert ellipse.mean() == pytest.approx(math.pi * 12.8 * 7.2 * size**2, rel=1e-3)
        assert heart.mean() == pytest.approx(areas[HEART, 5].mean() * size**2, rel=1e-3)
        # the pixels that an outline cuts are in or out by chance
        assert abs(ellipse - ellipse.mean()).max() < 10
    # Over all official images the mean pixel is 0.042494 (published by disent, a library of such data sets).
    assert areas.mean() / 64**2 == pytest.approx(0.042494423521889584, rel=1e-3)


def test_no_sprite_is_cut_off(sprites: Sprites) -> None:
    every = np.bitwise_or.reduce(sprites.packed.numpy())
    image = np.unpackbits(every).reshape(64, 64)
    assert not image[:2].any()
    assert not image[-2:].any()
    assert not image[:, :2].any()
    assert not image[:, -2:].any()


def test_real_frames(real_data: Path, sprites: Sprites) -> None:
    with np.load(real_data / "dsprites" / "reference_frames.npz") as file:
        frames, latent_classes = file["images"], file["latent_classes"]
    drawn = sprites.packed[sprites.numbers(latent_classes)].numpy()
    differ = ON[drawn ^ frames].sum(1, dtype=np.int64)
    assert len(differ) == 202
    assert differ.mean() < 2
    assert differ.max() <= 12
    assert np.array_equal(np.packbits(render(latent_classes).reshape(202, -1), axis=1), drawn)


def test_real_tiles_of_unknown_factors_are_among_the_sprites(real_data: Path, sprites: Sprites, areas: Any) -> None:
    with np.load(real_data / "dsprites" / "sample_tiles.npz") as file:
        tiles = file["images"][::10]
    least = []
    for tile in tiles:
        # images that differ by at most 11 pixels have areas that do
        near = sprites.packed.numpy()[abs(areas.reshape(-1) - ON[tile].sum()) <= 11]
        least.append(ON[near ^ tile].sum(1, dtype=np.int64).min())
    assert max(least) <= 11
    assert np.mean(least) < 2


def test_all_are_as_drawn_one_by_one(sprites: Sprites) -> None:
    numbers = torch.randint(COUNT, (3000,))
    images = sprites.take(numbers)
    assert images.shape == (3000, 1, 64, 64)
    assert images.dtype == torch.float32
    assert np.array_equal(images[:, 0].numpy(), render(sprites.classes(numbers)))


def test_the_corners_of_the_grid_are_as_drawn_one_by_one(sprites: Sprites) -> None:
    latent_classes = list(itertools.product((0, 1, 2), (0, 5), (0, 1, 39), (0, 1, 31), (0, 30, 31)))
    images = sprites.take(sprites.numbers(latent_classes))
    assert np.array_equal(images[:, 0].numpy(), render(latent_classes))


def test_order(sprites: Sprites) -> None:
    """The official one: posY changes fastest, then posX, orientation, scale, shape."""
    first = [0, 1, 32, 1024, 40_960, 245_760, COUNT - 1]
    expected = [(0, 0, 0, 0, 0), *np.eye(5, dtype=int)[::-1].tolist(), [2, 5, 39, 31, 31]]
    assert sprites.classes(first).tolist() == [list(row) for row in expected]
    assert sprites.numbers(expected).tolist() == first
    factors = sprites.factors()
    assert factors.shape == (COUNT, 5)
    assert factors[first].tolist() == [list(row) for row in expected]
    assert sprites.factor_names == FACTORS
    assert sprites.factor_sizes == SIZES
    assert len(sprites) == math.prod(SIZES) == COUNT


@settings(deadline=None)
@given(numbers=st.lists(st.integers(0, COUNT - 1), max_size=20))
def test_numbers_and_classes_are_inverse(sprites: Sprites, numbers: list[int]) -> None:
    there = sprites.classes(torch.tensor(numbers, dtype=torch.int64))
    assert there.shape == (len(numbers), 5)
    assert sprites.numbers(there).tolist() == numbers


@settings(deadline=None)
@given(latent_classes=st.lists(classes, min_size=1, max_size=20))
def test_classes_and_numbers_are_inverse(sprites: Sprites, latent_classes: list[tuple[int, ...]]) -> None:
    numbers = sprites.numbers(torch.tensor(latent_classes))
    assert numbers.dtype == torch.int64
    assert sprites.classes(numbers).tolist() == [list(row) for row in latent_classes]


@settings(deadline=None, max_examples=50)
@given(one=classes, along=st.sampled_from([3, 4]))
def test_a_step_of_position_moves_a_sprite_by_about_a_pixel(one: tuple[int, ...], along: int) -> None:
    """posX to the right, posY downwards; whole pixels cannot move by 32/31."""
    before = [min(value, 30) if factor == along else value for factor, value in enumerate(one)]
    after = [value + (factor == along) for factor, value in enumerate(before)]
    right, down = (np.argwhere(draw(*after)).mean(0) - np.argwhere(draw(*before)).mean(0))[::-1]
    assert right == pytest.approx(32 / 31 if along == 3 else 0, abs=0.6)
    assert down == pytest.approx(32 / 31 if along == 4 else 0, abs=0.6)


def test_names(sprites: Sprites) -> None:
    names = sprites.names
    assert len(names) == COUNT
    assert names[0] == "square, scale 0, orientation 0, posX 0, posY 0"
    assert names[-1] == "heart, scale 5, orientation 39, posX 31, posY 31"
    assert names[1:3] == (names[1], names[2])
    assert names[245_760 + 33] == "ellipse, scale 0, orientation 0, posX 1, posY 1"
    with pytest.raises(IndexError):
        names[COUNT]


def test_torchs_loader_has_images_and_factors(sprites: Sprites) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))[:70].tolist()
    images, factors = next(iter(DataLoader(sprites, batch_size=70, sampler=order)))
    assert torch.equal(images, sprites.take(order))
    assert factors.tolist() == sprites.classes(order).tolist()
    assert torch.equal(sprites[-1][0], sprites.take(np.array([COUNT - 1]))[0])
    with pytest.raises(IndexError):
        sprites[COUNT]


@pytest.mark.parametrize("number", [-1, COUNT])
def test_images_of_no_number(sprites: Sprites, number: int) -> None:
    with pytest.raises(UsageError, match=f"sprites are numbered from 0 to 737279, got .*{number}"):
        sprites.take(torch.tensor([0, number]))


@pytest.mark.parametrize("kind", [np.int16, np.uint64, np.int32, torch.int32, torch.uint8, list, tuple])
def test_whole_numbers_of_any_kind_are_numbers_of_images(sprites: Sprites, kind: Any) -> None:
    numbers = [3, 100, 250]
    given = torch.tensor(numbers, dtype=kind) if isinstance(kind, torch.dtype) else np.array(numbers, kind)
    found = sprites.take(kind(numbers) if kind in (list, tuple) else given)
    assert torch.equal(found, sprites.take(torch.tensor(numbers)))


@pytest.mark.parametrize("given", [[1.5], [True], "x", [[1, 2]], torch.tensor([1.0]), np.array(["a"]), [2**70]])
def test_what_numbers_no_image_is_refused(sprites: Sprites, given: Any) -> None:
    with pytest.raises(UsageError, match="numbers of sprites are whole numbers"):
        sprites.take(given)


def test_draws_are_reproducible_and_even(sprites: Sprites) -> None:
    first, again = (sprites.draw(60_000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    shapes = np.bincount(sprites.classes(first)[:, 0])
    assert abs(shapes - 20_000).max() < 600  # five standard deviations of 115


def test_another_device_has_the_same_images(sprites: Sprites) -> None:
    moved = sprites.to("cpu")
    assert moved.packed.data_ptr() == sprites.packed.data_ptr()
    assert torch.equal(moved.take(torch.tensor([5, 700_000])), sprites.take(torch.tensor([5, 700_000])))


def test_a_batch_takes_less_than_a_millisecond(sprites: Sprites) -> None:
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(200):
        numbers = sprites.draw(64, generator)
        start = time.perf_counter()
        sprites.take(numbers)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3


# The most memory that a process held (VmHWM) and not ru_maxrss, which begins with what the process that started it held.
GROWTH = """
import re
from pathlib import Path
from vaelens.data.sprites import Sprites, render

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

render([[2, 0, 0, 0, 0]])
before = peak()
sprites = Sprites()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory held from /proc")
def test_drawing_all_takes_little_more_memory_than_they_do() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, timeout=300, check=True)
    assert 350 < float(done.stdout) < 450  # MiB, of which the images take 360


@pytest.mark.parametrize(
    ("latent_classes", "words"),
    [
        ([0, 0, 0, 0, 0], r"whole numbers \(N, 5\).*shape, scale, orientation, posX, posY; got int64 \(5,\)"),
        ([[0, 0, 0, 0]], r"got int64 \(1, 4\)"),
        ([[0.0, 0, 0, 0, 0]], "got float64"),
        (torch.zeros(2, 5), "got float32"),
        (np.zeros((2, 5), bool), "got bool"),
        ([["a"] * 5], "got <U1"),
        ([[3, 0, 0, 0, 0]], "shape goes from 0 to 2, and row 0 has 3"),
        ([[0, 6, 0, 0, 0]], "scale goes from 0 to 5, and row 0 has 6"),
        ([[0, 0, 0, 0, 0], [0, 0, -1, 0, 0]], "orientation goes from 0 to 39, and row 1 has -1"),
        ([[0, 0, 0, 32, 0]], "posX goes from 0 to 31, and row 0 has 32"),
        ([[0, 0, 0, 0, 0], [0, 0]], "latent_classes are whole numbers"),
        (torch.zeros(1, 5, dtype=torch.bfloat16), "latent_classes are whole numbers"),
        (np.array([[0, 0, 0, 0, 2**63]], np.uint64), "posY goes from 0 to 31, and row 0 has 9223372036854775808"),
    ],
)
def test_classes_that_are_none(sprites: Sprites, latent_classes: Any, words: str) -> None:
    for refuse in (render, sprites.numbers):
        with pytest.raises(UsageError, match=words) as caught:
            refuse(latent_classes)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([[0]], r"whole numbers \(N,\), got \[\[0\]\]"),
        (5, r"whole numbers \(N,\), got 5"),
        (torch.tensor(5), r"whole numbers \(N,\), got"),
        (torch.ones(2, dtype=torch.bfloat16), r"whole numbers \(N,\), got"),
        (torch.ones(2, dtype=torch.int64).to_sparse(), r"whole numbers \(N,\), got"),
        ([0.5], "whole numbers"),
        ([True], "whole numbers"),
        ([[0], [0, 1]], "whole numbers"),
        ([0, -1], "from 0 to 737279, got -1 to 0"),
        (torch.tensor([5, COUNT]), "from 0 to 737279, got 5 to 737280"),
    ],
)
def test_numbers_that_are_none(sprites: Sprites, numbers: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        sprites.classes(numbers)
    assert "\n" not in str(caught.value)


def test_no_classes_and_no_numbers(sprites: Sprites) -> None:
    assert render(np.empty((0, 5), int)).shape == (0, 64, 64)
    assert sprites.numbers(np.empty((0, 5), int)).shape == (0,)
    assert sprites.classes(np.empty(0, int)).shape == (0, 5)
    assert sprites.take(torch.empty(0, dtype=torch.int64)).shape == sprites.take([]).shape == (0, 1, 64, 64)


@pytest.mark.parametrize("packed", [torch.zeros(3, 512, dtype=torch.uint8), torch.empty(COUNT, 512, device="meta")])
def test_packed_images_that_are_none(packed: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"packed sprites are uint8 \(737280, 512\), got torch"):
        Sprites(packed)


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "3"])
def test_counts_that_are_none(sprites: Sprites, count: Any) -> None:
    with pytest.raises(UsageError, match="count must be a whole number from 1 on"):
        sprites.draw(count, torch.Generator())
