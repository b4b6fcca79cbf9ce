"""Traversals beside maps, and Figure 9's pairs of maps: what is drawn where, and that it can be read."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from vaelens.errors import UsageError
from vaelens.report.colour import overlay
from vaelens.report.pairs import Pairs, figure9
from vaelens.report.sheet import to_png
from vaelens.report.traversals import nearest, traversal_grid

RNG = np.random.default_rng(0)
SPRITE = np.zeros((64, 64), np.float32)
SPRITE[20:40, 24:44] = 1
LONG = "an extraordinarily long name that nobody would ever choose, $x_1^2$ and more"
VALUES = (-2.0, -1.0, 0.0, 1.0, 2.0)
ORANGE = (235, 110, 20)


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def tiles(figure: Figure) -> list[AxesImage]:
    return [image for image in figure.axes[0].images if isinstance(image, AxesImage)]


def pixels(figure: Figure) -> Callable[[AxesImage], npt.NDArray[np.int64]]:
    """What the saved figure has where a tile's extent is, in inches from the top left corner."""
    page = np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB"), np.int64)

    def of(tile: AxesImage) -> npt.NDArray[np.int64]:
        left, right, bottom, top = (round(edge * figure.dpi) for edge in tile.get_extent())
        return page[top:bottom, left:right]

    return of


def grid(latents: int, values: tuple[float, ...] = VALUES, image: npt.NDArray[Any] = SPRITE, **options: Any) -> Figure:
    """Frame v of latent k is of one grey, (k * V + v) / (K * V)."""
    shades = np.arange(latents * len(values), dtype=np.float32).reshape(latents, len(values)) / (latents * len(values))
    frames = np.broadcast_to(shades.reshape(*shades.shape, *(1 for _ in image.shape)), (*shades.shape, *image.shape))
    given = {
        "maps": RNG.random((latents, 4, 4)),
        "latent_names": [f"z{k}" for k in range(latents)],
        "title": "a square",
        **options,
    }
    return traversal_grid(image, image, frames, values=values, **given)


def pairs(rows: int, columns: int, name: str = "z1 = +0.25", note: str = "overlap 0.12", high: float = 1.0) -> Pairs:
    maps = high * RNG.random((rows, columns, 2, 4, 4))
    return Pairs(f"model to {high:g}", maps, [[(name, name)] * columns] * rows, [[note] * columns] * rows)


DRAWN: dict[str, Callable[[], Figure]] = {
    "one latent": lambda: grid(1),
    "one value": lambda: grid(3, (0.0,), means=[0, 9, -9]),
    "ten latents": lambda: grid(10, notes=[["+0.12 here", "knows 35% of orientation"]] * 10, means=RNG.normal(0, 2, 10)),
    "both maps": lambda: grid(4, lowering=RNG.random((4, 4, 4)), title=LONG * 3),
    "long names": lambda: grid(3, latent_names=[LONG, "b", LONG], notes=[[LONG, LONG], [], ["c"]], title=LONG * 3),
    "wide": lambda: grid(3, image=np.full((9, 64), 0.5)),
    "tall": lambda: grid(3, image=np.full((64, 9, 3), 0.5), values=(-1.25, 0.5)),
    "figure 9": lambda: figure9(np.tile(SPRITE, (3, 3, 1, 1)), ("square", "ellipse", "heart"), [pairs(3, 3), pairs(3, 3)]),
    "figure 9 of long names": lambda: figure9(np.tile(SPRITE, (1, 2, 1, 1)), (LONG, LONG), [pairs(1, 2, LONG, LONG, 1e-6)]),
    "figure 9 of one": lambda: figure9(np.full((1, 1, 20, 60, 3), 0.5), ("x",), [pairs(1, 1)]),
}


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN.keys())
def test_text_is_legible_and_runs_into_nothing(make: Callable[[], Figure]) -> None:
    figure = make()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert min(text.get_fontsize() for text in texts(figure)) >= 8
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(figure)]
    for text, box in boxes:
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one!r} runs into {two!r}"
    areas = [tile.get_window_extent(renderer) for tile in tiles(figure)] + [bar.get_window_extent() for bar in figure.axes[1:]]
    for area in areas:
        for text, box in boxes:
            inside = min(area.x1, box.x1) - max(area.x0, box.x0) > 1 and min(area.y1, box.y1) - max(area.y0, box.y0) > 1
            assert not inside, f"{text!r} runs into a picture"
    for a, b in itertools.combinations(areas, 2):
        assert a.x1 < b.x0 or b.x1 < a.x0 or a.y1 < b.y0 or b.y1 < a.y0, "pictures run into each other"


