from __future__ import annotations

import math
import os
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaelens.report.wording import cell, column, flat_settings, number, one_line, p_value, printable, shorten, signed

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)


def test_a_file_name_that_is_not_utf8_shows_its_bytes() -> None:
    assert one_line(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("a\tb\r", "a\\tb\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("nul\x00", "nul\\x00"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("Straße 日本 🙂", "Straße 日本 🙂"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(ANY_TEXT)
def test_every_text_becomes_one_line_that_encodes(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    printable(text).encode("utf-8")
    assert one_line(shown) == shown


def test_printable_keeps_paragraphs() -> None:
    assert printable("a\nb\tc\x07") == "a\nb\tc\\x07"


@given(ANY_TEXT, st.integers(3, 30))
def test_shorten_is_never_longer_and_keeps_both_ends(text: str, most: int) -> None:
    line, short = one_line(text), shorten(text, most)
    assert len(short) <= most
    if len(line) <= most:
        assert short == line
    else:
        head, tail = short.split("…")[0], short[len(short) - 1]
        assert line.startswith(head)
        assert line.endswith(tail)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.23456, "1.235"), (-2.5, "−2.5"), (1e9, "1e+09"), (float("nan"), "–"), (123456.0, "1.235e+05")],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_signed_keeps_a_score_below_the_threshold_apart_from_it() -> None:
    assert [signed(v) for v in (2.99, 3.0, -3.456, 12345.0, math.nan)] == ["+2.99", "+3.00", "−3.46", "+1.23e+04", "–"]


def test_p_values() -> None:
    assert p_value(0.012345) == "p = 0.012"
    assert p_value(0.0) == "p < 0.0001"
    assert p_value(1.0) == "p = 1"


def test_cells() -> None:
    values: list[object] = [None, True, np.False_, 7, -12345, np.float32(0.5), "x", (1, 2), [], {"b", "a"}]
    assert [cell(value) for value in values] == ["–", "yes", "no", "7", "−12,345", "0.5", "x", "1, 2", "–", "a, b"]


def test_a_column_of_fractions_has_one_number_of_decimals() -> None:
    assert column([0.8, 0.81, 0.9996, float("nan"), None, 3]) == ["0.8000", "0.8100", "0.9996", "–", "–", "3"]
    assert column([1.0, -2.0]) == ["1", "−2"]
    assert column([1e-7, 0.5]) == ["1e−07", "0.5"]


def test_settings_are_flat_and_exact() -> None:
    settings = {
        "data": {"normal": 1, "root": PurePosixPath("mnist")},
        "lr": 1e-3,
        "seeds": (1, 2),
        "layer": None,
        "amp": False,
        "none": {},
    }
    assert list(flat_settings(settings)) == [
        ("data.normal", "1"),
        ("data.root", "mnist"),
        ("lr", "0.001"),
        ("seeds", "1, 2"),
        ("layer", "none"),
        ("amp", "false"),
        ("none", "–"),
    ]
    assert dict(flat_settings({"big": 123456789, "fine": 0.123456789}))["fine"] == "0.123456789"
    assert dict(flat_settings({"big": 123456789}))["big"] == "123456789"
