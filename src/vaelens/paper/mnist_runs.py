"""The one-class MNIST runs that the figures need, trained where they are not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError
from vaelens.oneclass import train_run
from vaelens.run_config import CONFIG, RunConfig
from vaelens.runs import Run, load_run
from vaelens.training import TrainSettings


def runs_for(
    digits: Sequence[int],
    out: Path,
    *,
    root: Path | None,
    given: Sequence[Path],
    epochs: int | None,
    seed: int,
    overwrite: bool,
    progress: bool,
) -> list[Run]:
    """A run for each digit: one that was given, else that in OUT/runs, trained, resumed or loaded.

    Raises:
        UsageError: a given run of another data set or digit, or one in OUT/runs that was trained otherwise.
    """
    loaded = [load_run(path) for path in given]
    for run in loaded:
        data = run.config.dataset
        if data["name"] != "mnist" or data["normal"] not in digits:
            wanted = " and ".join(map(str, digits))
            raise UsageError(f"{run.path} is of {data['name']}, digit {data['normal']}; this figure takes mnist, {wanted}")
    digits_given = [run.config.dataset["normal"] for run in loaded]
    if len(set(digits_given)) < len(digits_given):
        raise UsageError(f"give one run for each digit, not several of digit {max(digits_given, key=digits_given.count)}")
    by_digit = {run.config.dataset["normal"]: run for run in loaded}
    return [by_digit.get(d) or _trained(d, out, root, epochs, seed, overwrite, progress) for d in digits]


def _trained(digit: int, out: Path, root: Path | None, epochs: int | None, seed: int, overwrite: bool, progress: bool) -> Run:
    folder = out / "runs" / f"mnist-{digit}"
    resume = (folder / CONFIG).is_file()
    if resume:
        there = RunConfig.load(folder).training
        wanted = TrainSettings.for_network("mnist", **({} if epochs is None else {"epochs": epochs}), seed=seed).to_dict()
        if dict(there) != wanted:
            if not overwrite:
                raise UsageError(f"{folder} was trained with other settings; choose another --out, or pass --overwrite")
            resume = False
    settings: dict[str, Any] = {} if resume else {"epochs": epochs, "seed": seed}
    return train_run(
        folder,
        "mnist",
        normal=digit,
        root=root,
        resume=resume,
        overwrite=overwrite and not resume,
        progress=progress,
        **settings,
    )
