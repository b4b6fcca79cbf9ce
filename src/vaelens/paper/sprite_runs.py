"""The runs that Table 3 and Figures 8 and 9 need, on dSprites: which, with what settings, and what they are called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError
from vaelens.paper.asked import SEEDS, Asked
from vaelens.paper.queue import runs_of
from vaelens.paper.trained import Recipe
from vaelens.runs import Run, load_run
from vaelens.runs.objective import AD_WEIGHT
from vaelens.runs.recipes import LEARNING_RATE, PACED, PUBLISHED, cooldown_of, otherwise_than_paced
from vaelens.training.device import pick_device
from vaelens.training.settings import GAMMA, STEPS_PER_EPOCH, TrainSettings, steps_of

DATASET = "dsprites"
OBJECTIVES = ("vae", "beta", "factor", "ad-beta", "ad-factor")
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # FactorVAE's: Adam, 1e-4, 300,000 steps, no warm-up; and 10 latents, as the figures that others report for gamma 40 are of.
    "paper": {"steps": 300_000, "learning_rate": 1e-4},
    # Ours, for an evening on two cores.
    "small": {"steps": 15_000, "learning_rate": LEARNING_RATE},
}
_SEEDS = {"paper": (0, 1, 2, 3, 4), "small": SEEDS}
_NAMED = {"kl_weight": "beta", "gamma": "gamma", "ad_weight": "lambda"}
_BETAS, _GAMMAS, _PAIRS = (4.0,), (GAMMA,), ("all",)
_TELLS_NOTHING = ("seed", "epochs", "steps_per_epoch", "accelerator", "logger", "checkpoint_every")
# What labels say of a setting that is on, and of one that the recipe "paced" has and a run has not.
_PACE = {
    "kl_start": ("KL weight from {:g}", "KL weight from 0"),
    "warmup_epochs": ("KL weight in place after {steps}", "KL weight in place at once"),
    "standardize_after": ("standardized codes", "codes as they are"),
    "pooled_until": ("a pooled discriminator first", "no pooled discriminator"),
    "gather_after": ("latents gathered after {steps}", "no latents gathered"),
    "turn_after": ("latents turned after {steps}", "no latents turned"),
    "wake_after": ("latents woken after {steps}", "no latents woken"),
    "rate_warmup_epochs": ("rate rising over {steps}", "rate not rising"),
    "rate_cooldown_epochs": ("rate falling over the last {steps}", "rate not falling"),
}
_FEW = 2
_RECIPE = {"paper": PUBLISHED, "small": PACED}


def seeds_of(asked: Asked) -> tuple[int, ...]:
    """The seeds asked for, else the preset's."""
    return _SEEDS[asked.preset_used] if asked.seeds is None else asked.seeds


