"""Runs trained one after the other, with word of how long that will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vaelens.paper.asked import Asked
from vaelens.paper.estimate import announce
from vaelens.paper.trained import Recipe, check_agrees, trained
from vaelens.runs import Run
from vaelens.training.device import pick_device


def runs_of(recipes: Sequence[Recipe], out: Path, asked: Asked) -> Iterator[Run]:
    """The runs, each trained when its turn comes; first the person is told how long all will take.

    Raises:
        UsageError: a run in OUT/runs that was trained otherwise.
    """
    for recipe in recipes:  # before hours have gone by
        check_agrees(recipe, out, asked)
    announce(recipes, out, asked)
    for number, recipe in enumerate(recipes, start=1):
        asked.tell(f"run {number} of {len(recipes)}: {recipe.folder(out)}")
        yield trained(recipe, out, asked).to(pick_device("auto"))
