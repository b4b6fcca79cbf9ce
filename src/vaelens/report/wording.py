"""How names and numbers are written in figures and in the report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

import numpy as np

# Control characters, lone surrogates, and marks that reverse the text after them, so that "gnp.exe" reads "exe.png".
_NEVER_SHOWN = r"\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(rf"[\x00-\x08\x0b-\x1f{_NEVER_SHOWN}]")
_UNPRINTABLE_OR_BREAK = re.compile(rf"[\x00-\x1f\u2028\u2029{_NEVER_SHOWN}]")
NOTHING = "–"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    # Python keeps the byte 0xNN of a file name that is not UTF-8 as U+DCNN: show the byte.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return ascii(match.group())[1:-1]


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates spelt out; it keeps tabs and line feeds, and encodes as UTF-8."""
    return _UNPRINTABLE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""`printable`, and line breaks and tabs spelt out too (`a\nb`): for file names, labels and errors."""
    return _UNPRINTABLE_OR_BREAK.sub(_escape, text)


def shorten(text: str, most: int) -> str:
    """`one_line(text)` with its middle left out where it is longer than `most` characters (at least 3)."""
    line = one_line(text)
    if len(line) <= most:
        return line
    head = (most - 1) // 2
    return f"{line[:head]}…{line[len(line) - (most - 1 - head) :]}"


def number(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits; a dash where it is none (NaN)."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.{digits}g}".replace("-", "−")


def signed(value: float) -> str:
    """A z-score: with its sign and two decimals; three significant digits from a thousand on."""
    if math.isnan(value):
        return NOTHING
    return (f"{value:+.2f}" if abs(value) < 1000 else f"{value:+.3g}").replace("-", "−")


def p_value(value: float) -> str:
    """`p = 0.012`, or `p < 0.0001` where four decimals would print zero."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def cell(value: object) -> str:
    """What a table or a setting shows for `value`: numbers with 4 significant digits, whole numbers with thousands apart."""
    if value is None:
        return NOTHING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace("-", "−") if abs(int(value)) >= 10_000 else str(int(value)).replace("-", "−")
    if isinstance(value, (float, np.floating)):
        return number(float(value))
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
        return ", ".join(cell(item) for item in items) if items else NOTHING
    return str(value)


def column(values: Sequence[object]) -> list[str]:
    """The cells of one column. Fractions between 0.001 and 10,000 get as many decimals as the one that needs most, up to 4."""
    fractions = [float(value) for value in values if isinstance(value, (float, np.floating)) and math.isfinite(value)]
    if not fractions or any(value and not 1e-3 <= abs(value) < 1e4 for value in fractions):
        return [cell(value) for value in values]
    decimals = max(len(f"{value:.4g}".partition(".")[2]) for value in fractions)
    return [
        f"{value:.{min(decimals, 4)}f}".replace("-", "−")
        if isinstance(value, (float, np.floating)) and math.isfinite(value)
        else cell(value)
        for value in values
    ]


def is_number(value: object) -> bool:
    """Whether a table sets `value` flush right."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))


def flat_settings(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as (`dotted.name`, value), in the given order; floats in full, since settings are copied from here."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if value:
                yield from flat_settings(value, f"{name}.")
            else:
                yield name, NOTHING
        elif isinstance(value, (bool, np.bool_)):
            yield name, "true" if value else "false"
        elif isinstance(value, (int, float, np.integer, np.floating)):
            yield name, str(value.item() if isinstance(value, np.generic) else value)
        elif value is None:
            yield name, "none"
        elif isinstance(value, PurePath):
            yield name, str(value)
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(text for item in value for _, text in flat_settings({"": item})) or NOTHING
        else:
            yield name, cell(value)
