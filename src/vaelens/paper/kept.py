"""A run's figures on the test images, kept in OUT/results as each localizer is measured: a stop loses next to nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelens._version import __version__
from vaelens.output import write_json, writing
from vaelens.paper.asked import Asked
from vaelens.runs import Run
from vaelens.runs.data import load_defects
from vaelens.runs.folder import MODEL
from vaelens.scoring.localization import evaluate_localization

FOLDER = "results"
_KEY = "localizers"


@dataclass(frozen=True)
class Measured:
    """What was measured of a run.

    Attributes:
        dataset: such as "mvtec/screw".
        seed: of the run.
        size: (height, width) in pixels of its images, maps and masks.
        settings: how the run was made.
        localizers: the figures by localizer, as `vaelens evaluate --json` prints them, and `detail`: what is to be said of how
            it was used here, or None.
    """

    dataset: str
    seed: int
    size: tuple[int, int]
    settings: Mapping[str, Any]
    localizers: Mapping[str, Mapping[str, Any]]


def measured(run: Run, localizers: Sequence[str], out: Path, asked: Asked) -> Measured:
    """The figures of a run's localizers: those that OUT/results has of these very weights and data, the others measured now.

    Raises:
        UsageError: a localizer that the run does not allow, or no test images.
        DataError: files of the data set that are missing or damaged.
    """
    config = run.config
    category = config.dataset["category"]
    dataset = config.dataset["name"] + (f"/{category}" if category else "")
    path, of, found = kept(run, out, asked.root, _KEY)
    split = None
    for number, spec in enumerate(localizers, start=1):
        if spec in found:
            continue
        if split is None:
            split = load_defects(config, asked.root)
        asked.tell(f"{run.path.name}: measuring {spec} ({number} of {len(localizers)})")
        result = evaluate_localization(run, split, [spec]).localizers[spec]
        found[spec] = {**result.to_dict(), "detail": getattr(run.localizer(spec), "detail", None)}
        keep(path, of, _KEY, found)
    height, width = run.input_shape[1:]
    chosen = {spec: found[spec] for spec in localizers}
    return Measured(dataset, config.dataset["seed"], (height, width), run.settings(), chosen)


def kept(run: Run, out: Path, root: Path | None, key: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The file of a run's figures, what they are figures of, and those that are there.

    Args:
        run: whose.
        out: the folder that has them in `results`.
        root: of the data set, where one was given.
        key: under which they lie in the file.
    """
    with (run.path / MODEL).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    folder = root or run.config.dataset["root"]
    of = {"weights": weights, "root": None if folder is None else str(Path(folder).resolve()), "vaelens": __version__}
    path = out / FOLDER / f"{run.path.resolve().name}-{weights[:8]}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = dict(content[key]) if content["of"] == of else {}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: measured again
        found = {}
    return path, of, found


def keep(path: Path, of: Mapping[str, Any], key: str, found: Mapping[str, Any]) -> None:
    """Write a run's figures, whole."""
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    write_json(path, {"of": of, key: found}, durable=True)
