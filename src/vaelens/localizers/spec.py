"""A localizer as a person names it: its name, and options behind colons, such as `attention:layer=encoder.relu1`."""

from __future__ import annotations

import inspect
from typing import Any

from vaelens.errors import UsageError, unknown

_WORDS = {"none": None, "all": None, "true": True, "false": False}


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `NAME[:OPTION=VALUE]...`.

    Values that look like numbers become numbers, `true` and `false` truth values; `none` and `all` become None, which is how
    `neighbours` names all of them. A `layer` stays a name, and `all` names every one of them.

    Raises:
        UsageError: an option without a value, or one given twice.
    """
    name, *parts = (part.strip() for part in text.split(":"))
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = (one.strip() for one in part.partition("="))
        if not (option and equals and value) or option in options:
            raise UsageError(f"a localizer is named as NAME or NAME:OPTION=VALUE:..., each option once; not {text!r}")
        options[option] = _layer(value) if option == "layer" else _value(value)
    return name, options


def split_specs(text: str) -> list[str]:
    """Several localizers, separated by commas."""
    return [part.strip() for part in text.split(",")]


def options_of(localizer: type) -> tuple[str, ...]:
    """The options that a localizer takes."""
    return tuple(name for name in inspect.signature(localizer).parameters if name != "model")


def check_options(name: str, localizer: type, options: dict[str, Any]) -> None:
    """Refuse options that the localizer has not.

    Raises:
        UsageError: names one, and those there are.
    """
    there = options_of(localizer)
    for option in options:
        if option not in there:
            # Quoted: they are no options of the command line.
            raise unknown(f"option of localizer '{name}'", option, [repr(one) for one in there] or ["none"])


def _layer(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _value(text: str) -> int | float | bool | str | None:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
