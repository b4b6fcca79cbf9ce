"""Which of several first weights a run goes on with: the ones with the least objective after a first epoch.

The objective is that of training with its last weights but for the attention loss, and its total correlation is taken from the
posteriors of many images and not from a discriminator, which sees little of it. Nothing that is known of the images is used,
neither factors nor labels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vaelens.data.factors import Drawable
from vaelens.data.files import shown
from vaelens.data.images import to_float
from vaelens.errors import RunError
from vaelens.metrics.aggregate import kl_parts
from vaelens.models import ConvVAE
from vaelens.objectives import kl_per_latent, reconstruction_error, reparameterize
from vaelens.output import write_json, writing
from vaelens.runs.config import first_line
from vaelens.training.settings import TrainSettings

if TYPE_CHECKING:
    from vaelens.training.batches import Images

FOLDER = "starts"
FILE = "starts.json"
_IMAGES = 32_768
_RECONSTRUCTED = 4_096
_AT_ONCE = 64


def go_on_from_best(
    out: Path,
    train: Images | Drawable,
    held_out: Images | None,
    settings: TrainSettings,
    made: Callable[[int], ConvVAE],
    module: Callable[..., Any] | None = None,
    progress: bool = True,
    notice: Callable[[str], None] | None = None,
) -> TrainSettings:
    """Train each start for an epoch in OUT/starts, and put the checkpoint of the best where the run goes on from.

    Stopped at any moment, the same call goes on; once the choice is made it stays.

    Args:
        out: folder of the run.
        train: what is trained on.
        held_out: what is measured on in training, if anything.
        settings: of the run, with the number of starts; the first has the run's own seed.
        made: makes a model with first weights from a seed.
        module: see `fit`.
        progress: show the progress of training.
        notice: called with a line on what was chosen.

    Returns:
        The settings with the seed of the start that was chosen.

    Raises:
        TrainingError, TrainingInterrupted, RunError: see `fit`.
    """
    from vaelens.training.batches import derived_seed
    from vaelens.training.fit import CHECKPOINT, fit

    chosen = out / FILE
    if chosen.is_file():
        shutil.rmtree(out / FOLDER, ignore_errors=True)  # where the process was killed right after the choice
        return replace(settings, seed=_seed_of(chosen))
    seeds = [settings.seed, *(derived_seed(settings.seed, "start", start) for start in range(1, settings.starts))]
    found = []
    for start, seed in enumerate(seeds):
        model, folder = made(seed), out / FOLDER / str(start)
        ours = replace(settings, seed=seed, checkpoint_every=1)
        fit(model, train, held_out, ours, folder, resume=True, progress=progress, module=module, until=1)
        found.append(_measured(model, train, settings))
    best = min(range(settings.starts), key=lambda start: found[start]["objective"])
    with writing(out):
        for name in (CHECKPOINT.parent, Path("logs")):
            shutil.copytree(out / FOLDER / str(best) / name, out / name, dirs_exist_ok=True)
    listed = [{"seed": seed, **measured} for seed, measured in zip(seeds, found, strict=True)]
    write_json(chosen, {"seed": seeds[best], "start": best, "starts": listed})
    with writing(out):
        shutil.rmtree(out / FOLDER)
    if notice is not None:
        objectives = ", ".join(f"{one['objective']:.1f}" for one in found)
        notice(f"of {len(found)} starts, with objectives of {objectives} nats, number {best + 1} goes on")
    return replace(settings, seed=seeds[best])


def _seed_of(path: Path) -> int:
    """The seed of the start that was chosen."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{shown(path)} is damaged ({first_line(error)}); train the run again") from error


def _measured(model: ConvVAE, train: Images | Drawable, settings: TrainSettings) -> dict[str, float]:
    """The objective and its terms, nats per image, on at most 32,768 training images drawn at random."""
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    if isinstance(train, Drawable):
        indices = train.draw(_IMAGES, generator)
    else:
        indices = torch.randperm(len(train.images), generator=generator)[:_IMAGES]
    codes, errors = [], []
    with torch.inference_mode():
        for number, some in enumerate(torch.split(indices, _AT_ONCE)):
            batch = train.take(some) if isinstance(train, Drawable) else to_float(train.images[some])
            mean, logvar = model.encode(batch)
            codes.append((mean, logvar))
            if number * _AT_ONCE < _RECONSTRUCTED:
                logits = model.decode_logits(reparameterize(mean, logvar, generator))
                errors.append(reconstruction_error(logits, batch, settings.likelihood))
    mean, logvar = (torch.cat(each).float() for each in zip(*codes, strict=True))
    parts = kl_parts(mean, logvar)
    found = {
        "reconstruction": float(torch.cat(errors).mean()),
        "kl": float(kl_per_latent(mean, logvar).sum(1).mean()),
        "total_correlation": parts.total_correlation,
        "total_correlation_standard_error": parts.total_correlation_error,
    }
    weighed = settings.kl_weight * found["kl"] + (settings.gamma or 0.0) * found["total_correlation"]
    return {"objective": found["reconstruction"] + weighed, **found}
