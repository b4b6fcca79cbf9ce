"""The model card of a shared run: what it is, on which data it was trained, what it came to, and where it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vaelens.runs.config import RunConfig
from vaelens.runs.folder import report_of
from vaelens.runs.known import KnownRun

TAGS = ("vaelens", "variational-autoencoder", "explainability", "attention-maps")
EVALUATION = "evaluation.json"
PAPER = "Liu et al., Towards Visually Explaining Variational Autoencoders, CVPR 2020"

TEMPLATE = """---
{{ card_data }}
---

{{ text }}
"""

_PIXELS = ("pixel_auroc", "pixel_ap", "best_iou", "calibrated_iou", "aupro")
_IMAGES = ("image_auroc", "image_auroc_pooled", "false_alarms", "detected")
_CALLED = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "best_iou": "best IoU (oracle)",
    "calibrated_iou": "IoU at 5 %",
    "aupro": "AUPRO",
    "image_auroc": "image AUROC",
    "image_auroc_pooled": "pooled",
    "false_alarms": "false alarms",
    "detected": "detected",
}
_NATS = ("reconstruction", "total_correlation", "attention_overlap", "empty_maps")


def tags_of(run: KnownRun) -> list[str]:
    """What the run's card is found by."""
    return [*TAGS, "disentanglement" if run.config.of_factors else "anomaly-detection"]


def text_of(run: KnownRun, name: str, licence: str | None = None) -> str:
    """The text of the card below its metadata, Markdown.

    Args:
        run: which.
        name: where it will be found: a repository, or a folder.
        licence: of the weights, as the publisher states it.
    """
    sections = (
        _what(run, name),
        _use(run, name),
        _data(run),
        _training(run),
        _figures(run),
        _limits(run),
        _licence(licence),
    )
    return "\n\n".join(sections)


def evaluations(folder: Path) -> dict[bool, Mapping[str, Any]]:
    """What `vaelens evaluate` wrote into a run's folder, by whether it was measured on synthetic defects."""
    found: dict[bool, Mapping[str, Any]] = {}
    for synthetic in (False, True):
        with suppress(OSError, ValueError, RecursionError):
            values = json.loads((report_of(folder, synthetic) / EVALUATION).read_text(encoding="utf-8"))
            if isinstance(values, dict):
                found[synthetic] = values
    return found


def held(run: KnownRun) -> str:
    """How many images of the data the run's files hold, in words."""
    kind = "images" if run.config.of_factors else "normal images"
    return f"{len(run.normal_images)} {kind} of the training data and {len(run.held_out_images)} held-out ones"


def _what(run: KnownRun, name: str) -> str:
    config = run.config
    channels, height, width = run.input_shape
    of = "a variational autoencoder" if run.has_posterior else "a model"
    normal = (
        "" if config.of_factors else f" It has seen {_normal(config)} alone, and says whether and where an image is not such."
    )
    return (
        f"# {_plain(name)}\n\nThis is {of} (network `{config.network['name']}`, {run.model.latent_dim} latents, objective "
        f"`{config.objective}`) for images of {height} x {width} pixels and {_channels(channels)}, trained with vaelens "
        f"{_plain(config.vaelens)}.{normal} Its latents' attention maps are those of {PAPER}."
    )


def _use(run: KnownRun, name: str) -> str:
    shape = ", ".join(map(str, run.input_shape))
    explain = "found = run.explain(images)  # found.maps, found.z_scores, found.fired\n" if run.has_posterior else ""
    localize = "" if run.config.of_factors else "verdict = run.localize(images)  # verdict.maps, .score, .p_value, .flagged\n"
    return (
        "## Use\n\n```python\nfrom vaelens import Run\n\n"
        f"run = Run.from_pretrained({json.dumps(name)})\n"
        f"# images: float32 in [0, 1], (B, {shape})\n{explain}{localize}```\n\n"
        "The files are YAML, JSON and safetensors; nothing in them is unpickled or executed."
    )


def _data(run: KnownRun) -> str:
    config, counts = run.config, run.metrics["images"]
    data = config.dataset
    rows = [("data set", data["name"] if data["name"] != "folder" else "a folder of images of the publisher's own")]
    rows += [("category", data["category"])] if data["category"] is not None else []
    rows += [("normal class", data["normal"])] if data["normal"] is not None else []
    rows += [(f"images, {part.replace('_', ' ')}", number) for part, number in counts.items()]
    if data["held_out"] is not None:
        rows.append(
            ("held out for calibration", f"{100 * data['held_out']:g} % of the normal training images, seed {data['seed']}")
        )
    for setting, value in (data["preparation"] or {}).items():
        rows.append((f"preparation: {setting.replace('_', ' ')}", value))
    return (
        f"## Data\n\n{_table(('what', 'value'), rows)}\n\n**These files hold images.** `calibration.safetensors` has "
        f"{held(run)}, uncompressed and as the network takes them: whoever can read this model can see them."
    )


