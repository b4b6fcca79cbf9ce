"""What every latent sees in a few images, as pictures, numbers and a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaelens.attention import LatentAttention
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.output import check_free, result_folder, write_bytes, write_json
from vaelens.report.content import Figure, Report
from vaelens.report.figures import latent_grid
from vaelens.report.html import write_report
from vaelens.report.sheet import to_png
from vaelens.runs import FIRED_NATS, FIRED_Z, Explanation, Run
from vaelens.scoring.distribution import NOTE as SPREAD
from vaelens.scoring.distribution import Distribution
from vaelens.scoring.gallery import cards, picture
from vaelens.scoring.sources import Source, as_text

MOST = 64  # images explained at once: each gets a picture with all latents


@dataclass(frozen=True)
class Explained:
    """What `explain` came to.

    Attributes:
        names: B names of images.
        explanation: of these images.
        files: the pictures, in the images' order.
        report: the HTML report.
        distribution: of the maps over the posterior; None in a variant that has none.
    """

    names: tuple[str, ...]
    explanation: Explanation
    files: tuple[Path, ...]
    report: Path
    distribution: Distribution | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `explain --json` prints it."""
        maps, e = self.explanation.maps, self.explanation
        images = [
            {
                "image": as_text(name),
                "picture": str(file),
                "fired": e.fired[i].nonzero().flatten().tolist(),
                "mean": maps.mean[i].tolist(),
                "logvar": maps.logvar[i].tolist(),
                "z_score": e.z_scores[i].tolist(),
                "distribution": None if self.distribution is None else self.distribution.to_dict(i),
            }
            for i, (name, file) in enumerate(zip(self.names, self.files, strict=True))
        ]
        return {
            "layer": maps.layer,
            "method": maps.method,
            "variant": maps.variant,
            "active_latents": e.active.nonzero().flatten().tolist(),
            "images": images,
            "report": str(self.report),
        }


def explain(
    run: Run, source: Source, out: Path, attention: LatentAttention | None = None, overwrite: bool = False
) -> Explained:
    """Write, for each image, the maps of all latents on one colour scale; and which latents fired.

    The folder gets a PNG for each image, another of how sure the maps of a few of its latents are (see `Distribution`),
    `latents.json` with the numbers and `report.html`.

    Args:
        run: whose latents.
        source: at most 64 images.
        out: folder to make.
        attention: for another layer, variant or method than the run's.
        overwrite: replace a folder of results that is there.

    Raises:
        UsageError: too many images, or a folder that is not free.
        DataError: an image that cannot be read; nothing is written.
    """
    check_free(out, "explain", overwrite)
    source.check_apart(out)
    if len(source) > MOST:
        raise UsageError(f"explain draws every latent for every image and takes at most {MOST} of them, got {len(source)}")
    loaded = [one for batch in source.batches(MOST, strict=True) for one in batch]
    images = torch.stack([one.image for one in loaded if one.image is not None])
    names = tuple(one.item.name for one in loaded)
    explanation = run.explain(to_float(images), attention)
    distribution = Distribution.of(run, to_float(images), explanation, attention)
    limit = float(explanation.maps.per_latent.max()) or 1.0
    with result_folder(out, "explain", overwrite) as folder:
        files = []
        pngs = []
        for i, name in enumerate(names):
            file = f"{i + 1:02d}-{_safe(name)}.png"
            png = to_png(_grid(explanation, i, name, picture(images[i]), limit))
            write_bytes(folder / file, png)
            files.append(out / file)
            pngs.append(Figure(_title(explanation, i, name), _caption(explanation, i), png))
            if distribution is not None:
                spread = to_png(distribution.drawn(i, name, picture(images[i])))
                write_bytes(folder / f"{Path(file).stem}-spread.png", spread)
                pngs.append(Figure(f"{name}: how sure the maps are", distribution.caption(i), spread))
        verdict = run.localize(to_float(images))
        labels = [one.label for one in loaded]
        report = Report(
            title="What the latents see",
            lead=_lead(run, explanation),
            summary=(
                ("images", str(len(names))),
                ("latents", f"{len(explanation.active)}, {int(explanation.active.sum())} active on normal images"),
                ("layer", f"{explanation.maps.layer} ({explanation.maps.method.replace('_', ' ')})"),
            ),
            settings=run.settings(),
            tables=(),
            figures=tuple(pngs),
            images=tuple(cards(run, names, images, verdict, explanation, labels)),
            map_limit=None,
            latent_limit=limit,
            notes=(*NOTES, *(() if distribution is None else (SPREAD,))),
        )
        result = Explained(names, explanation, tuple(files), out / "report.html", distribution)
        numbers = result.to_dict()
        numbers["report"] = "report.html"
        for entry, drawn in zip(numbers["images"], files, strict=True):
            entry["picture"] = drawn.name  # beside it, wherever the folder goes
        write_json(folder / "latents.json", numbers)
        write_report(report, folder / "report.html")
    return result


NOTES = (
    f"A latent fires where its posterior mean is at least {FIRED_Z:g} standard deviations from its mean over held-out normal "
    f"images and it carries more than {FIRED_NATS:g} nats about the image.",
    "A map shows where a latent's value comes from, measured against no activation at all: what is bright counts, whether or "
    "not it is abnormal. The anomaly map compares with the nearest normal images instead.",
)


def _lead(run: Run, explanation: Explanation) -> str:
    fired = int(explanation.fired.any(1).sum())
    return (
        f"Attention maps of every latent of {run.path.name}, trained on {run.config.dataset['name']} with class "
        f"{run.config.dataset['normal']} as normal. In {fired} of {len(explanation.fired)} images at least one latent fired."
    )


def _grid(explanation: Explanation, i: int, name: str, image: Any, limit: float) -> Any:
    maps = explanation.maps
    names = [_latent_name(explanation, k, i) for k in range(maps.signed.shape[1])]
    rows = maps.latents if maps.latents.ndim == 1 else maps.latents[i]
    z_scores, fired = explanation.z_scores[i, rows], explanation.fired[i, rows]
    # A dead latent may be many standard deviations off, for its spread is next to nothing: it is not marked as fired.
    shown = z_scores.masked_fill((z_scores.abs() >= FIRED_Z) & ~fired, float("nan"))
    return latent_grid(
        image[None],
        maps.per_latent[i : i + 1].numpy(),
        names,
        [name],
        z_scores=shown[None].numpy(),
        limit=limit,
    )


def _latent_name(explanation: Explanation, k: int, i: int) -> str:
    latents = explanation.maps.latents
    latent = int(latents[k] if latents.ndim == 1 else latents[i, k])
    return f"z{latent}" if bool(explanation.active[latent]) else f"z{latent} (dead)"


def _title(explanation: Explanation, i: int, name: str) -> str:
    fired = explanation.fired[i].nonzero().flatten().tolist()
    return f"{name}: {'no latent' if not fired else ', '.join(f'z{d}' for d in fired)} fired"


def _caption(explanation: Explanation, i: int) -> str:
    z_scores = explanation.z_scores[i]
    fired = sorted(explanation.fired[i].nonzero().flatten().tolist(), key=lambda d: -abs(float(z_scores[d])))
    if not fired:
        return "All latents are where the normal images have them."
    return "Farthest from the normal images: " + ", ".join(f"z{d} by {float(z_scores[d]):+.1f} sd" for d in fired[:8]) + "."


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[-80:] or "image"
