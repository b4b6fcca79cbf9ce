"""The localizers of a run: fitted on its normal images, and what takes long to learn kept in its folder.

RUN/localizers/NAME.safetensors     the state of a localizer, and its scores of the run's held-out images
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError, unknown
from vaelens.localizers import LOCALIZERS, Calibration, Localizer, build_localizer, options_of, parse_spec
from vaelens.objective_of import FAMILIES, family_of, localizers_of
from vaelens.output import write_bytes, writing

if TYPE_CHECKING:
    from vaelens.models import ConvVAE
    from vaelens.run_config import RunConfig

FOLDER = "localizers"
_NEEDS = {name: objective for objective, family in FAMILIES.items() for name in family.localizers}
# These look at the images alone, or bring a network of their own.
_FOR_ALL = ("floor-mean", "floor-neighbours", "floor-contrast", "floor-motion")


def build(spec: str, model: ConvVAE, config: RunConfig) -> Localizer:
    """An unfitted localizer of a run, with the run's layer and camera where the options do not say otherwise.

    Raises:
        UsageError: an unknown localizer or option, or a localizer that the run's kind of model does not allow.
    """
    name, options = parse_spec(spec)
    if name not in LOCALIZERS:
        raise unknown("localizer", name, LOCALIZERS)
    check_suits(name, config)
    return build_localizer(name, model, **{**_defaults(name, config), **options})


def fitted(
    spec: str, model: ConvVAE, config: RunConfig, normal: Tensor, state: Mapping[str, Tensor] | None = None
) -> Localizer:
    """A localizer of a run, fitted on normal images (N, C, H, W), uint8; from its `state` where that was kept."""
    localizer = build(spec, model, config)
    return localizer.fit(normal) if not state else localizer.restore(normal, dict(state))


def check_suits(name: str, config: RunConfig) -> None:
    """Refuse a localizer that the run's kind of model does not allow.

    Raises:
        UsageError: names the objective that it takes, or the localizers that there are.
    """
    own = localizers_of(config)
    if name in own or name in _FOR_ALL:
        return
    if name in _NEEDS:
        raise UsageError(
            f"localizer '{name}' takes a model of its own, and this run was trained with objective '{config.objective}'; "
            f"train one with: vaelens train {config.dataset['name']} --objective {_NEEDS[name]} --out RUN"
        )
    if not family_of(config).posterior:
        there = ", ".join((*own, *_FOR_ALL))
        raise UsageError(f"localizer '{name}' takes a VAE, not a run of objective '{config.objective}'; this one has: {there}")


def suitable(config: RunConfig) -> tuple[str, ...]:
    """The localizers that a run is evaluated by where none is named: its own, and the floors."""
    if config.of_classes:
        return localizers_of(config)
    floors = _FOR_ALL if config.dataset["preparation"]["frames"] > 1 else _FOR_ALL[:-1]
    return (*localizers_of(config), *floors)


def read_kept(folder: Path, name: str) -> dict[str, Tensor]:
    """What a run's folder keeps of a localizer; empty where it keeps nothing.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / FOLDER / f"{name}.safetensors"
    if not path.is_file():
        return {}
    try:
        tensors = load(path.read_bytes())
        scores, peaks = tensors["score"], tensors["peak"]
        if scores.shape != peaks.shape or scores.ndim != 1 or not (scores.isfinite().all() and peaks.isfinite().all()):
            raise ValueError("its scores are not finite numbers, one per held-out image")
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise RunError(f"{shown(path)} is damaged ({why}); remove it, and the localizer is fitted anew") from error
    return dict(tensors)


def keep(folder: Path, name: str, localizer: Localizer, calibration: Calibration) -> None:
    """Keep a localizer's state and calibration in the run's folder."""
    tensors = {f"state.{key}": value for key, value in localizer.state().items()}
    tensors |= {"score": calibration.scores, "peak": calibration.peaks}
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    with writing(folder / FOLDER):
        (folder / FOLDER).mkdir(exist_ok=True)
    write_bytes(folder / FOLDER / f"{name}.safetensors", content, durable=True)


def state_in(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The localizer's own state among what was kept."""
    return {key.removeprefix("state."): value for key, value in kept.items() if key.startswith("state.")}


def _defaults(name: str, config: RunConfig) -> dict[str, Any]:
    there = options_of(LOCALIZERS[name])
    options: dict[str, Any] = {}
    if "layer" in there and name != "matching":  # which looks at the first layer unless told otherwise
        options["layer"] = config.explain["layer"]
    if name == "matching" and config.explain["fixed_camera"]:
        options["neighbours"] = None
    return options


def measured(localizer: Localizer, held_out: Tensor) -> Calibration:
    """The scores of a run's held-out images."""
    with torch.no_grad():
        return Calibration.measure(localizer, held_out)
