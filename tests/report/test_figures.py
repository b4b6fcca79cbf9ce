from __future__ import annotations

import gzip
import io
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from vaelens.errors import UsageError
from vaelens.report.colour import overlay
from vaelens.report.figures import Panel, auroc_bars, figure1, figure4, latent_grid, score_histogram, to_png
from vaelens.report.spreads import spread_grid

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(0)
DIGITS = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LONG = "an extraordinarily long name of a latent that nobody would ever choose, $x_1^2$ and more"


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def tiles(figure: Figure) -> list[AxesImage]:
    return [image for image in figure.axes[0].images if isinstance(image, AxesImage)]


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB"))


def drawn(figure: Figure, tile: AxesImage) -> npt.NDArray[np.uint8]:
    """The pixels of the saved figure that a tile's extent, in inches from the top left, covers."""
    left, right, bottom, top = (round(edge * figure.dpi) for edge in tile.get_extent())
    return pixels(figure)[top:bottom, left:right]


def grid(latents: int, count: int = 1, names: Callable[[int], str] = lambda i: f"z{i}") -> Figure:
    maps = RNG.random((count, latents, 7, 7))
    z_scores = RNG.normal(0, 3, (count, latents))
    return latent_grid(
        DIGITS[:count], maps, [names(i) for i in range(latents)], [f"image {i}.png" for i in range(count)], z_scores
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    **{f"latent_grid of {n}": (lambda n=n: grid(n)) for n in (1, 2, 10, 64)},
    "latent_grid of long names": lambda: grid(12, names=lambda i: f"{LONG}{i}"),
    "latent_grid of wide images": lambda: latent_grid(DIGITS[:2, :9], RNG.random((2, 5, 2, 6)), list("abcde"), [LONG, LONG]),
    "figure1": lambda: figure1(
        DIGITS, RNG.random((5, 3, 7, 7)), ["z1", "latent 22", LONG], column_titles=["a", "b", "c", LONG, "e"]
    ),
    "figure4": lambda: figure4(
        [
            Panel(
                "trained on 1",
                DIGITS,
                [f"digit {i}" for i in range(5)],
                {"sum of means": RNG.random((5, 7, 7)) * 1e-5, LONG: RNG.random((5, 14, 14))},
            ),
            Panel(LONG * 3, DIGITS[:3], (), {"deviation": RNG.random((3, 7, 7)) * 123456}, DIGITS[:3] / 255.0),
        ]
    ),
    **{
        f"spread_grid of {shape}": (
            lambda shape=shape: spread_grid(
                DIGITS[0, : shape[0], : shape[1]],
                RNG.random((3, 7, 7)),
                RNG.random((3, 7, 7)),
                RNG.random((3, 7, 7)),
                ["z1", "z12 (dead)", LONG],
                LONG,
                [["mean 1.2 ± 0.3", LONG, LONG, "left out"], [], ["a"]],
            )
        )
        for shape in ((28, 28), (28, 9), (9, 28))
    },
    "score_histogram": lambda: score_histogram(
        {LONG: RNG.normal(0, 1, 90), "b": np.array([np.nan, 5.0]), "none": np.zeros(0)}, 1.25
    ),
    "score_histogram far off": lambda: score_histogram({"a": np.r_[RNG.random(2000), 1e6], "b": RNG.random(2000)}, 0.001),
    "auroc_bars": lambda: auroc_bars(
        {f"method {m}": {f"digit {d}": 0.9 + d / 100 for d in range(6)} for m in range(7)} | {LONG: {LONG: 0.2}}
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_text_is_legible_and_runs_into_nothing(make: Callable[[], Figure]) -> None:
    figure = make()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    shown = texts(figure)
    assert min(text.get_fontsize() for text in shown) >= 8
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one!r} runs into {two!r}"
    for tile in tiles(figure):
        area = tile.get_window_extent(renderer)
        for text, box in boxes:
            inside = min(area.x1, box.x1) - max(area.x0, box.x0) > 1 and min(area.y1, box.y1) - max(area.y0, box.y0) > 1
            assert not inside, f"{text!r} runs into a picture"


@pytest.mark.parametrize("name", ["latent_grid of 2", "score_histogram"])
def test_files_are_repeatable_and_as_large_as_the_figure(name: str) -> None:
    figure = FIGURES[name]()
    png = to_png(figure)
    assert png == to_png(figure)
    assert Image.open(io.BytesIO(png)).size == (round(figure.bbox.width), round(figure.bbox.height))


def test_every_latent_has_a_tile_and_fired_ones_are_marked_in_words() -> None:
    z_scores = np.array([[2.99, -3.0, np.nan, 12.0]])
    figure = latent_grid(DIGITS[:1], RNG.random((1, 4, 7, 7)), ["a", "b", "c", "d"], ["one.png"], z_scores)
    assert len(tiles(figure)) == 5
    assert [word for word in words(figure) if word.startswith("▲")] == ["▲ b", "▲ d"]
    assert "2 of 4 latents fired (▲: |z-score| ≥ 3)" in words(figure)
    bold = {text.get_text() for text in texts(figure) if text.get_fontweight() == "bold"}
    assert bold == {"one.png", "▲ b", "z-score −3.00", "▲ d", "z-score +12.00"}


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (6, 0), (6, 6)])
def test_maps_lie_upright_over_their_images(row: int, column: int) -> None:
    """In the saved file the hot corner of the map is the bright corner of the tile, and the image is not turned either."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10:14, 2:6] = 255
    maps = np.zeros((1, 2, 7, 7))
    maps[0, 0, row, column] = 1.0
    figure = latent_grid(image, maps, ["hot", "cold"], ["x"], limit=1.0)
    plain, hot, cold = (drawn(figure, tile) for tile in tiles(figure))
    assert plain.shape == hot.shape == cold.shape == (126, 126, 3)
    expected = overlay(image[0], maps[0, 0], 1.0, scale=9)
    small = np.asarray(Image.fromarray(expected).resize((126, 126), Image.Resampling.BOX), int)
    difference = np.abs(hot.astype(int) - small).max(axis=2)
    # Pixel edges are smoothed differently; the bulk must agree.
    assert (difference > 12).mean() < 0.02
    assert np.abs(plain.astype(int) - cold).max() <= 2
    assert plain[54, 18].min() > 250
    corners = {(r, c): hot[-2 if r else 1, -2 if c else 1].sum() for r in (0, 6) for c in (0, 6)}
    assert max(corners, key=lambda at: int(corners[at])) == (row, column)
    assert sorted(corners.values())[2] < 10 < 300 < max(corners.values())


def test_one_scale_for_all_latents_and_images() -> None:
    """A value has the same colour wherever it stands, whatever else is in that map."""
    maps = np.zeros((2, 2, 1, 2))
    maps[0, 0] = [[0.5, 1.0]]
    maps[1, 1] = [[0.5, 0.5]]
    figure = latent_grid(np.zeros((2, 8, 8), np.uint8), maps, ["a", "b"], ["x", "y"], limit=1.0)
    shown = [drawn(figure, tile) for tile in tiles(figure)]
    assert np.abs(shown[1][60, 3].astype(int) - shown[5][60, 3]).max() <= 1
    assert {"0", "0.5", "1"} <= set(words(figure))


def test_figure1_has_inputs_on_top_and_a_row_for_each_latent() -> None:
    figure = figure1(DIGITS, RNG.random((5, 3, 7, 7)), ["z1", "z2", "z3"])
    found = tiles(figure)
    assert len(found) == 5 * 4
    rows = sorted({round(tile.get_extent()[3], 3) for tile in found})
    assert [round(tile.get_extent()[3], 3) for tile in found] == [row for row in rows for _ in range(5)]
    labels = {
        text.get_text(): text.get_position()[1] for text in texts(figure) if text.get_text() in {"input", "z1", "z2", "z3"}
    }
    assert labels["input"] < labels["z1"] < labels["z2"] < labels["z3"]
    assert np.abs(drawn(figure, found[0])[60, 60].astype(int) - int(DIGITS[0, 13, 13])).max() <= 2


def test_figure4_has_a_scale_for_each_row_and_says_where_it_ends() -> None:
    rows = {"means": np.full((5, 7, 7), 2.0), "deviation": np.full((5, 7, 7), 0.25)}
    figure = figure4([Panel("trained on 1", DIGITS, ["7", "2", "4", "9", "5"], rows, limits={"deviation": 0.5})])
    assert len(tiles(figure)) == 15
    bars = figure.axes[1:]
    assert [bar.get_ylim() for bar in bars] == [(0, 2.0), (0, 0.5)]
    assert {"7", "2", "4", "9", "5", "means", "deviation", "trained on 1", "input"} <= set(words(figure))
    # Both rows are constant: at the limit, and at half of it.
    full, half = drawn(figure, tiles(figure)[5]), drawn(figure, tiles(figure)[10])
    assert full.mean() > half.mean()


def test_figure4_draws_reconstructions_as_the_second_row() -> None:
    panel = Panel("p", DIGITS, (), {"m": np.ones((5, 7, 7))}, np.full((5, 28, 28), 0.5))
    figure = figure4([panel])
    assert "reconstruction" in words(figure)
    assert set(drawn(figure, tiles(figure)[5]).ravel().tolist()) <= {127, 128}


def test_a_histogram_counts_what_lies_above_the_threshold() -> None:
    figure = score_histogram({"a": np.array([1.0, 2, 3, 4]), "b": np.array([np.nan, 9, 9])}, 2.0)
    assert {"50.0% above", "100.0% above", "n = 4", "n = 2, 1 missing", "threshold 2"} <= set(words(figure))


def test_scores_far_off_do_not_flatten_the_others() -> None:
    figure = score_histogram({"a": np.r_[np.linspace(0, 1, 999), 1e6]})
    assert figure.axes[0].get_xlim()[1] < 5
    assert figure.axes[0].get_xlabel().startswith("score (the last bin holds all above ")
    heights = [patch.get_data()[0] for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert heights[0][-1] > 0


def test_auroc_bars_are_as_long_as_their_values() -> None:
    figure = auroc_bars({"m": {"1": 0.25, "2": float("nan"), "3": 0.9996}, "n": {"1": 1.0}})
    lengths = [[patch.get_width() for patch in axes.patches] for axes in figure.axes]  # type: ignore[attr-defined]
    assert lengths == [[0.25, 0.9996], [1.0]]
    assert [word for word in words(figure) if word in {"0.250", "–", "0.9996", "1.000"}] == [
        "0.250",
        "–",
        "0.9996",
        "1.000",
        "–",
        "–",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latent_grid(DIGITS, np.ones((4, 2, 7, 7)), ["a", "b"], ["x"] * 5), "one entry for each of the 5 images"),
        (lambda: latent_grid(DIGITS, np.ones((5, 2, 7, 7)), ["a"], ["x"] * 5), "latent_names must be 2, not 1"),
        (lambda: latent_grid(DIGITS, np.ones((5, 2, 7, 7)), ["a", "b"], ["x"]), "image_names must be 5, not 1"),
        (lambda: latent_grid(DIGITS, np.ones((5, 2, 7, 7)), ["a", "b"], ["x"] * 5, np.ones(5)), r"z_scores must be \(5, 2\)"),
        (lambda: latent_grid(DIGITS, -np.ones((5, 2, 7, 7)), ["a", "b"], ["x"] * 5), "not the signed ones"),
        (lambda: latent_grid(np.repeat(DIGITS, 30, 0), np.ones((150, 64, 2, 2)), ["a"] * 64, ["x"] * 150), "fewer images"),
        (lambda: figure1(DIGITS, np.ones((5, 3, 7, 7)), ["a", "b", "c"], ["only"]), "row_labels must be 4, not 1"),
        (lambda: figure4([]), "at least one panel"),
        (lambda: figure4([Panel("p", DIGITS, ["a"], {})]), "column titles of panel 'p' must be 5, not 1"),
        (lambda: figure4([Panel("p", DIGITS, (), {"m": np.ones((4, 7, 7))})]), "row 'm' of panel 'p'"),
        (lambda: score_histogram({}), "at least one group"),
        (lambda: score_histogram({"g": np.ones((2, 2))}), r"group 'g' must be \(N,\), not \(2, 2\)"),
        (lambda: auroc_bars({"m": {"d": 1.5}}), r"'m' for 'd' must be in \[0, 1\], not 1.5"),
        (lambda: auroc_bars({"m": {}}), "at least one method"),
    ],
)
def test_misuse_is_one_line(call: Callable[[], Figure], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_callers_matplotlib_stays_as_it_is() -> None:
    code = """
