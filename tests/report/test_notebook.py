"""What notebooks show: HTML that parses, holds its picture and nothing that was not escaped; axes in, the same axes out."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vaelens.attention import Deviation, LatentAttention, MeanSum
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.report.colour import common_limit, overlay
from vaelens.report.notebook import fine, fragment, never_raising, table_fragment
from vaelens.runs import Run, load_run
from vaelens.runs.train import load_split


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def images(run: Run) -> Tensor:
    return to_float(load_split(run.config).test.images[:20])


@pytest.fixture(autouse=True)
def _nothing_global_changes() -> Iterator[None]:
    from matplotlib import pyplot

    before, settings = pyplot.get_fignums(), dict(matplotlib.rcParams)
    yield
    assert pyplot.get_fignums() == before
    assert dict(matplotlib.rcParams) == settings


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources += [value or "" for name, value in attrs if name == "src"]
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def parsed(page: str) -> tuple[str, list[Image.Image]]:
    """The words of a piece of HTML and its pictures; all tags are closed, and nothing is fetched from elsewhere."""
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    pictures = []
    for source in tags.sources:
        head, _, content = source.partition(",")
        assert head == "data:image/png;base64"
        pictures.append(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))
        pictures[-1].load()
    return tags.words, pictures


SHOWN: dict[str, Callable[[Run, Tensor], Any]] = {
    "maps": lambda run, images: run.attention(images),
    "explanation": lambda run, images: run.explain(images),
    "posterior": lambda run, images: run.posterior(images),
    "verdict": lambda run, images: run.localize(images),
    "traversal": lambda run, images: run.traverse(images[0]),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_html_holds_its_picture(kind: str, run: Run, images: Tensor) -> None:
    page = SHOWN[kind](run, images)._repr_html_()
    words, (picture,) = parsed(page)
    assert len(page) < 4_000_000
    assert np.asarray(picture.convert("L")).std() > 10  # something is drawn
    if kind != "traversal":
        assert re.search(r"first( \d+)? of 20 images", words)  # what is left out is said
    if kind in ("maps", "explanation"):  # and a call that draws it: an explanation knows its images
        assert ("images; maps.plot(images, most=...)" if kind == "maps" else "images; .plot(most=...)") in words


def test_html_of_a_run(run: Run) -> None:
    words, pictures = parsed(run._repr_html_())
    assert pictures == []
    for told in ("digits, normal class 1", "mnist", "8, ", "deviation", f"{len(run.held_out_images)} held out"):
        assert told in words


def test_html_of_many_latents_stays_small() -> None:
    from vaelens.models import build

    attention = LatentAttention(build("compact", 200, (1, 32, 32)).eval())
    with torch.no_grad():
        page = attention(torch.rand(2, 1, 32, 32))._repr_html_()
    words, (picture,) = parsed(page)
    assert "The first 96 of 200 latents" in words
    assert picture.height < 3000


def test_html_never_raises_and_is_escaped(run: Run, images: Tensor) -> None:
    verdict = run.localize(images[:1])
    words, pictures = parsed(replace(verdict, localizer="<script>alert(1)</script>")._repr_html_())
    assert "<script>" in words  # as text
    assert len(pictures) == 1
    for broken in (
        replace(verdict, maps=torch.full_like(verdict.maps, float("nan"))),
        replace(run.explain(images[:1]), images=torch.zeros(3, 2)),
        replace(run.attention(images[:1]), signed=torch.zeros(1)),
        replace(run.traverse(images[0]), decoded=torch.zeros(1)),
    ):
        words, pictures = parsed(broken._repr_html_())
        assert "no picture: " in words
        assert pictures == []

    def fail() -> str:
        raise RuntimeError("<b>")

    assert "&lt;b&gt;" in never_raising(fail, "x")
    assert "<i>" not in fragment("<i>", ["<i>"]) + table_fragment("<i>", [("<i>", "<i>\udc80")])


def test_a_new_figure_shows_itself_and_is_not_pyplots(run: Run, images: Tensor) -> None:
    for drawn in (run.attention(images[:2]).plot(images[:2]), run.localize(images[0]).plot(), run.traverse(images[0]).plot()):
        assert isinstance(drawn, Figure)
        assert drawn.axes
        assert drawn._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_maps_are_drawn_into_the_axes_given(run: Run, images: Tensor) -> None:
    maps = run.attention(images[:2]).detach()
    axes = Figure().subplots(2, 3)
    assert maps.plot(images[:2], latents=[5, 0, 2], axes=axes) is axes
    values = maps.per_latent[:, [5, 0, 2]].numpy()
    limit = common_limit([values])
    for i in range(2):
        for k, latent in enumerate((5, 0, 2)):
            ax = axes[i, k]
            assert ax.get_title() == f"z{latent}"
            (tile,) = ax.images
            expected = overlay(fine(images[i, 0].numpy()), values[i, k], limit)
            assert np.array_equal(np.asarray(tile.get_array()), expected)
            assert tile.get_extent() == [-0.5, 27.5, 27.5, -0.5]  # in pixels of the image
    one = Figure().subplots()
    assert maps.plot(latents=3, axes=[one, Figure().subplots()])[0] is one
    maps.plot(latents=np.arange(2), axes=Figure().subplots(2, 2))
    alone = run.attention(images[:1])
    assert alone.plot(images[0], latents=3, axes=one) is one


def test_distributions_verdicts_and_traversals_take_axes_too(run: Run, images: Tensor) -> None:
    posterior = run.posterior(images[:2])
    axes = Figure().subplots(2, 3)
    assert posterior.plot(images[:2], latents=[1, 4], axes=axes, at=1, above=0.01) is axes
    shown = np.asarray(axes[1, 2].images[0].get_array())
    probability = posterior.probability(0.01)[1, 4].numpy()
    assert np.array_equal(shown, overlay(fine(images[1, 0].numpy()), probability, 1.0))
    assert axes[1, 2].get_title() == "above 0.01"

    verdict = run.localize(images[:3])
    masks = torch.zeros_like(verdict.masks)
    masks[1, 5:9, 20:] = True
    verdict = replace(verdict, masks=masks)
    row = tuple(Figure().subplots(1, 3))
    assert verdict.plot(ax=row) is row
    for i, ax in enumerate(row):
        assert ax.get_title().startswith("not normal" if verdict.flagged[i] else "no anomaly found")
        assert bool(ax.collections) == (i == 1)  # what is flagged is outlined
    outline = np.concatenate([path.vertices for path in row[1].collections[0].get_paths()])
    assert (outline.min(0) >= (19.5, 4.5)).all()
    assert (outline.max(0) <= (27.5, 8.5)).all()

    traversal = run.traverse(images[0], latents=[6], span=(-1, 3), steps=3)
    strip = Figure().subplots(1, 4)
    assert traversal.plot(axes=strip) is strip
    assert [ax.get_title() for ax in strip] == ["z6 = -1", "z6 = +1", "z6 = +3", "z6"]


def test_deviation_shows_how_likely_a_map_is_above_half_the_largest(run: Run, images: Tensor) -> None:
    posterior = Deviation.fit(run.attention, to_float(run.normal_images), 3).posterior(run.attention, images[:1]).detach()
    axes = Figure().subplots(8, 3)
    posterior.plot(images[0], latents=range(8), axes=axes)
    half = float(posterior.maps.per_latent.max()) / 2
    assert float(axes[0, 2].get_title().removeprefix("above ")) == pytest.approx(half, rel=0.01)
    score = MeanSum(0.0, 1.0).posterior(run.attention, images[:1]).detach()
    (row,) = Figure().subplots(1, 3, squeeze=False)
    assert score.plot(axes=row)[0].get_title() == "score"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda run, x: run.explain(x).plot(axes=Figure().subplots(1, 2)), "axes must be 160 matplotlib Axes"),
        (lambda run, x: run.explain(x[:1]).plot(latents=1, axes="ax"), "axes must be 1 matplotlib Axes"),
        (lambda run, x: run.explain(x).plot(latents=[8]), "latent 8 was not explained; there are maps of: 0, 1"),
        (lambda run, x: run.attend(latents="top2")(x).plot(latents=[1]), "latents of its own"),
        (lambda run, x: run.attention(x).plot(x[:3]), "one for each of the 20"),
        (lambda run, x: run.attention(x).plot(x[0]), "one for each of the 20"),
        (lambda run, x: run.attention(x).plot(x, latents="top3"), "latents are an index or several"),
        (lambda run, x: run.posterior(x).plot(x, above=float("nan")), "above is a number"),
        (lambda run, x: run.traverse(x[0, 0]), "of one image"),
        (lambda run, x: run.traverse(x[0], span=None), "span is a number above 0"),
        (lambda run, x: run.attention(x).plot(x, most=0), "most must be a whole number"),
        (lambda run, x: run.posterior(x).plot(at=20), "at must be at most 19"),
        (lambda run, x: run.localize(x).plot(ax=[]), "axes must be 20"),
        (lambda run, x: run.traverse(x), "of one image"),
        (lambda run, x: run.traverse(x[0], span=-1.0), "span is a number above 0"),
        (lambda run, x: run.traverse(x[0], span=(1, 2, 3)), "span is a number above 0"),
        (lambda run, x: run.traverse(x[0], span=float("nan")), "span is a number above 0"),
        (lambda run, x: run.traverse(x[0], steps=1), "steps must be a whole number from 2"),
        (lambda run, x: run.traverse(x[0], latents=[99]), "99"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(draw: Callable[..., Any], message: str, run: Run, images: Tensor) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        draw(run, images)
    assert "\n" not in str(caught.value)


def test_one_image_is_a_batch_of_one(run: Run, images: Tensor) -> None:
    one, batch = run.localize(images[3]), run.localize(images[3:4])
    assert torch.equal(one.maps, batch.maps)
    assert one.images is not None
    assert one.images.data_ptr() == images[3].data_ptr()  # not a copy
    assert torch.equal(run.explain(images[3]).maps.signed, run.explain(images[3:4]).maps.signed)
    assert torch.equal(run.reconstruct(images[3]), run.reconstruct(images[3:4]))
    assert torch.equal(run.posterior(images[3]).slope, run.posterior(images[3:4]).slope)


def test_a_traversal_is_what_the_decoder_makes_of_moved_codes(run: Run, images: Tensor) -> None:
    found = run.traverse(images[2], latents=[3, 1], span=1.5, steps=5)
    assert found.values == (-1.5, -0.75, 0.0, 0.75, 1.5)
    assert found.latents == (3, 1)
    with torch.no_grad():
        mean = run.model.encode(images[2:3])[0]
        for k, latent in enumerate((3, 1)):
            for at, value in enumerate(found.values):
                code = mean.clone()
                code[0, latent] = value
                torch.testing.assert_close(found.images[k, at], run.model.decode(code)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.maps.signed, run.explain(images[2]).maps.signed[:, [3, 1]])
    told = run.traverse(images[2])
    nats = 0.5 * (told.maps.mean**2 + told.maps.logvar.exp() - 1 - told.maps.logvar)[0].masked_fill(~run.active, -1)
    assert list(told.latents) == nats.argsort(descending=True).tolist()[: int(run.active.sum())]


class _Shell:
    kernel = object()


def test_show_is_in_words_where_nothing_can_be_shown(run: Run, images: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    assert matplotlib.get_backend().lower() == "agg"
    run.localize(images[:2]).show()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.match(r"image 0: (not normal|no anomaly found); score .* by deviation", lines[0])
    run.explain(images).show()
    assert capsys.readouterr().out.count("fired") == 20
    for thing in (run.attention(images), run.posterior(images)):
        thing.show()
        assert capsys.readouterr().out.startswith("20 x 8 maps of 7 x 7, layer encoder.relu2")
    assert run.localize(images.repeat(3, 1, 1, 1)).in_words().endswith("and 10 more")


def test_show_displays_in_a_notebook(run: Run, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[Any] = []
    module, display = ModuleType("IPython"), ModuleType("IPython.display")
    module.get_ipython = lambda: _Shell()  # type: ignore[attr-defined]
    display.display = displayed.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    verdict = run.localize(images[0])
    verdict.show()
    assert displayed == [verdict]
    maps = run.attention(images[:1])
    maps.show()
    assert displayed[1:] == [maps]


def test_show_opens_a_window_where_there_is_one(run: Run, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    seen: list[Any] = []
    monkeypatch.setattr("matplotlib.get_backend", lambda: "QtAgg")
    monkeypatch.setattr(pyplot, "show", lambda: seen.append(np.asarray(pyplot.gcf().axes[0].images[0].get_array())))
    verdict = run.localize(images[0])
    verdict.show()
    (pixels,) = seen
    size = verdict.plot().get_size_inches() * verdict.plot().dpi
    assert pixels.shape[:2] == (round(size[1]), round(size[0]))


def test_drawing_is_imported_when_something_is_drawn() -> None:
    code = (
        "import sys, torch; from vaelens.attention import LatentAttention; from vaelens.models import build;"
        "maps = LatentAttention(build('compact', 4, (1, 32, 32)).eval())(torch.rand(1, 1, 32, 32)).detach();"
        "assert 'matplotlib' not in sys.modules; maps.plot(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_figure_shows_as_many_images_as_are_asked_for(run: Run, images: Tensor) -> None:
    maps = run.attention(images).detach()

    def drawn(figure: Figure) -> int:
        return sum(text.get_text().startswith("image ") for text in figure.axes[0].texts)

    assert drawn(maps.plot(images, latents=[1])) == 8
    assert drawn(maps.plot(images, latents=[1], most=20)) == 20
    assert drawn(maps.plot(images, most=1)) == 1
