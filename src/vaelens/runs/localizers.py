"""The localizers of a run: fitted on its normal images, and what takes long to learn kept in its folder.

RUN/localizers/NAME.safetensors     the state of a localizer, and its scores of the run's held-out images; with options behind
                                    the name, spelt so that they can be a file's
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError, unknown
from vaelens.localizers import FLOORS, LOCALIZERS, Calibration, Localizer, build_localizer, options_of, parse_spec
from vaelens.localizers.placed import Placed
from vaelens.output import write_bytes, writing
from vaelens.runs.objective import FAMILIES, check_has_normal, family_of, localizers_of, main_localizer_of

if TYPE_CHECKING:
    from vaelens.models import ConvVAE
    from vaelens.runs.config import RunConfig

FOLDER = "localizers"
_CPU = torch.device("cpu")
_LONGEST = 200  # characters of a file's name that the localizer's takes
_NEEDS = {family.localizers[0]: objective for objective, family in FAMILIES.items() if family.localizers}
_MOTION = "floor-motion"  # which takes several frames


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


def fitted(spec: str, model: ConvVAE, config: RunConfig, normal: Tensor, device: torch.device = _CPU) -> Localizer:
    """A localizer of a run, fitted on normal images (N, C, H, W), uint8; `device` is where the model is."""
    return _placed(build(spec, model, config), device).fit(normal)


def check_suits(name: str, config: RunConfig) -> None:
    """Refuse a localizer that the run's kind of model does not allow.

    Raises:
        UsageError: names the objective that it takes, or the localizers that there are.
    """
    check_has_normal(config)
    own = localizers_of(config)
    if name in own or name in FLOORS:
        return
    if name in _NEEDS:
        raise UsageError(
            f"localizer '{name}' takes a model of its own, and this run was trained with objective '{config.objective}'; "
            f"train one with: vaelens train {config.dataset['name']} --objective {_NEEDS[name]} --out RUN"
        )
    if not family_of(config).posterior:
        there = ", ".join((*own, *FLOORS))
        raise UsageError(f"localizer '{name}' takes a VAE, not a run of objective '{config.objective}'; this one has: {there}")


def suitable(config: RunConfig) -> tuple[str, ...]:
    """The localizers that a run is evaluated by where none is named: its own, for images the main one first, and the floors."""
    own = localizers_of(config)
    if config.of_classes:
        return own
    several = config.dataset["preparation"]["frames"] > 1
    main = main_localizer_of(config)
    return tuple(dict.fromkeys((main, *own, *(name for name in FLOORS if several or name != _MOTION))))


def read_kept(folder: Path, spec: str) -> dict[str, Tensor]:
    """What a run's folder keeps of a localizer; empty where it keeps nothing.

    Raises:
        RunError: the file is damaged.
    """
    path = _file(folder, spec)
    if not path.is_file():
        return {}
    try:
        tensors = load(path.read_bytes())
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("it holds what is not finite")
        scores, peaks = tensors["score"], tensors["peak"]
        if scores.shape != peaks.shape or scores.ndim != 1:
            raise ValueError("its scores are not one number per held-out image")
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise RunError(f"{shown(path)} is damaged ({why}); remove it, and the localizer is fitted anew") from error
    return dict(tensors)


def restored(
    folder: Path,
    spec: str,
    model: ConvVAE,
    config: RunConfig,
    normal: Tensor,
    device: torch.device = _CPU,
    progress: Callable[[int, int], None] | None = None,
) -> Localizer:
    """A localizer of a run, fitted as its folder keeps it, or on normal images (N, C, H, W), uint8, where it keeps nothing.

    `device` is where the model is; `progress` is called with work done and work in all, where fitting takes minutes.

    Raises:
        UsageError: see `build`.
        RunError: what the folder keeps is damaged, or another localizer's.
    """
    state = {key.removeprefix("state."): value for key, value in read_kept(folder, spec).items() if key.startswith("state.")}
    localizer = _placed(build(spec, model, config), device)
    localizer.progress = progress
    try:
        return localizer.restore(normal, state) if state else localizer.fit(normal)
    except UsageError as error:
        if not state:
            raise
        raise RunError(
            f"{shown(_file(folder, spec))} cannot be used ({error}); remove it, and the localizer is fitted anew"
        ) from error


def in_lines(tell: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """A `Run.fitting` that tells people in lines how far it is, at each tenth."""
    told: dict[str, int] = {}

    def fitting(name: str, done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth > told.get(name, -1):
            told[name] = tenth
            tell(f"fitting localizer '{name}', which may take minutes" + (f": {tenth}0 %" if tenth else ""))

    return fitting


def forget(folder: Path) -> None:
    """Remove what a run's folder keeps of localizers: the model is about to be another."""
    with writing(folder / FOLDER):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def keep(folder: Path, spec: str, localizer: Localizer, calibration: Calibration) -> None:
    """Keep a localizer's state and calibration in the run's folder."""
    tensors = {f"state.{key}": value for key, value in localizer.state().items()}
    tensors |= {"score": calibration.scores, "peak": calibration.peaks}
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    with writing(folder / FOLDER):
        (folder / FOLDER).mkdir(exist_ok=True)
    write_bytes(_file(folder, spec), content, durable=True)


def _placed(localizer: Localizer, device: torch.device) -> Localizer:
    return localizer if device == _CPU else Placed(localizer, device)


def _file(folder: Path, spec: str) -> Path:
    name = quote(spec, safe="=,")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(spec.encode()).hexdigest()[:16]}"
    return folder / FOLDER / f"{name}.safetensors"


def _defaults(name: str, config: RunConfig) -> dict[str, Any]:
    there = options_of(LOCALIZERS[name])
    options: dict[str, Any] = {}
    if "layer" in there and name != "matching":  # which looks at the first layer unless told otherwise
        options["layer"] = config.explain["layer"]
    fixed = config.explain["fixed_camera"]
    if name == "matching" and fixed:
        options["neighbours"] = None
    preparation = config.dataset["preparation"] or {}
    of_run = {"fixed_camera": fixed, "frames": preparation.get("frames", 1), "brightness": preparation.get("brightness", False)}
    options |= {option: value for option, value in of_run.items() if option in there}
    return options
