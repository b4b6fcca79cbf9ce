"""What options of the command line hold that Typer does not read by itself: sizes, seeds, latents; and what they are called."""

from __future__ import annotations

import typer

from vaelens.errors import UsageError


def size_of(text: str | None) -> tuple[int, int] | None:
    """Pixels (height, width) of `128` or `128x192`.

    Raises:
        UsageError: names the option and what it takes.
    """
    if text is None:
        return None
    try:
        sides = [int(part) for part in text.lower().split("x")]
        if len(sides) in (1, 2):
            return sides[0], sides[-1]
    except ValueError:
        pass
    raise UsageError(f"--size takes pixels a side such as 128, or HEIGHTxWIDTH such as 128x192, got {text!r}")


def seeds_of(text: str | None) -> list[int] | None:
    """Seeds of `0,1,2`.

    Raises:
        UsageError: names the option and what it takes.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds takes whole numbers such as 0,1,2, got {text!r}") from None


def numbers_of(option: str, text: str | None) -> tuple[float, ...]:
    """Numbers of `10,40`; none of None.

    Raises:
        UsageError: names the option and what it takes.
    """
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers such as 10,40, got {text!r}") from None


def words_of(text: str | None) -> tuple[str, ...]:
    """Words of `random,all`; none of None."""
    return () if text is None else tuple(part.strip() for part in text.split(","))


def key_of(option: str, text: str) -> str | int | slice | tuple[str | int, ...]:
    """Where something is in what an encoder returns: `0`, `mu`, `latent_dist.mean`, `1.0`, or columns `0:10`.

    Raises:
        UsageError: names the option and what it takes.
    """
    try:
        if ":" in text:
            first, last = (int(part) if part.strip() else None for part in text.split(":"))
            return slice(first, last)
    except ValueError:
        raise UsageError(f"{option} takes a name, an index or columns such as 0:10, got {text!r}") from None
    parts = tuple(int(part) if part.isdigit() else part for part in text.split("."))
    return parts[0] if len(parts) == 1 else parts


def pair_of(option: str, text: str | None, by: str) -> tuple[int, int] | None:
    """Two whole numbers of `3,4` or `14x14`; None of None.

    Raises:
        UsageError: names the option and what it takes.
    """
    if text is None:
        return None
    try:
        first, second = (int(part) for part in text.lower().split(by))
    except ValueError:
        raise UsageError(f"{option} takes two whole numbers such as 4{by}6, got {text!r}") from None
    return first, second


def input_shape_of(text: str | None) -> tuple[int, int, int] | None:
    """Channels, height and width of `3x64x64`; None of None.

    Raises:
        UsageError: names the option and what it takes.
    """
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.lower().split("x"))
        if min(channels, height, width) > 0:
            return channels, height, width
    except ValueError:
        pass
    raise UsageError(f"--input takes channels, height and width such as 3x64x64, got {text!r}")


def latents_of(text: str | None) -> str | list[int] | None:
    """Indices of `0,3,7`; `top5` as it is.

    Raises:
        UsageError: names the option and what it takes.
    """
    if text is None or text.startswith("top"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--latents takes indices such as 0,3,7 or top5, got {text!r}") from None


_SHORTER = {
    "latent_dim": "--latents",
    "kl_weight": "--beta",
    "discriminator_learning_rate": "--discriminator-rate",
    "rate_warmup_epochs": "--rate-warmup",
    "rate_cooldown_epochs": "--rate-cooldown",
}


def names_of(app: typer.Typer) -> dict[str, str]:
    """What arguments of several words are called as options: `--held-out` for held_out."""
    commands = getattr(typer.main.get_command(app), "commands", {}).values()
    named = {str(one.name): one.opts[0] for command in commands for one in command.params}
    return {name: option for name, option in named.items() if "_" in name} | _SHORTER
