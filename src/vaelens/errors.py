"""The errors a person sees. Each message is one line that names what is wrong and how to mend it.

The command line prints the message alone and exits with `exit_code`: 2 for misuse (a wrong option, name or shape), 1 for a
failure that the caller could not have known (a broken file, a full disk).
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable


class VaelensError(Exception):
    """Base of every error that vaelens raises on purpose."""

    exit_code = 1


class UsageError(VaelensError, ValueError):
    """An option, a name, a shape or a setting that cannot be used. Exit code 2."""

    exit_code = 2


class DataError(VaelensError):
    """A file or folder whose content is not what it should be. Exit code 1."""


class RunError(VaelensError):
    """A run folder that is incomplete, damaged, in use or from another version. Exit code 1."""


class TrainingError(VaelensError):
    """Training that cannot go on, for instance because the loss is no number. Exit code 1."""


def unknown(kind: str, name: object, choices: Iterable[object]) -> UsageError:
    """The error for a name that is not among `choices`: `unknown layer 'conv9'; there are: conv1, conv2`."""
    return UsageError(f"unknown {kind} {name!r}; there are: {', '.join(str(c) for c in choices)}")


def brief(value: object) -> str:
    """A value for a message: one line, however large it is."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def whole(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number of whatever integer type as an int.

    Raises:
        UsageError: it is none, a truth value, below `least` or above `most`; such as
            `latent_dim must be a whole number from 1 on, got 2.5`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = None
    if number is None or number < least:
        raise UsageError(f"{name} must be a whole number from {least} on, got {brief(value)}")
    if most is not None and number > most:
        raise UsageError(f"{name} must be at most {most}, got {brief(number)}")
    return number


def truth(name: str, value: object) -> bool:
    """True or False as it is.

    Raises:
        UsageError: it is neither, such as `brightness must be true or false, got 'no'`.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, got {brief(value)}")
    return value
