"""The paper's figures and tables, made anew: one file each, and one line of FIGURES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from vaelens.errors import unknown

if TYPE_CHECKING:
    from vaelens.paper.result import Reproduced
    from vaelens.runs import Run

    Draw = Callable[[Sequence[Run], Path | None, Path], Reproduced]

__all__ = ["FIGURES", "reproduce"]

# Which digits' runs each figure needs. Its module has draw(runs, root, out) -> Reproduced.
FIGURES: dict[str, tuple[int, ...]] = {
    "figure1": (3,),
    "figure4": (1, 3),
}


def reproduce(
    what: str,
    out: str | Path,
    *,
    root: Path | None = None,
    runs: Sequence[Path] = (),
    epochs: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Reproduced:
    """Make a figure of the paper on real MNIST, training what it needs.

    The runs are trained in OUT/runs and kept: stopped, the same call goes on where it was.

    Args:
        what: "figure1" or "figure4".
        out: folder to make or go on with.
        root: folder of MNIST's files; None: the cache, with a download into it.
        runs: folders of trained MNIST runs to use and not train; one for each digit that the figure needs.
        epochs: of training; None: the paper's.
        seed: of weights, order and noise.
        overwrite: train anew where OUT has runs with other settings.
        progress: show the training's progress.

    Raises:
        UsageError: an unknown figure, runs that do not fit it, or an OUT that is a file, holds what is not ours, or runs
            with other settings.
    """
    if what not in FIGURES:
        raise unknown("figure", what, FIGURES)
    from vaelens.output import own_folder
    from vaelens.paper.mnist_runs import runs_for
    from vaelens.training.result import TrainingInterrupted

    out = Path(out)
    with own_folder(out, f"reproduce {what}"):
        try:
            loaded = runs_for(
                FIGURES[what], out, root=root, given=runs, epochs=epochs, seed=seed, overwrite=overwrite, progress=progress
            )
        except TrainingInterrupted as error:
            error.args = (f"{error}; the same call goes on",)
            raise
        draw: Draw = import_module(f"vaelens.paper.{what}").draw
        return draw(loaded, root, out)