def test_each_frame_stands_in_its_latents_row_below_its_value() -> None:
    figure = grid(3)
    found = tiles(figure)
    assert len(found) == 2 + 3 * (5 + 1)
    shown = pixels(figure)
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    heads = [places[head][0] for head in ("−2", "−1", "0", "+1", "+2", "attention")]
    assert heads == sorted(heads)
    for k, v in itertools.product(range(3), range(5)):
        tile = found[2 + 6 * k + v]
        left, right, bottom, top = tile.get_extent()
        assert np.abs(shown(tile) - round(255 * (5 * k + v) / 15)).max() <= 1
        assert left < heads[v] < right
        assert top - 0.01 <= places[f"z{k}"][1] < bottom


def test_values_between_whole_numbers_are_told_in_three_digits() -> None:
    shown = words(grid(1, tuple(2 * (k / 3 - 1) for k in range(7))))
    assert {"−2", "−1.33", "−0.667", "0", "+0.667", "+1.33", "+2"} <= {*shown}


def test_the_frame_nearest_to_the_inputs_own_value_has_an_edge() -> None:
    figure = grid(3, means=[0.6, -2.4, 2.6])
    shown = pixels(figure)
    edged = []
    for at, tile in enumerate(tiles(figure)):
        corner = shown(tile)[1, 1]
        if np.abs(corner - ORANGE).max() < 12:
            edged.append(at)
            assert np.ptp(shown(tile)[30, 30]) == 0, "inside it is as it was"
    assert edged == [2 + 3, 2 + 6]


@pytest.mark.parametrize(
    ("value", "place"), [(-2.0, 0), (-0.6, 1), (-0.4, 2), (2.5, 4), (2.51, None), (-2.51, None), (float("nan"), None)]
)
def test_which_value_is_nearest(value: float, place: int | None) -> None:
    assert nearest(value, VALUES) == place


def test_maps_lie_upright_over_the_input_on_one_scale() -> None:
    maps, lowering = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
    maps[0, 0, 3], maps[1, 2, 1], lowering[1, 3, 0] = 1.0, 0.5, 4.0
    figure = grid(2, maps=maps, lowering=lowering, limit=2.0)
    found, shown = tiles(figure), pixels(figure)
    assert len(found) == 2 + 2 * (5 + 2)
    for k in range(2):
        for at, one in ((7, maps[k]), (8, lowering[k])):
            expected = overlay(np.uint8(255 * SPRITE), one, 2.0, scale=3)
            tile = shown(found[7 * k + at])
            small = np.asarray(Image.fromarray(expected).resize(tile.shape[1::-1], Image.Resampling.BOX), np.int64)
            assert np.abs(tile - small).mean() < 3
    assert {"raises it", "lowers it"} <= set(words(figure))
    assert "attention" not in words(figure)
    assert figure.axes[1].get_xlim()[1] == 2.0
    assert np.abs(shown(found[0])[45, 50] - 255).max() <= 1, "the input is as it is"


