"""What is in what an encoder returned, whatever it is: by name, by key, and in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vaelens.errors import UsageError

Key: TypeAlias = "int | str | slice | tuple[int | str | slice, ...]"

_AROUND = ("latent", "posterior", "z", "q")


def is_nameless(returned: Any) -> bool:
    """Whether it is a tuple or list whose parts have no names."""
    return isinstance(returned, tuple | list) and not hasattr(returned, "_fields")


def plain(name: str) -> str:
    """A name as it is looked up: z_mean, zMean, mu_z and latent_mu are mean and mu."""
    parts = [part for part in re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_") if part]
    while len(parts) > 1 and parts[0] in _AROUND:
        parts = parts[1:]
    while len(parts) > 1 and parts[-1] in _AROUND:
        parts = parts[:-1]
    return "".join(parts)


def names_of(returned: Any) -> dict[str, Any]:
    """What is in a dict, dataclass, named tuple or object of another kind, by name; nothing of a tensor or a plain tuple."""
    if isinstance(returned, Mapping):
        return {str(key): value for key, value in returned.items()}
    if is_dataclass(returned) and not isinstance(returned, type):
        return {field.name: getattr(returned, field.name, None) for field in fields(returned)}
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    if isinstance(returned, Tensor | tuple | list | str | int | float | type(None)):
        return {}
    if isinstance(returned, torch.distributions.Distribution):
        return {"distribution": returned}
    return (
        {key: value for key, value in vars(returned).items() if not key.startswith("_")}
        if hasattr(returned, "__dict__")
        else {}
    )


def known(returned: Any, names: set[str]) -> dict[str, Any]:
    """Those entries that are tensors under one of the names."""
    return {key: value for key, value in names_of(returned).items() if plain(key) in names and isinstance(value, Tensor)}


def is_distribution(part: Any) -> bool:
    """Whether it is one of torch.distributions, or of a package that builds on it."""
    return isinstance(part, torch.distributions.Distribution)


def gaussian(name: str, given: torch.distributions.Distribution) -> dict[str, Tensor]:
    """Mean and standard deviation of a diagonal Normal.

    Raises:
        UsageError: another distribution.
    """
    base = given
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if not isinstance(base, torch.distributions.Normal):
        raise UsageError(
            f"{name} returns a {type(base).__name__}, and what is explained is the mean of a diagonal Normal; "
            "mean='mean', variance='variance' takes its moments"
        )
    return {"mean": base.loc, "std": base.scale}


def pick(name: str, returned: Any, key: Key) -> Any:
    """What is under a key.

    Raises:
        UsageError: nothing is; the message has what there is.
    """
    steps: list[Any] = []
    for part in key if isinstance(key, tuple) else (key,):
        steps += part.split(".") if isinstance(part, str) else [part]
    at = returned
    for step in steps:
        if isinstance(step, slice):
            if not isinstance(at, Tensor) or at.ndim < 2:
                raise UsageError(f"columns {step.start}:{step.stop} are of a tensor (B, D); {name} returns {told(at)}")
            at = at[:, step]
        elif isinstance(step, int):
            if not isinstance(at, tuple | list) or not -len(at) <= step < len(at):
                raise UsageError(f"{name} returns nothing at index {step}: {told(at)}")
            at = at[step]
        elif isinstance(at, Mapping) and step in at:
            at = at[step]
        elif not isinstance(at, Mapping | Tensor) and _has(at, step):
            at = getattr(at, step)
        else:
            raise UsageError(f"{name} returns no '{step}': {told(at)}")
    return at


def _has(thing: Any, name: str) -> bool:
    try:
        return hasattr(thing, name)
    except NotImplementedError:  # as a distribution without a mean says
        return False


def told(returned: Any) -> str:
    """What was returned, in a few words."""
    if isinstance(returned, Tensor):
        return f"one tensor {tuple(returned.shape)}"
    if is_distribution(returned):
        return f"a distribution {type(returned).__name__}, which has 'mean', 'variance' and 'stddev'"
    if is_nameless(returned):
        parts = ", ".join(f"{index} is {_short(part)}" for index, part in enumerate(returned[:6]))
        return f"a {type(returned).__name__} of {len(returned)} ({parts})"
    names = names_of(returned)
    if names:
        parts = ", ".join(f"'{key}' is {_short(part)}" for key, part in list(names.items())[:6])
        return f"a {type(returned).__name__} ({parts})"
    return f"a {type(returned).__name__}"


def _short(part: Any) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else f"a {type(part).__name__}"


def example(returned: Any) -> str:
    """How to name what lies one in the other, where it does."""
    for name, part in ({} if is_nameless(returned) else names_of(returned)).items():
        if is_distribution(part):
            return f", such as mean='{name}.mean', std='{name}.stddev'"
    for index, part in enumerate(returned if is_nameless(returned) else ()):
        if is_distribution(part):
            return f", such as mean=({index}, 'mean'), std=({index}, 'stddev')"
        if is_nameless(part):
            return f", such as mean=({index}, 0)"
    return ""
