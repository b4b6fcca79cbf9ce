"""The paper's figures and tables, made anew: one file each, and one line of FIGURES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from vaelens.errors import unknown

if TYPE_CHECKING:
    from vaelens.paper.asked import Asked
    from vaelens.paper.result import Reproduced

    Make = Callable[[Asked, Path], Reproduced]

__all__ = ["FIGURES", "reproduce"]

# The options that each takes beside root, runs, epochs and overwrite. Its module has make(asked, out) -> Reproduced.
FIGURES: dict[str, tuple[str, ...]] = {
    "figure1": ("seed",),
    "figure4": ("seed",),
    "figure5": ("seed", "dataset", "preset"),
    "figure6": ("seed", "categories", "preset"),
    "figure8": ("seeds", "preset", "steps", "gammas", "betas", "ad_weights", "ad_pairs", "ad_rectifiers", "layers", "recipes"),
    "figure9": ("seed", "preset", "steps"),
    "table1": ("seeds", "dataset", "preset"),
    "table2": ("seeds", "categories", "preset"),
    "table3": ("seeds", "preset", "steps", "gammas", "betas", "ad_weights", "ad_pairs", "ad_rectifiers", "layers", "recipes"),
}


def reproduce(
    what: str,
    out: str | Path,
    *,
    root: Path | None = None,
    runs: Sequence[Path] = (),
    epochs: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    dataset: str | None = None,
    categories: Sequence[str] = (),
    steps: int | None = None,
    gammas: Sequence[float] = (),
    betas: Sequence[float] = (),
    ad_weights: Sequence[float] = (),
    ad_pairs: Sequence[str] = (),
    ad_rectifiers: Sequence[str] = (),
    layers: Sequence[str] = (),
    recipes: Sequence[str] = (),
    preset: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    notice: Callable[[str], None] | None = None,
) -> Reproduced:
    """Make a figure or a table of the paper on the real data, training what it needs.

    The runs are trained in OUT/runs and kept, and a table's figures in OUT/results as each is measured: stopped, the same
    call goes on where it was.

    Args:
        what: one of FIGURES: "figure1" and "figure4" (MNIST), "table1" and "figure5" (UCSD), "table2" and "figure6" (MVTec AD),
            "table3", "figure8" and "figure9" (dSprites).
        out: folder to make or go on with.
        root: folder of the data set's files; None: the cache, with a download into it where that is possible.
        runs: folders of trained runs, or of several of them, to use and not train. MNIST: one for each digit that the figure
            needs, the others are trained; else these alone.
        epochs: of training; None: the preset's.
        seed: of a figure's runs: weights, order and noise; None: 0.
        seeds: of a table's runs, whose mean and spread it has; None: 0, 1 and 2, of dSprites in the paper's preset 0 to 4.
        dataset: "ucsd-ped1" or "ucsd-ped2"; None: the one that the root has, Ped1 where it has both.
        categories: of MVTec AD; empty: all that the root has.
        steps: of training on dSprites; None: the preset's.
        gammas: weights of FactorVAE's total correlation, a run for each and each seed; empty: 40.
        betas: weights of beta-VAE's KL divergence, a run for each; empty: 4.
        ad_weights: weights of the attention disentanglement loss, likewise; empty: the default of the objective.
        ad_pairs: pairs of latents that it compares, likewise: "random", "top2", "all"; empty: "all".
        ad_rectifiers: of its maps, likewise: "relu", "abs"; empty: "relu".
        layers: whose maps it compares, likewise, such as "encoder.relu3"; empty: the last feature map.
        recipes: how FactorVAE is trained, with and without that loss, likewise: "published", or "paced", in which the KL weight
            falls from 200 and a discriminator of many batches' codes comes first; empty: "published", for the preset "small"
            "paced".
        preset: "paper", the paper's networks and settings, which None is; "small", a compact network on images of 128x128, or
            15,000 steps on dSprites.
        overwrite: train anew where OUT has runs with other settings.
        progress: show the training's progress.
        notice: called with lines for people, such as the time that training will take.

    Raises:
        UsageError: an unknown figure, an option that it does not take, runs that do not fit it, or an OUT that is a file,
            holds what is not ours, or runs with other settings.
        DataError: files of the data set that are missing or damaged.
        TrainingInterrupted: stopped by a signal; the same call goes on.
    """
    if what not in FIGURES:
        raise unknown("figure or table", what, FIGURES)
    from vaelens.output import own_folder
    from vaelens.paper.asked import Asked
    from vaelens.training.result import TrainingInterrupted

    out = Path(out)
    asked = Asked(
        root=None if root is None else Path(root),
        runs=tuple(run for folder in runs for run in _runs_in(Path(folder))),
        epochs=epochs,
        seed=seed,
        seeds=None if seeds is None else tuple(seeds),
        dataset=dataset,
        categories=tuple(categories),
        steps=steps,
        gammas=tuple(gammas),
        betas=tuple(betas),
        ad_weights=tuple(ad_weights),
        ad_pairs=tuple(ad_pairs),
        ad_rectifiers=tuple(ad_rectifiers),
        layers=tuple(layers),
        recipes=tuple(recipes),
        preset=preset,
        overwrite=overwrite,
        progress=progress,
        notice=notice,
    )
    asked.check_takes(what, FIGURES[what])
    with own_folder(out, f"reproduce {what}"):
        make: Make = import_module(f"vaelens.paper.{what}").make
        try:
            return make(asked, out)
        except TrainingInterrupted as error:
            error.args = (f"{error}; the same call goes on",)
            raise


def _runs_in(folder: Path) -> list[Path]:
    """A run, or the runs that a folder holds."""
    from vaelens.runs.config import CONFIG

    if (folder / CONFIG).is_file() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) or [folder]