def sprite_recipes(objectives: Sequence[str], seeds: Sequence[int], asked: Asked) -> list[Recipe]:
    """A run of each objective for each of the weights asked for and each seed; of vae and beta, with the first seed alone."""
    recipes = []
    for objective in objectives:
        for name, settings in _variants(objective, asked):
            for seed in seeds[:1] if objective in ("vae", "beta") else seeds:
                options: dict[str, Any] = {**PRESETS[asked.preset_used], **settings, "objective": objective, "seed": seed}
                if asked.steps is not None:
                    options["steps"] = asked.steps
                named = name
                if "recipe" not in settings and PACED in _recipes(asked):  # as those beside them have it
                    options["rate_cooldown_epochs"] = cooldown_of(options["steps"] // STEPS_PER_EPOCH)
                    named += "-cooldown" if options["rate_cooldown_epochs"] else ""
                recipes.append(Recipe(f"{named}-seed{seed}", DATASET, options))
    return recipes


def sprite_runs(recipes: Sequence[Recipe], out: Path, asked: Asked) -> Iterator[Run]:
    """The runs, each trained when its turn comes, and told apart by seed first: a stop leaves whole comparisons.

    Raises:
        UsageError: a run in OUT/runs that was trained otherwise.
    """
    return runs_of(sorted(recipes, key=lambda recipe: recipe.options["seed"]), out, asked)


def given_sprite_runs(asked: Asked) -> list[Run]:
    """The runs that a person gave.

    Raises:
        UsageError: a run of another data set.
        RunError: no run, or a damaged one.
    """
    runs = [load_run(path, pick_device("auto")) for path in asked.runs]
    for run in runs:
        if run.config.dataset["name"] != DATASET:
            raise UsageError(f"{run.path} is of {run.config.dataset['name']}; this takes runs of {DATASET}")
    return runs


def label_of(run: Run) -> str:
    """What tables and figures call a run, but for its seed: `AD-FactorVAE, gamma 40, lambda 20, all pairs`."""
    training = run.config.training
    objective = run.config.objective
    parts = [{"vae": "VAE", "beta": "beta-VAE", "factor": "FactorVAE"}.get(objective.removeprefix("ad-"), objective)]
    if objective.startswith("ad-"):
        parts[0] = f"AD-{parts[0]}"
    if objective in ("beta", "ad-beta") or training["kl_weight"] != 1:
        parts.append(f"beta {training['kl_weight']:g}")
    if training.get("gamma") is not None:
        parts.append(f"gamma {training['gamma']:g}")
    if training.get("ad_weight") is not None:
        pairs = {"random": "a random pair", "top2": "the strongest pair", "all": "all pairs"}[training["ad_pairs"]]
        maps = " of absolute maps" if training.get("ad_rectifier") == "abs" else ""
        parts.append(f"lambda {training['ad_weight']:g}, {pairs}{maps}")
        if training.get("ad_layer") is not None:
            parts.append(f"at {training['ad_layer']}")
    parts += _pace_of(training)
    if training.get("discriminator_learning_rate") is not None:
        parts.append(f"discriminator's rate {training['discriminator_learning_rate']:g}")
    return ", ".join(parts)


def _pace_of(training: Mapping[str, Any]) -> list[str]:
    """What a label says of how training is paced: the recipe, with what a run has otherwise; where that is much, all."""
    paced = training.get("gamma") is not None and training.get("steps_per_epoch") is not None
    otherwise = otherwise_than_paced(training) if paced else []
    if not paced or len(otherwise) > _FEW:
        return [_said(training, name) for name in _PACE if _has(training, name)]
    return [" but ".join([PACED, " and ".join(_said(training, name) for name in otherwise)]) if otherwise else PACED]


def told_apart(labels: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of runs (see `label_of`), each with what it has otherwise than others of its label, but for the seed.

    Args:
        labels: of N runs.
        settings: of these, as `Run.settings` gives them.
    """
    aspects = [_aspects(one) for one in settings]
    longer = []
    for label, own in zip(labels, aspects, strict=True):
        others = [aspects[at] for at, other in enumerate(labels) if other == label]
        differing = [name for name in own if any(other.get(name) != own[name] for other in others)]
        longer.append(", ".join([label, *(f"{name} {own[name]}" for name in differing)]))
    return longer


def _aspects(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What may tell runs of one label apart."""
    training = TrainSettings.from_dict(settings["training"]).to_dict()  # older runs lack some
    told = {name.replace("_", " "): value for name, value in training.items() if name not in _TELLS_NOTHING}
    return {"steps": f"{steps_of(training):,}", "latents": settings["network"]["latent_dim"], **told}


def _has(training: Mapping[str, Any], name: str) -> bool:
    """Whether one of _PACE is on. Standardized after 0 epochs is standardized throughout; of the others 0 is not at all."""
    return training.get(name) is not None and (name == "standardize_after" or training[name] > 0)


def _said(training: Mapping[str, Any], name: str) -> str:
    """What labels say of one of _PACE."""
    on, off = _PACE[name]
    return on.format(training[name], steps=_steps(training, name)) if _has(training, name) else off


def _steps(training: Mapping[str, Any], name: str) -> str:
    return f"{training[name] * training['steps_per_epoch']:,g} steps"


def _recipes(asked: Asked) -> tuple[str, ...]:
    """Those asked for, else the preset's."""
    return asked.recipes or (_RECIPE[asked.preset_used],)


def _variants(objective: str, asked: Asked) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each setting of an objective: a name for its folder, and the settings of training."""
    attends, correlates = objective.startswith("ad-"), objective in ("factor", "ad-factor")
    choices: dict[str, Sequence[Any]] = {
        "kl_weight": (asked.betas or _BETAS) if objective in ("beta", "ad-beta") else (),
        "gamma": (asked.gammas or _GAMMAS) if correlates else (),
        "ad_weight": (asked.ad_weights or (AD_WEIGHT,)) if attends else (),
        "ad_pairs": (asked.ad_pairs or _PAIRS) if attends else (),
        "ad_rectifier": asked.ad_rectifiers if attends else (),
        "layer": asked.layers if attends else (),
        "recipe": _recipes(asked) if correlates else (),
    }
    there = {name: values for name, values in choices.items() if values}
    for chosen in itertools.product(*there.values()):
        settings = dict(zip(there, chosen, strict=True))
        shown = [(name, value) for name, value in settings.items() if value != PUBLISHED]
        parts = [
            f"{_NAMED[name]}{str(float(value)).removesuffix('.0')}" if name in _NAMED else str(value) for name, value in shown
        ]
        yield "-".join([objective, *parts]), settings
