"""The runs that the tables and figures of UCSD and MVTec AD need: which, and with what settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vaelens.data.mvtec import CATEGORIES, categories
from vaelens.data.ucsd import FOLDER
from vaelens.errors import DataError, UsageError
from vaelens.paper.asked import VIDEOS, Asked
from vaelens.paper.trained import Recipe
from vaelens.runs import Run, load_run
from vaelens.runs.localizers import in_lines
from vaelens.training.device import pick_device

UCSD: Mapping[str, Mapping[str, Any]] = {
    # Supplementary Table 2: single frames of 100x100.
    "paper": {"network": "ucsd", "size": (100, 100)},
    "small": {"network": "compact", "size": (128, 128)},
}
MVTEC: Mapping[str, Mapping[str, Any]] = {
    # Supplementary Table 3 and its text: 256x256, 300 epochs, every category rotated within 30 degrees and mirrored. The
    # images are taken as they are.
    "paper": {
        "network": "mvtec",
        "size": (256, 256),
        "epochs": 300,
        "augmentation": "rotate30,mirror",
        "brightness": False,
    },
    "small": {"network": "compact", "size": (128, 128)},
}
# The methods compared with have networks, sizes and epochs of their own; the images are made the same way.
COMPARED: Mapping[str, Mapping[str, Any]] = {
    "paper": {"augmentation": "rotate30,mirror", "brightness": False},
    "small": {},
}
OBJECTIVES = ("vae", "ae", "ae-ssim", "anogan")


def ucsd_recipes(seeds: Sequence[int], asked: Asked) -> list[Recipe]:
    """A VAE of the asked video for each seed."""
    dataset = video(asked)
    settings = UCSD[asked.preset_used]
    return [Recipe(f"{dataset}-seed{seed}", dataset, _options(settings, seed, asked)) for seed in seeds]


def mvtec_recipes(seeds: Sequence[int], objectives: Sequence[str], asked: Asked) -> list[Recipe]:
    """A model of each objective for each category and seed."""
    recipes = []
    for category in present(asked):
        for objective in objectives:
            settings = (MVTEC if objective == "vae" else COMPARED)[asked.preset_used]
            for seed in seeds:
                options = {**_options(settings, seed, asked), "category": category, "objective": objective}
                recipes.append(Recipe(f"{category}-{objective}-seed{seed}", "mvtec", options))
    return recipes


def given_runs(asked: Asked, datasets: Sequence[str], objectives: Sequence[str] = ("vae", "beta")) -> list[Run]:
    """The runs that a person gave, of one of these data sets and objectives, and of the asked video or categories.

    Raises:
        UsageError: another run.
        RunError: no run, or a damaged one.
    """
    runs = [load_run(path, pick_device("auto")) for path in asked.runs]
    for run in runs:
        run.fitting = in_lines(asked.tell)
        data = run.config.dataset
        if data["name"] not in datasets or run.config.objective not in objectives:
            raise UsageError(
                f"{run.path} is of {data['name']}, objective {run.config.objective}; this takes {' or '.join(datasets)}, "
                f"objective {' or '.join(objectives)}"
            )
        if asked.dataset not in (None, data["name"]):
            raise UsageError(f"{run.path} is of {data['name']}, not of {asked.dataset}")
        if asked.categories and data["category"] not in asked.categories:
            raise UsageError(f"{run.path} is of category {data['category']}, not of {' or '.join(asked.categories)}")
    return runs


def video(asked: Asked) -> str:
    """The data set asked for, else the one that the root has; Ped1, as in the paper, where it has both or there is no root.

    Raises:
        DataError: the root has neither.
    """
    if asked.dataset is not None or asked.root is None:
        return asked.dataset or VIDEOS[0]
    for name in VIDEOS:
        scene = name.replace("ucsd-ped", "UCSDped")
        folders = (asked.root / FOLDER / scene, asked.root / scene, asked.root)
        if any((folder / "Train").is_dir() and folder.resolve().name == scene for folder in folders):
            return name
    raise DataError(f"{asked.root} has neither {FOLDER}/UCSDped1/Train nor {FOLDER}/UCSDped2/Train; name it by --root")


def present(asked: Asked) -> tuple[str, ...]:
    """The categories asked for, else all of MVTec AD that the root has.

    Raises:
        DataError: the root lacks one that was asked for, or has none.
    """
    root = asked.root
    if root is None:
        from vaelens.data.download import cache_folder

        root = cache_folder("mvtec")
    alone = root.resolve().name
    here = categories(root) or ((alone,) if alone in CATEGORIES and (root / "train" / "good").is_dir() else ())
    if asked.root is not None and (missing := [name for name in asked.categories if name not in here]):
        raise DataError(f"{root} has no {missing[0]}/train/good; it has {', '.join(here) or 'no category of MVTec AD'}")
    if not (here or asked.categories):
        raise DataError(f"{root} has no category of MVTec AD, such as screw/train/good; name the folder by --root")
    return asked.categories or here


def _options(settings: Mapping[str, Any], seed: int, asked: Asked) -> dict[str, Any]:
    """The preset's settings; the person's number of epochs in place of theirs."""
    return {**settings, "seed": seed, **({} if asked.epochs is None else {"epochs": asked.epochs})}