import sys, numpy as np, matplotlib
before = matplotlib.rcParams.copy()
from vaelens.report.figures import latent_grid, auroc_bars, to_png
to_png(latent_grid(np.zeros((1, 8, 8), np.uint8), np.ones((1, 2, 2, 2)), ["a", "b"], ["x"]))
to_png(auroc_bars({"m": {"1": 0.5}}))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_in_scripts_the_font_lacks_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    to_png(latent_grid(DIGITS[:1], np.ones((1, 1, 2, 2)), ["z"], ["図.png"]))
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_names_that_look_like_formulas_are_names() -> None:
    name = r"$\nonsense{$"
    to_png(latent_grid(DIGITS[:1], np.ones((1, 1, 2, 2)), [name], [name]))
    to_png(figure4([Panel(name, DIGITS, [name] * 5, {name: np.ones((5, 2, 2))})]))
    to_png(score_histogram({name: np.arange(3.0)}, 1.0, name))
    to_png(auroc_bars({name: {name: 0.5}}, name))


def test_real_digits_stand_upright(real_data: Path) -> None:
    """A real 7 (the first test image) has its stroke on top: in the saved figure too."""
    with gzip.open(real_data / "mnist" / "t10k-images-idx3-ubyte.gz") as stream:
        seven = np.frombuffer(stream.read(16 + 784), np.uint8, offset=16).reshape(1, 28, 28)
    figure = figure4([Panel("trained on 1", seven, ["7"], {"map": np.zeros((1, 7, 7)) + 1e-9}, limits={"map": 1.0})])
    for tile in tiles(figure):
        shown = drawn(figure, tile).mean(axis=2)
        again = np.asarray(Image.fromarray(shown.astype(np.uint8)).resize((28, 28), Image.Resampling.BOX), float)
        assert np.corrcoef(again.ravel(), seven[0].astype(float).ravel())[0, 1] > 0.98
    assert to_hex(figure.get_facecolor()) == "#ffffff"