def _training(run: KnownRun) -> str:
    settings = {name: value for name, value in run.config.training.items() if value is not None}
    losses = run.metrics["losses"]
    came = [("epochs", run.metrics["epochs"]), ("stopped early", "yes" if run.metrics["stopped_early"] else "no")]
    came += sorted(losses.items())
    if run.has_posterior:
        came.append(("active latents (more than 0.05 nats)", f"{run.metrics['active_latents']} of {run.model.latent_dim}"))
    split = "on the images trained on" if run.config.of_factors else "train/ on the images trained on, val/ on those held out"
    nats = "; losses in nats per image" if run.has_posterior else ""
    tables = _table(("setting", "value"), list(settings.items())), _table(("figure", "value"), came)
    came_to = f"What it came to, seed {settings.get('seed', 0)} ({split}{nats}):"
    return f"## Training\n\n{tables[0]}\n\n{came_to}\n\n{tables[1]}"


def _figures(run: KnownRun) -> str:
    found = evaluations(run.path)
    parts = []
    for synthetic, values in found.items():
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # of a file that was changed by hand
            parts.append(_evaluation(run, values, synthetic))
    if not parts:
        parts = ["Not evaluated on test images."]
    return "## Figures\n\n" + "\n\n".join(parts)


def _evaluation(run: KnownRun, values: Mapping[str, Any], synthetic: bool) -> str:
    seed = run.config.training.get("seed", 0)
    if "disentanglement" in values:
        rows = [(name, figure, values["spread"][name]) for name, figure in values["disentanglement"].items()]
        rows += [(name.replace("_", " "), values[name], None) for name in _NATS if name in values]
        head = f"On {values['images']:,} images of the data set, those trained on (it has no test split); model of seed {seed}:"
        return f"{head}\n\n{_table(('figure', 'value', 'standard deviation over repeats'), rows)}"
    columns = [name for name in (*_PIXELS, *_IMAGES) if any(one.get(name) is not None for one in values["localizers"].values())]
    rows = [(name, *(one.get(column) for column in columns)) for name, one in values["localizers"].items()]
    where = "held-out normal images with synthetic defects" if synthetic else "the test split"
    counts = ", ".join(f"{number} {part.replace('_', ' ')}" for part, number in values["images"].items())
    head = f"On {where} ({counts}); model of seed {seed}; thresholds from held-out normal images for 5 % of false alarms:"
    below = "".join(
        f"\n\n{_plain(name)} is not above {' and '.join(map(_plain, floors))} in both AUROC and AP: it has localized nothing."
        for name, floors in values.get("below_floors", {}).items()
    )
    return f"{head}\n\n{_table(('localizer', *(_CALLED[column] for column in columns)), rows)}{below}"


def _limits(run: KnownRun) -> str:
    config = run.config
    lines = []
    if not config.of_factors:
        lines.append(
            "P-values and thresholds are split conformal: of fresh normal images at most the share that you allow is flagged, "
            "if they are exchangeable with those held out. Images of another camera, light or kind of object are not."
        )
        lines += [caution for caution in (run.caution, run.too_few()) if caution]
        lines.append(f"It knows {_normal(config)} and nothing else; what it flags is unusual, which need not be a fault.")
    if run.has_posterior:
        dead = (~run.active).nonzero().flatten().tolist()
        if dead:
            lines.append(
                "Latents that carry 0.05 nats or less are dead, and their maps mean nothing: "
                + ", ".join(f"z{d}" for d in dead)
                + "."
            )
        lines.append(
            "A map of eq. 2 explains a latent against no activation at all, so it lights up whatever is bright. It shows where "
            "a value comes from, not that the place is abnormal."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(licence: str | None) -> str:
    stated = "The licence of the weights is not stated." if licence is None else f"The weights: {_plain(licence)}."
    return f"## Licence\n\n{stated} The images keep the licence of their data set, which this card does not change."


def _normal(config: RunConfig) -> str:
    data = config.dataset
    if data["normal"] is not None:
        return f"class {data['normal']} of {data['name']}"
    name = "a folder of images" if data["name"] == "folder" else data["name"]
    category = "" if data["category"] is None else f" ({_plain(data['category'])})"
    return f"normal images of {name}{category}"


def _channels(count: int) -> str:
    return {1: "one channel", 3: "three channels"}.get(count, f"{count} channels")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return "-" if value is None else _plain(value)


def _plain(value: object) -> str:
    """Text that stays text within a line of Markdown."""
    line = " ".join(str(value).split())[:300]
    return "".join(f"\\{sign}" if sign in "\\`*_|<>[]#" else sign for sign in line if sign.isprintable())
