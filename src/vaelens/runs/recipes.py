"""How FactorVAE is trained, with and without the attention loss: as its authors do, or at a pace."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from vaelens.data import FACTOR_DATASETS
from vaelens.errors import UsageError, unknown
from vaelens.runs.objective import FAMILIES
from vaelens.training.settings import STEPS_PER_EPOCH, steps_of

PUBLISHED, PACED = RECIPES = ("published", "paced")
LEARNING_RATE = 6e-4
"""Of Adam, where the recipe "paced" is asked for and no learning rate."""
# Of "paced", in thousands of steps. At a high KL weight the latents open one by one, those worth most first, and meanwhile a
# discriminator of many batches' codes sees whether each keeps to itself. FactorVAE's follows, and sees standardized codes,
# which cannot escape it by becoming small. The rate rises first, for at this KL weight Adam's first full steps turn half of the
# encoder's units off for good. Where several open at once they are gathered while they are linear in position, which three or
# four of them would else share for good, bent; then the two of position, which alone are open, are turned to the axes. Once
# position and scale have a latent each, the others are woken, and learn of shape and orientation in hundreds of steps what they
# would not in ten thousand. At the end the rate falls, which is worth four to seven nats.
_KL_START, _FALL, _POOLED, _RISE, _GATHER, _TURN, _WAKE, _COOLDOWN = 200.0, 3.0, 2.5, 1.0, 0.6, 1.0, 4.0, 2.0
_ENOUGH = 13  # thousands of steps: to wake latents takes 7 and the rate's fall 2


def recipe_settings(recipe: str | None, dataset: str, objective: str, length: Mapping[str, int]) -> dict[str, Any]:
    """The settings of training that a recipe stands for; none for "published", which is the default.

    Args:
        recipe: one of RECIPES, or None.
        dataset: to train on.
        objective: one of FAMILIES.
        length: of the run, as `epochs` and `steps_per_epoch`.

    Raises:
        UsageError: an unknown recipe, or one for an objective or data set that it is not for.
    """
    if recipe is None:
        return {}
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    if FAMILIES[objective].gamma is None:
        with_one = " or ".join(name for name, family in FAMILIES.items() if family.gamma is not None)
        raise UsageError(f"a recipe is for objective {with_one}, not for '{objective}'; leave --recipe out")
    if dataset not in FACTOR_DATASETS:
        raise UsageError(f"a recipe is for {', '.join(FACTOR_DATASETS)}, not for {dataset}; leave --recipe out")
    return {} if recipe == PUBLISHED else {"learning_rate": LEARNING_RATE, **_pace(length)}


def otherwise_than_paced(training: Mapping[str, Any]) -> list[str]:
    """The names of the settings of "paced", but for its learning rate, that a run's settings of training have otherwise."""
    return [name for name, value in _pace(training).items() if training.get(name) != value]


def recipe_of(training: Mapping[str, Any]) -> str | None:
    """The recipe that a run's settings of training are of, whatever its learning rate; None for neither."""
    if training.get("gamma") is None or training.get("steps_per_epoch") is None:
        return None
    if not otherwise_than_paced(training):
        return PACED
    return None if any(training.get(name) for name in _pace(training)) else PUBLISHED


def is_begun_with(recipe: str, training: Mapping[str, Any], given: Container[str] = ()) -> bool:
    """Whether a run was begun with a recipe: its settings are of it, or were at a length that was raised since.

    Args:
        recipe: one of RECIPES.
        training: the run's settings of training.
        given: the names of those that were asked for beside the recipe, and came before what it has.
    """
    if training.get("gamma") is None or training.get("steps_per_epoch") is None:
        return False
    if recipe == PUBLISHED:
        return not any(training.get(name) for name in _pace(training) if name not in given)
    thousands = steps_of(training) // STEPS_PER_EPOCH
    shorter = ({"epochs": each, "steps_per_epoch": STEPS_PER_EPOCH} for each in range(min(thousands, _ENOUGH)))
    paces = (_pace({**training, **length}) for length in ({}, *shorter))
    return any(all(training.get(name) == value for name, value in pace.items() if name not in given) for pace in paces)


def cooldown_of(thousands: int) -> float:
    """The thousands of steps over which the rate falls at the end of so many."""
    return _COOLDOWN if thousands >= _ENOUGH else 0.0


def _pace(length: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run too short for it, all of it is the fall, or no latent is woken."""
    thousands = steps_of(length) // STEPS_PER_EPOCH
    fall = min(_FALL, float(max(1, thousands)))
    pace = {"kl_start": _KL_START, "warmup_epochs": fall, "standardize_after": _POOLED, "pooled_until": _POOLED}
    return {
        **pace,
        "rate_warmup_epochs": _RISE,
        "rate_cooldown_epochs": cooldown_of(thousands),
        "gather_after": _GATHER if thousands > _TURN else None,
        "turn_after": _TURN if thousands > _TURN else None,
        "wake_after": _WAKE if thousands >= _ENOUGH else None,
    }