def test_figure9_has_a_scale_for_each_pair_and_two_maps_beside_each_input() -> None:
    inputs = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3, 1, 1) * np.ones((2, 3, 64, 64), np.float32)
    blocks = [pairs(2, 3, high=2.0), pairs(2, 3, "z7 = −3.00", "overlap 0.50", 0.25)]
    each = np.linspace(0.1, 2.0, 12).reshape(2, 3, 2)  # each map of one value, the second the higher
    blocks[0].maps[:] = each[..., None, None]
    blocks[1].maps[:] = 0
    figure = figure9(inputs, ("square", "ellipse", "heart"), blocks)
    found, shown = tiles(figure), pixels(figure)
    assert len(found) == 2 * 6 * 3
    assert [bar.get_ylim() for bar in figure.axes[1:]] == [(0, 1.0)] * 2
    assert [[label.get_text() for label in bar.get_yticklabels()] for bar in figure.axes[1:]] == [["0", "most"]] * 2
    for block, at in itertools.product(range(2), range(6)):
        grey = round(255 * at / 5)
        three = [shown(tile) for tile in found[18 * block + 3 * at : 18 * block + 3 * at + 3]]
        assert np.abs(three[0] - grey).max() <= 1
        for k in range(2):
            one = blocks[block].maps[divmod(at, 3)][k]
            most = float(each[divmod(at, 3)].max()) if block == 0 else 1.0
            expected = overlay(np.full((64, 64), grey, np.uint8), one, most)[0, 0]
            assert np.abs(three[1 + k] - expected).max() <= 2
    rows = [round(tile.get_extent()[3], 3) for tile in found]
    assert rows == sorted(rows)
    assert words(figure).count("z7 = −3.00") == 12
    assert words(figure).count("overlap 0.50") == 6
    reached = [word for word in words(figure) if word.startswith("to ")]
    assert reached == [*(f"to {value:.2g}" for value in each.ravel()), *["to 0"] * 12]
    assert {"square", "ellipse", "heart", "model to 2", "model to 0.25"} <= set(words(figure))


FRAMES = np.zeros((2, 5, 64, 64))
ONES = np.ones((2, 4, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: traversal_grid(SPRITE, SPRITE, FRAMES, ONES, ["a"], VALUES, "t"), "latent_names must be 2, not 1"),
        (lambda: traversal_grid(SPRITE, SPRITE, FRAMES, ONES, ["a", "b"], VALUES, "t", notes=[[]]), "notes must be 2, not 1"),
        (lambda: traversal_grid(SPRITE, SPRITE, FRAMES, ONES, ["a", "b"], VALUES, "t", means=[1]), "means must be 2, not 1"),
        (lambda: traversal_grid(SPRITE, SPRITE, FRAMES, ONES, ["a", "b"], VALUES[1:], "t"), r"frames must be \(2, 4, 64, 64\)"),
        (lambda: traversal_grid(SPRITE, SPRITE[1:], FRAMES, ONES, ["a", "b"], VALUES, "t"), "decoded must be of the input's"),
        (lambda: traversal_grid(SPRITE, SPRITE, FRAMES, -ONES, ["a", "b"], VALUES, "t"), "nowhere negative"),
        (lambda: traversal_grid(SPRITE, SPRITE, FRAMES, ONES[0], ["a", "b"], VALUES, "t"), r"maps must be \(K, h, w\)"),
        (lambda: grid(2, lowering=np.ones((3, 4, 4))), "as many of each kind"),
        (lambda: grid(2, values=()), "at least one value"),
        (lambda: grid(2, limit=0.0), "positive number"),
        (lambda: grid(700), "too large to draw"),
        (lambda: figure9(np.zeros((1, 1, 8, 8)), ("x",), []), "at least one block"),
        (lambda: figure9(np.zeros((1, 8, 8)), ("x",), [pairs(1, 1)]), r"inputs must be \(R, C, H, W\)"),
        (lambda: figure9(np.zeros((1, 1, 8, 8)), ("x", "y"), [pairs(1, 1)]), "column_titles must be 1, not 2"),
        (lambda: figure9(np.zeros((1, 2, 8, 8)), ("x", "y"), [pairs(1, 1)]), r"maps of 'model to 1' must be \(1, 2, 2\)"),
        (
            lambda: figure9(np.zeros((1, 1, 8, 8)), ("x",), [Pairs("m", -np.ones((1, 1, 2, 4, 4)), [[("a", "b")]], [[""]])]),
            "nowhere negative",
        ),
        (
            lambda: figure9(np.zeros((1, 1, 8, 8)), ("x",), [Pairs("m", np.ones((1, 1, 2, 4, 4)), [], [[""]])]),
            "the names of 'm'",
        ),
    ],
)
def test_misuse_is_one_line(call: Callable[[], Figure], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_files_are_repeatable() -> None:
    image = np.tile(SPRITE, (1, 1, 1, 1))
    block = pairs(1, 1)
    assert to_png(figure9(image, ("x",), [block])) == to_png(figure9(image, ("x",), [block]))
