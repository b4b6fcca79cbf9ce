from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaelens.errors import UsageError, VaelensError
from vaelens.report.cards import LADDER, fitting_sizes
from vaelens.report.colour import palette
from vaelens.report.content import Figure, FiredLatent, Table
from vaelens.report.html import render, write_report

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7 * 7 }}\n&amp;" + os.fsdecode(b"\xff") + "\x00"
HOSTILE_SHOWN = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7 * 7 }}\\n&amp;\\xff\\x00"
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Collects a page's elements and text, and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag: str, css_class: str = "") -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag and css_class in ["", *found.get("class", "").split()]]

    def says(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def urls(style: str) -> list[str]:
    return re.findall(r"url\(([^)]*)\)", style)


def decode(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_hostile_text_is_shown_and_never_run(make_image: Any, make_report: Any) -> None:
    image = make_image(HOSTILE, label=HOSTILE, error=HOSTILE)
    report = make_report(
        image,
        title=HOSTILE,
        lead=HOSTILE,
        summary=((HOSTILE, HOSTILE),),
        settings={HOSTILE: {HOSTILE: HOSTILE}},
        tables=(Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE),),
        notes=(HOSTILE,),
    )
    text = render(report)
    page = Page(text)
    text.encode("utf-8")
    assert "\x00" not in text
    assert len(page.of("script")) == 1
    assert not page.of("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    (card,) = page.of("details", "card")
    assert card["data-name"] == card["data-label"] == card["data-reason"] == HOSTILE_SHOWN
    assert page.says("bdi") == [HOSTILE_SHOWN, HOSTILE_SHOWN]
    assert page.says("h1") == page.says("title") == [HOSTILE_SHOWN]
    # A table and a setting may have several lines.
    assert page.says("td") == [HOSTILE_SHOWN.replace("\\n", "\n")] * 2


def test_nothing_comes_from_elsewhere(make_image: Any, make_report: Any) -> None:
    png = io.BytesIO()
    Image.new("L", (3, 3)).save(png, "PNG")
    text = render(make_report(make_image(), figures=(Figure("f", "c", png.getvalue()),)))
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
        assert all(uri.startswith("data:") for uri in urls(attributes.get("style", "")))
    (style,) = page.says("style")
    assert "@import" not in style
    assert all(uri.startswith("data:") for uri in urls(style))
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", text)
    assert "http://" not in text
    assert "https://" not in text


def test_the_policy_allows_this_script_alone(make_image: Any, make_report: Any) -> None:
    text = render(make_report(make_image()))
    (policy,) = [meta["content"] for meta in Page(text).of("meta") if "http-equiv" in meta]
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_cards_are_sorted_and_carry_what_sorting_and_filters_need(make_image: Any, make_report: Any) -> None:
    images = (
        make_image("b", 1.5, label=None, flagged=None),
        make_image("a", 2.5, flagged=np.True_),
        make_image(
            "broken", float("nan"), image=np.zeros((0, 0), np.uint8), anomaly_map=np.zeros((0, 0)), fired=(), error="cut short"
        ),
        make_image("c", -3.25, flagged=False, label="10"),
    )
    cards = Page(render(make_report(*images))).of("details", "card")
    assert [card["data-name"] for card in cards] == ["a", "b", "c", "broken"]
    assert [card["data-score"] for card in cards] == ["2.5", "1.5", "-3.25", ""]
    assert [card["data-flagged"] for card in cards] == ["yes", "none", "no", "no"]
    assert [card.get("data-label") for card in cards] == ["7", None, "10", "7"]
    assert [card["data-error"] for card in cards] == ["no", "no", "no", "yes"]
    assert len({card["id"] for card in cards}) == 4


def test_filters_count_what_there_is(make_image: Any, make_report: Any) -> None:
    images = [make_image(str(i), float(i), label=str(2 + 8 * (i % 2))) for i in range(5)] + [
        make_image("n", label=None, error="bad")
    ]
    options = Page(render(make_report(*images))).says("option")
    assert "2 (3)" in options
    assert options.index("2 (3)") < options.index("10 (2)")
    assert "no label (1)" in options
    assert "flagged (2)" in options
    assert "not flagged (4)" in options
    assert "with an error (1)" in options


def test_no_filter_is_offered_where_there_is_nothing_to_filter(make_image: Any, make_report: Any) -> None:
    page = Page(render(make_report(make_image(label=None, flagged=None))))
    assert [select["id"] for select in page.of("select")] == ["sort"]


def test_a_card_shows_score_p_value_flag_and_latents_by_z_score(make_image: Any, make_report: Any) -> None:
    page = Page(render(make_report(make_image(score=12.3456, p_value=0.00001, flagged=True))))
    assert page.says("b") == ["12.35", "latent 9", "latent 4"]
    spans = page.says("span")
    assert "p < 0.0001" in spans
    assert "▲ flagged" in spans
    assert spans.index("z-score +6.00") < spans.index("z-score −3.50")
    assert "mean 1.25" in spans


def test_all_maps_share_one_scale(make_image: Any, make_report: Any) -> None:
    """The same value has the same colour in every image's map, and the bar says which value the last colour is."""
    half, full = np.full((2, 2), 2.0), np.full((2, 2), 4.0)
    images = make_image("a", 2.0, anomaly_map=half, fired=()), make_image("b", 1.0, anomaly_map=full, fired=())
    page = Page(render(make_report(*images, map_limit=4.0)))
    maps = [decode(urls(pic["style"])[0]).convert("RGB") for pic in page.of("span", "alone")]
    colours = [
        sorted(set(shown.get_flattened_data() if hasattr(shown, "get_flattened_data") else shown.getdata())) for shown in maps
    ]
    assert colours[1] == [tuple(palette()[255].tolist())]
    assert np.abs(np.array(colours[0][0], int) - palette()[128]).max() <= 3
    assert page.says("span").count("≥ 4") == 3


def test_scales_default_to_the_percentile_over_all_images(make_image: Any, make_report: Any) -> None:
    values = np.arange(1.0, 1001.0)
    first = make_image("a", anomaly_map=values[:500].reshape(20, 25), fired=(FiredLatent(0, 5.0, 1.0, np.full((2, 2), 3.0)),))
    second = make_image("b", anomaly_map=values[500:].reshape(20, 25), fired=())
    spans = Page(render(make_report(first, second))).says("span")
    assert "≥ 995" in spans
    assert "≥ 3" in spans


def test_a_hot_corner_of_the_map_lies_over_that_corner_of_the_image(make_image: Any, make_report: Any) -> None:
    hot = np.zeros((7, 7))
    hot[0, -1] = 1.0
    (card,) = Page(render(make_report(make_image(anomaly_map=hot, fired=())))).of("details", "card")
    image, layer = (decode(uri) for uri in urls(card["style"]))
    assert image.size == (28, 28)
    alpha = np.asarray(layer.convert("RGBA"))[:, :, 3]
    assert layer.size[0] == layer.size[1] > 28
    assert alpha[0, -1] == round(0.85 * 255)
    assert alpha[0, 0] == alpha[-1, 0] == alpha[-1, -1] == 0
    assert "--ratio:28/28" in card["style"]


def test_tall_images_keep_their_proportions(make_image: Any, make_report: Any) -> None:
    page = Page(render(make_report(make_image(image=np.zeros((120, 30, 3), np.uint8)))))
    (card,) = page.of("details", "card")
    assert "--ratio:30/120;--share:25%" in card["style"]
    assert not page.of("span", "pixelated")


def test_small_images_are_drawn_as_squares(make_image: Any, make_report: Any) -> None:
    assert Page(render(make_report(make_image()))).of("span", "pixelated")


def test_reconstructions_may_be_floats(make_image: Any, make_report: Any) -> None:
    page = Page(render(make_report(make_image(reconstruction=np.full((28, 28), 0.5, np.float32)))))
    shown = decode(urls(page.of("span", "alone")[0]["style"])[0])
    assert np.asarray(shown).tolist() == [[128] * 28] * 28


def test_tables_set_numbers_right_and_escape_nothing_twice(make_report: Any) -> None:
    table = Table("AUROC & AP", ("digit", "AUROC"), (("1 < 2", 0.8), ("b", 0.91)), "a note")
    page = Page(render(make_report(tables=(table,), settings={})))
    assert page.says("td") == ["1 < 2", "0.80", "b", "0.91"]
    assert len(page.of("td", "number")) == 2
    assert page.says("caption") == ["AUROC & AP"]


def test_an_empty_report_is_a_page(make_report: Any) -> None:
    page = Page(render(make_report(summary=(), settings={}, title="Nothing")))
    assert page.says("h1") == ["Nothing"]
    assert not page.of("section")


def test_of_many_images_the_report_says_what_is_left_out(make_image: Any, make_report: Any) -> None:
    text = render(make_report(*(make_image(str(i), float(i), fired=()) for i in range(30))), most=10, seed=5)
    page = Page(text)
    assert len(page.of("details", "card")) == 10
    assert (
        "The gallery shows 10 of 30 images: the 8 with the highest scores and 2 drawn at random from the others (seed 5)."
        in page.says("p")
    )


def test_the_same_report_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from vaelens.report.content import *
from vaelens.report.html import write_report
maps = np.random.default_rng(0).random((8, 7, 7))
images = tuple(ReportImage(f"{i}.png", (m * 255).astype(np.uint8), float(m.sum()), None, None, "ab"[i % 2], m,
    (FiredLatent(i, 4.0, 1.0, m),), None, None) for i, m in enumerate(maps))
write_report(Report("t", "l", (), {"s": {"b", "a", "c"}}, (), (), images, None, ()), sys.argv[1])
"""
    files = [tmp_path / "one.html", tmp_path / "two.html"]
    for seed, file in enumerate(files):
        subprocess.run([sys.executable, "-c", code, str(file)], check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)})
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path) not in files[0].read_text(encoding="utf-8")


def test_many_large_images_stay_within_the_budget(make_image: Any, make_report: Any) -> None:
    """500 cards of noise, which no file format makes smaller, with five latents each."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (192, 256), dtype=np.uint8) for _ in range(5)]
    grids = rng.random((5, 16, 16))
    fired = tuple(FiredLatent(i, 4.0, 1.0, grid) for i, grid in enumerate(grids))
    images = [make_image(f"{i}", float(i), image=pictures[i % 5], anomaly_map=grids[i % 5], fired=fired) for i in range(500)]
    start = time.perf_counter()
    text = render(make_report(*images))
    took = time.perf_counter() - start
    assert len(text) < 15_500_000
    assert took < 30
    page_notes = re.findall(r"Images are embedded at (\d+) pixels", text)
    assert len(page_notes) == 1
    assert 64 <= int(page_notes[0]) < 256


def test_few_images_are_embedded_as_finely_as_they_are(make_image: Any) -> None:
    image = make_image(image=np.zeros((256, 256), np.uint8))
    assert fitting_sizes([image], 1.0, 1.0, 10_000_000) == LADDER[0]
    assert fitting_sizes([image], 1.0, 1.0, 10) == LADDER[-1]
    assert fitting_sizes([], 1.0, 1.0, 10) == LADDER[0]


def test_writing_makes_folders_and_replaces(tmp_path: Path, make_report: Any) -> None:
    target = tmp_path / "new" / "deep" / "report.html"
    assert write_report(make_report(title="old"), target) == target
    write_report(make_report(title="new"), target)
    assert "<h1>new</h1>" in target.read_text(encoding="utf-8")
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, make_report: Any) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    target = tmp_path / "file" / "report.html"
    with pytest.raises(VaelensError, match="cannot write the report to") as caught:
        write_report(make_report(), target)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_path_that_is_a_folder_is_misuse(tmp_path: Path, make_report: Any) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        write_report(make_report(), tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process's file size are POSIX")
def test_a_disk_that_is_full_leaves_the_old_report_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")
    code = """
import resource, sys
from vaelens.errors import VaelensError
from vaelens.report.content import Report
from vaelens.report.html import write_report
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_report(Report("t", "x" * 9000, (), {}, (), (), (), None, ()), sys.argv[1])
except VaelensError as error:
    print(error, end="")
    sys.exit(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"cannot write the report to {target}: File too large")
    assert "\n" not in done.stdout
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text(encoding="utf-8") == "old"


def test_importing_the_report_loads_no_heavy_package() -> None:
    code = "import sys, vaelens.report.html; print(sorted({'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_real_digits_come_back_as_they_were(real_data: Path, make_image: Any, make_report: Any) -> None:
    with gzip.open(real_data / "mnist" / "t10k-images-idx3-ubyte.gz") as stream:
        digits = np.frombuffer(stream.read(16 + 20 * 784), np.uint8, offset=16).reshape(20, 28, 28)
    images = [
        make_image(f"{i}.png", float(i), image=digit, anomaly_map=digit[::4, ::4] / 255) for i, digit in enumerate(digits)
    ]
    cards = Page(render(make_report(*images))).of("details", "card")
    for card, digit in zip(cards, digits[::-1], strict=True):
        assert (np.asarray(decode(urls(card["style"])[0])) == digit).all()
