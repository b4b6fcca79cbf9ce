"""What of a run goes into a file: whose maps, and whose scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from vaelens.attention import Deviation, LatentAttention
from vaelens.errors import UsageError, unknown, whole
from vaelens.localizers import LOCALIZERS, Calibration, Localizer, build_localizer, parse_spec
from vaelens.localizers.deviation import DeviationLocalizer
from vaelens.runs.localizers import build, fitted

if TYPE_CHECKING:
    from vaelens.runs import Run

EXPORTABLE = ("deviation", "reconstruction", "normal-difference", "mean-sum", "attention", "kl", "ae-l2", "ae-ssim")
"""Localizers that are one forward pass; the others search, or learn a network of their own."""

RESIDUALS = ("reconstruction", "ae-l2", "ae-ssim")
"""Those of them that take the decoder."""

_RECONSTRUCTION = "reconstruction"
_LAST_LAYER = "deviation:layer=none"


@dataclass(frozen=True)
class Chosen:
    """What goes into a file.

    Attributes:
        attention: whose latents' maps; None: no maps of latents.
        localizer: whose maps and scores, fitted; None: neither.
        spec: its name and options.
        calibration: its scores of held-out normal images; None where no image is normal.
        normals: how many normal images it compares with; None where it keeps none.
        why_no_maps: why no maps of latents; empty where there are.
        notes: lines for the person.
    """

    attention: LatentAttention | None
    localizer: Localizer | None
    spec: str | None
    calibration: Calibration | None
    normals: int | None
    why_no_maps: str
    notes: tuple[str, ...]


def choose(run: Run, spec: str | None = None, normals: int | None = None) -> Chosen:
    """Whose maps and scores, with the localizer fitted.

    Args:
        run: to be exported.
        spec: the localizer asked for; None: the run's main one where it can be exported, else "deviation", and
            "reconstruction" where the maps need gradients.
        normals: keep so many of the normal images to compare with, and calibrate anew; None: all that the run compares with.

    Raises:
        UsageError: a localizer that is unknown, cannot be exported or does not suit the run; `normals` where none are kept.
    """
    notes: list[str] = []
    if run.config.of_factors:
        return _of_factors(run, spec, normals)
    if not run.reconstructs:
        raise UsageError(f"a run of objective '{run.config.objective}' has no encoder to export; export one of a VAE")
    own, why = _own_attention(run)
    if spec is None:
        main = run.main_localizer
        spec = main if _is_exportable(main) else "deviation"
        if spec != main:
            notes.append(f"localizer '{main}' is no single forward pass and cannot be exported; the file has '{spec}'")
        needs = _needs_gradients(build(spec, run.model, run.config))
        if needs:
            notes.append(
                f"{needs}: the file has the encoder and the scores of '{_RECONSTRUCTION}' instead{_other_layer(run, spec)}"
            )
            spec = _RECONSTRUCTION
    else:
        _check_exportable(run, spec)
        needs = _needs_gradients(build(spec, run.model, run.config))
        if needs:
            raise UsageError(
                f"localizer '{spec}' cannot be exported: {needs}; take '{_RECONSTRUCTION}'{_other_layer(run, spec)}"
            )
    localizer, calibration, count = _fitted(run, spec, normals)
    if own is None and run.has_posterior:
        own = next(_attentions(localizer), None)
    if own is None and why and not notes:
        notes.append(f"{why}: the file has no maps of latents")
    if normals is not None:
        notes.append(f"thresholds are measured anew with {count} of the {len(run.normal_images)} normal images to compare with")
    return Chosen(own, localizer, spec, calibration, count, "" if own is not None else why, tuple(notes))


def _of_factors(run: Run, spec: str | None, normals: int | None) -> Chosen:
    """No image is normal, so there is no score but that of the reconstruction, and none to compare it with."""
    if spec is not None or normals is not None:
        raise UsageError(f"{run.config.dataset['name']} has no normal images to score by; leave --localizer and --normals out")
    attention, why = _own_attention(run)
    if attention is not None:
        return Chosen(attention, None, None, None, None, "", ())
    note = f"{why}: the file has the encoder and the difference from the reconstruction instead"
    return Chosen(None, build_localizer(_RECONSTRUCTION, run.model), _RECONSTRUCTION, None, None, why, (note,))


def _own_attention(run: Run) -> tuple[LatentAttention | None, str]:
    """The run's attention where it is a forward pass; else why not."""
    if not run.has_posterior:
        return None, ""
    why = _why(run.attention)
    return (None, why) if why else (run.attention, "")


def _why(attention: LatentAttention) -> str:
    if attention.method == "closed_form":
        return ""
    return f"the maps of layer '{attention.layer}' need gradients, which a file of ONNX cannot hold"


def _needs_gradients(localizer: Localizer) -> str:
    return next(filter(None, map(_why, _attentions(localizer))), "")


def _other_layer(run: Run, spec: str) -> str:
    """What to ask for where another layer's maps need no gradients."""
    if parse_spec(spec)[0] != "deviation" or LatentAttention(run.model).method != "closed_form":
        return ""
    return f"; for maps of the last layer pass --localizer {_LAST_LAYER}"


def _attentions(value: Any) -> Iterator[LatentAttention]:
    """Every attention in a localizer."""
    if isinstance(value, LatentAttention):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _attentions(each)
    elif isinstance(value, Localizer):
        yield from _attentions(list(value.__dict__.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _attentions([getattr(value, each.name) for each in fields(value)])


def _is_exportable(spec: str) -> bool:
    return parse_spec(spec)[0] in EXPORTABLE


def _check_exportable(run: Run, spec: str) -> None:
    name = parse_spec(spec)[0]
    if name not in LOCALIZERS:
        raise unknown("localizer", name, _of(run))
    if name not in EXPORTABLE:
        raise UsageError(
            f"localizer '{name}' is no single forward pass and cannot be exported; take one of: {', '.join(_of(run))}"
        )


def _of(run: Run) -> tuple[str, ...]:
    return tuple(name for name in EXPORTABLE if name.startswith("ae-") != run.has_posterior)


def _fitted(run: Run, spec: str, normals: int | None) -> tuple[Localizer, Calibration, int | None]:
    """The localizer, its calibration, and how many normal images it compares with."""
    compares = parse_spec(spec)[0] == "deviation"
    if normals is None:
        localizer, calibration = run.localizer(spec), run.calibration(spec)
    else:
        there = len(run.normal_images)
        if not compares:
            raise UsageError(f"--normals is of localizer 'deviation', which keeps normal images; leave it out with '{spec}'")
        if whole("normals", normals) > there:
            raise UsageError(f"normals must be at most the {there} normal images that the run keeps, got {normals}")
        # Of the whole set, evenly: frames of a video lie in their order.
        some = [at * there // normals for at in range(normals)]
        localizer = fitted(spec, run.model, run.config, run.normal_images[some])
        calibration = Calibration.measure(localizer, run.held_out_images)
    kept = [len(one.codes) for one in references(localizer)]
    return localizer, calibration, max(kept, default=None)


def references(localizer: Localizer | None) -> list[Deviation]:
    """What of normal images a file keeps in full: those that neighbours are chosen from."""
    if not isinstance(localizer, DeviationLocalizer):
        return []
    return [one for one in localizer.references if one.neighbours is not None]
