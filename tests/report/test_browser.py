"""The report in a real browser: what the script does, and what a person sees without it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaelens.report.html import write_report

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = '"><img src=x onerror="document.title=1">'


def executable() -> str | None:
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs the package playwright")
    path = executable()
    if path is None:
        pytest.skip("the browser test needs Chromium or Chrome on the PATH")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory, make_image: Any, make_report: Any) -> Path:
    hot = np.zeros((7, 7))
    hot[0, -1] = 1.0
    black = np.zeros((28, 28), np.uint8)
    stripes = np.tile(np.array([0, 255], np.uint8), (28, 14))
    images = [
        make_image("img10.png", 1.0, label="7"),
        make_image("img2.png", 3.0, label="1"),
        make_image("img1.png", 2.0, label=None, flagged=None, image=stripes, reconstruction=black),
        make_image("corner.png", 5.0, label="1", image=black, anomaly_map=hot),
        make_image(HOSTILE, -1.0, label="10"),
        make_image(
            "broken.png",
            float("nan"),
            p_value=None,
            flagged=None,
            label=None,
            image=np.zeros((0, 0), np.uint8),
            anomaly_map=np.zeros((0, 0)),
            fired=(),
            error="truncated file",
        ),
    ]
    file = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(make_report(*images, map_limit=1.0, title="Browser test"), file)


class Opened:
    """A page, with everything it complained about or asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def names(self) -> list[str]:
        """The names of the visible cards from first to last."""
        cards = self.page.locator(".card:visible")
        return [card.get_attribute("data-name") or "" for card in cards.all()]

    def count(self) -> str:
        return str(self.page.locator("#count").inner_text())

    def picture(self, selector: str) -> np.ndarray[Any, Any]:
        shot = self.page.locator(selector).first.screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int)


@pytest.fixture
def opened(browser: Any, report_file: Path) -> Iterator[Opened]:
    found = Opened(browser, report_file)
    yield found
    found.context.close()
    # Whatever a test does, nothing is fetched, nothing fails, and no name is run.
    assert found.messages == []
    assert [url for url in found.requests if not url.startswith(("data:", report_file.as_uri()))] == []


def test_sorting(opened: Opened) -> None:
    assert opened.names() == ["corner.png", "img2.png", "img1.png", "img10.png", HOSTILE, "broken.png"]
    opened.page.select_option("#sort", "score-up")
    assert opened.names() == [HOSTILE, "img10.png", "img1.png", "img2.png", "corner.png", "broken.png"]
    opened.page.select_option("#sort", "name")
    assert opened.names() == [HOSTILE, "broken.png", "corner.png", "img1.png", "img2.png", "img10.png"]
    opened.page.click("button[type=reset]")
    opened.page.wait_for_function("document.querySelector('.card').dataset.name === 'corner.png'")
    assert opened.page.title() == "Browser test"


def test_filters_and_their_count(opened: Opened) -> None:
    assert opened.count() == "6 of 6 images"
    opened.page.fill("#text", "IMG1")
    assert opened.names() == ["img1.png", "img10.png"]
    assert opened.count() == "2 of 6 images"
    opened.page.fill("#text", "truncated")
    assert opened.names() == ["broken.png"]
    opened.page.fill("#text", "no such name")
    assert opened.count() == "0 of 6 images"
    assert opened.page.locator("#none").is_visible()
    opened.page.fill("#text", "")
    opened.page.select_option("#label", "=1")
    assert opened.names() == ["corner.png", "img2.png"]
    opened.page.select_option("#label", "none")
    assert opened.names() == ["img1.png", "broken.png"]
    opened.page.select_option("#state", "no")
    assert opened.names() == ["img1.png"]
    opened.page.click("button[type=reset]")
    opened.page.wait_for_function("document.getElementById('count').textContent === '6 of 6 images'")
    for choice, expected in {"yes": 2, "no": 2, "none": 2}.items():
        opened.page.select_option("#flag", choice)
        assert len(opened.names()) == expected


def test_a_filter_and_a_sort_go_together(opened: Opened) -> None:
    opened.page.select_option("#flag", "yes")
    opened.page.select_option("#sort", "name")
    assert opened.names() == ["corner.png", "img2.png"]
    opened.page.select_option("#sort", "score-up")
    assert opened.names() == ["img2.png", "corner.png"]


def test_details_open_by_keyboard_and_by_click(opened: Opened) -> None:
    page = opened.page
    first, second = page.locator(".card").nth(0), page.locator(".card").nth(1)
    assert not first.locator(".panel").is_visible()
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.locator(".panel").is_visible()
    assert first.locator(".latents figure").count() == 2
    assert first.locator(".scale").count() == 2
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert second.locator(".panel").is_visible()
    page.keyboard.press("Escape")
    assert not second.locator(".panel").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert not first.locator(".panel").is_visible()
    second.locator("summary").click()
    assert second.locator(".panel").is_visible()


