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
