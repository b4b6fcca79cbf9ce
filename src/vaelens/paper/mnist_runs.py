"""The one-class MNIST runs that the figures need, trained where they are not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaelens.errors import UsageError
from vaelens.paper.asked import Asked
from vaelens.paper.trained import Recipe, trained
from vaelens.runs import Run, load_run


def runs_for(digits: Sequence[int], out: Path, asked: Asked) -> list[Run]:
    """A run for each digit: one that was given, else that in OUT/runs, trained, resumed or loaded.

    Raises:
        UsageError: a given run of another data set or digit, or one in OUT/runs that was trained otherwise.
    """
    loaded = [load_run(path) for path in asked.runs]
    for run in loaded:
        data = run.config.dataset
        if data["name"] != "mnist" or data["normal"] not in digits:
            wanted = " and ".join(map(str, digits))
            raise UsageError(f"{run.path} is of {data['name']}, digit {data['normal']}; this figure takes mnist, {wanted}")
    digits_given = [run.config.dataset["normal"] for run in loaded]
    if len(set(digits_given)) < len(digits_given):
        raise UsageError(f"give one run for each digit, not several of digit {max(digits_given, key=digits_given.count)}")
    by_digit = {run.config.dataset["normal"]: run for run in loaded}
    return [by_digit.get(digit) or trained(_recipe(digit, asked), out, asked) for digit in digits]


def _recipe(digit: int, asked: Asked) -> Recipe:
    return Recipe(f"mnist-{digit}", "mnist", {"normal": digit, "epochs": asked.epochs, "seed": asked.one_seed})