def test_arrows_skip_what_a_filter_hides(opened: Opened) -> None:
    opened.page.select_option("#label", "=1")
    opened.page.locator(".card:visible summary").first.focus()
    opened.page.keyboard.press("ArrowRight")
    name = opened.page.evaluate("document.activeElement.parentElement.dataset.name")
    assert name == "img2.png"
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.evaluate("document.activeElement.parentElement.dataset.name") == "img2.png"


def test_the_map_lies_over_its_corner_and_fades_with_its_strength(opened: Opened) -> None:
    shown = opened.picture("#image-0 summary .pic")
    height, width = shown.shape[:2]
    assert abs(height - width) <= 1
    # The hot cell is the upper right seventh: yellow of viridis at 85 % over black.
    assert np.abs(shown[height // 28, -width // 28] - [215, 196, 31]).max() < 25
    assert shown[height // 28, width // 28].max() < 10
    assert shown[-height // 28, -width // 28].max() < 10
    # Half way from the centre of the hot cell to that of its cold neighbour the value is a half, as bilinear has it.
    half = shown[height // 28, width - round(width / 7)]
    assert np.abs(half - np.array([32, 144, 140]) * 0.6375).max() < 25
    opened.page.locator("#strength").evaluate(
        "node => { node.value = 0; node.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    # The outermost pixels may be shared with the card around the picture.
    assert opened.picture("#image-0 summary .pic")[2:-2, 2:-2].max() < 10


def test_small_images_have_sharp_pixels(opened: Opened) -> None:
    """Stripes of one pixel stay black and white; only the screen pixels on an edge may lie between."""
    opened.page.locator("#image-2 summary").click()
    plain = opened.picture("#image-2 .panel .plain")[2:-2, 2:-2, 0]
    assert ((plain < 5) | (plain > 250)).mean() > 0.8


@pytest.mark.parametrize("width", [320, 1400])
def test_nothing_sticks_out_of_the_screen(browser: Any, report_file: Path, width: int) -> None:
    found = Opened(browser, report_file, viewport={"width": width, "height": 800})
    for at in (0, 2, 4):
        found.page.locator(f"#image-{at} summary").click()
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    found.context.close()
    assert found.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Any, report_file: Path, scheme: str) -> None:
    """WCAG's contrast of 4.5 to 1, for the text, the small print and the badges."""
    found = Opened(browser, report_file, color_scheme=scheme)
    pairs = found.page.evaluate(
        """() => [["body", "body"], [".p", ".card"], ["#image-0 .alarm", "#image-0 .alarm"], ["nav a", "body"]].map(
            ([front, back]) => [
                getComputedStyle(document.querySelector(front)).color,
                getComputedStyle(document.querySelector(back)).backgroundColor,
            ])"""
    )
    found.context.close()

    def luminance(colour: str) -> float:
        channels = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for front, back in pairs:
        light, dark = sorted([luminance(front), luminance(back)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)
    assert (luminance(pairs[0][1]) < 0.1) == (scheme == "dark")


def test_without_script_the_gallery_is_there_and_opens(browser: Any, report_file: Path) -> None:
    found = Opened(browser, report_file, java_script_enabled=False)
    assert found.names() == ["corner.png", "img2.png", "img1.png", "img10.png", HOSTILE, "broken.png"]
    assert not found.page.locator("#controls").is_visible()
    assert found.count() == "6 images, highest score first"
    found.page.locator("#image-1 summary").click()
    assert found.page.locator("#image-1 .panel").is_visible()
    found.context.close()


def test_it_prints(browser: Any, report_file: Path) -> None:
    found = Opened(browser, report_file)
    found.page.emulate_media(media="print")
    assert not found.page.locator("#controls").is_visible()
    assert found.page.locator("#image-0 summary").is_visible()
    assert found.page.pdf().startswith(b"%PDF")
    found.context.close()


def test_scores_that_are_infinite_are_the_highest_and_the_lowest(
    browser: Any, make_image: Any, make_report: Any, tmp_path: Path
) -> None:
    scores = {"c": 3.0, "inf": float("inf"), "minus": float("-inf"), "none": float("nan"), "huge": 1e300, "zero": 0.0}
    write_report(make_report(*(make_image(name, score) for name, score in scores.items())), tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    names = "Array.from(document.querySelectorAll('.card'), card => card.dataset.name)"
    assert page.evaluate(names) == ["inf", "huge", "c", "zero", "minus", "none"]
    page.select_option("#sort", "score-up")
    assert page.evaluate(names) == ["minus", "zero", "c", "huge", "inf", "none"]
    page.close()
