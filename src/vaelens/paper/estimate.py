"""How long training will take, from a few steps on this machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vaelens.models import build
from vaelens.paper.asked import Asked
from vaelens.paper.trained import Recipe
from vaelens.runs.config import RunConfig
from vaelens.runs.data import load_split
from vaelens.runs.objective import family_of
from vaelens.training.device import pick_accelerator, pick_precision
from vaelens.training.process import plain_warnings, quiet, unchanged_globals
from vaelens.training.settings import TrainSettings

_STEPS = 4  # the first two are slower


class Noise:
    """Random images to measure with."""

    def __init__(self, shape: Sequence[int], count: int) -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        self.images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        self.names = tuple(f"noise/{i}" for i in range(count))


def announce(recipes: Sequence[Recipe], out: Path, asked: Asked) -> None:
    """Tell the person how long the runs that are not there yet will take, at most and without what measuring them takes."""
    to_do = [recipe for recipe in recipes if not recipe.done(out, asked.root)]
    if not to_do or asked.notice is None:
        return
    asked.tell(f"{len(to_do)} of {len(recipes)} runs are to be trained; reading their images and measuring a step of each kind")
    speeds: dict[tuple[Any, ...], float] = {}
    counts: dict[tuple[Any, ...], int] = {}
    seconds = 0.0
    for recipe in to_do:
        config = recipe.config(asked.root)
        data, training = config.dataset, config.training
        kind = (config.objective, config.network["name"], *config.network["input_shape"], training["batch_size"])
        images = (data["name"], data["category"], str(data["preparation"]))
        if kind not in speeds:
            speeds[kind] = seconds_per_step(config)
        if config.of_factors:
            steps = training["steps_per_epoch"]
        else:
            if images not in counts:
                counts[images] = load_split(config, notice=asked.notice).counts["train"]
            steps = steps_per_epoch(counts[images], training["batch_size"])
        seconds += training["epochs"] * steps * speeds[kind]
    longest = max(speeds.values())
    asked.tell(f"training will take about {spoken(seconds)} on this machine (the slowest step: {longest:.2f} s)")


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches per epoch; the last holds what remains."""
    return -(-images // batch_size)


def seconds_per_step(config: RunConfig) -> float:
    """Seconds for one step of training, on the device and in the precision that training takes: the quickest of a few."""
    with plain_warnings():
        from lightning.pytorch import Callback, Trainer  # takes seconds
        from lightning.pytorch.plugins.environments import LightningEnvironment

        from vaelens.training.module import VAEModule

    settings = TrainSettings.from_dict(config.training)
    accelerator = pick_accelerator(settings.accelerator)
    images = Noise(config.network["input_shape"], _STEPS * settings.batch_size)
    with torch.random.fork_rng(devices=[]):
        model = build(config.network["name"], config.network["latent_dim"], config.network["input_shape"])
    ends: list[float] = []

    class Clock(Callback):  # type: ignore[misc]
        def on_train_batch_end(self, *_: Any) -> None:
            ends.append(time.perf_counter())

    with quiet(), unchanged_globals(accelerator):
        module: Any = (family_of(config).module or VAEModule)(model, settings, images, None)
        trainer = Trainer(
            fast_dev_run=_STEPS,
            accelerator=accelerator,
            devices=1,
            precision=pick_precision(settings.precision, accelerator),
            plugins=[LightningEnvironment()],
            callbacks=[Clock()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, train_dataloaders=module.batches)
    return min(after - before for before, after in itertools.pairwise(ends))


def spoken(seconds: float) -> str:
    """A time for people: `40 s`, `25 min`, `3.5 h`, `4.2 days`."""
    for limit, unit, by in ((90.0, "s", 1.0), (90 * 60.0, "min", 60.0), (36 * 3600.0, "h", 3600.0)):
        if seconds < limit:
            value = seconds / by
            return f"{value:.1f} {unit}" if unit == "h" else f"{max(1, round(value))} {unit}"
    return f"{seconds / 86400:.1f} days"
