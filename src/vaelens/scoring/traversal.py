"""What each latent of a run of dSprites does to a sprite of each shape, and where in it the latent looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaelens.attention import LatentAttention, LatentMaps
from vaelens.attention.variants import is_linear
from vaelens.data.files import shown
from vaelens.data.sprites import FACTORS, SHAPES, SIZES, load_official, name_of, render
from vaelens.errors import UsageError
from vaelens.metrics.codes import labelled
from vaelens.metrics.information import mutual_information
from vaelens.models import LAYOUT
from vaelens.objectives import active_latents, kl_per_latent
from vaelens.output import check_free, result_folder, write_bytes, write_json
from vaelens.report.content import Figure, Report, Table
from vaelens.report.html import write_report
from vaelens.report.sheet import to_png
from vaelens.report.traversals import traversal_grid
from vaelens.runs import Run
from vaelens.runs.traversal import decode, frames_of
from vaelens.scoring.gallery import picture

POSE = (5, 0, 16, 16)
"""Scale, orientation, posX and posY of the sprites that are drawn: the largest, not turned, in the middle."""
VALUES = tuple(step / 2 for step in range(-4, 5))
"""That a latent takes: two standard deviations of its prior to both sides."""
SAMPLE = 20_000  # sprites that tell what the latents carry and know
MOST = 128  # latents that one picture shows
_AT_ONCE = 256

_RAISES = "A map has what raises a latent, so a map may be empty where the sprite lowers it; what lowers it is drawn beside it."

Draw: TypeAlias = Callable[[NDArray[np.int64]], Tensor]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the latents of a run carry, on sprites drawn at random.

    Attributes:
        kl: (D,), nats, the mean over the sprites.
        information: (D, F), nats, mutual information of latents and factors.
        entropy: (F,), nats, of the factors.
        sprites: how many were drawn.
    """

    kl: Tensor
    information: NDArray[np.float64]
    entropy: NDArray[np.float64]
    sprites: int

    @property
    def active(self) -> Tensor:
        """(D,), bool: latents with more than 0.05 nats in the mean."""
        return active_latents(self.kl)

    def most_of(self, latent: int) -> tuple[str, float, float]:
        """The factor that a latent knows most of, how much in nats, and as a share of what there is to know."""
        factor = int(self.information[latent].argmax())
        nats = float(self.information[latent, factor])
        return FACTORS[factor], nats, nats / float(self.entropy[factor])


@dataclass(frozen=True, eq=False)
class Traversed:
    """What `traverse` came to.

    Attributes:
        names: of the S sprites, one of each shape.
        images: (S, 1, 64, 64), float32.
        maps: of K latents for each of them.
        decoded: (S, 1, 64, 64), in [0, 1], the decoder's images of their posterior means.
        frames: (S, K, V, 1, 64, 64), in [0, 1]: the same with the latent of map k at value v of `VALUES`.
        knowledge: of all latents.
        files: the pictures.
        report: the HTML report.
    """

    names: tuple[str, ...]
    images: Tensor
    maps: LatentMaps
    decoded: Tensor
    frames: Tensor
    knowledge: Knowledge
    files: tuple[Path, ...]
    report: Path

    def rows(self, i: int) -> list[int]:
        """The positions of sprite i's maps in the order of its picture: those of active latents, then those of dead ones."""
        latents = self.latents(i)
        return sorted(range(len(latents)), key=lambda k: not self.knowledge.active[latents[k]])

    def latents(self, i: int) -> list[int]:
        """Which latents sprite i's maps and frames belong to."""
        latents = self.maps.latents
        return [int(latent) for latent in (latents if latents.ndim == 1 else latents[i])]

    def to_dict(self) -> dict[str, Any]:
        """As `explain --json` prints it."""
        known, kl = self.knowledge, kl_per_latent(self.maps.mean, self.maps.logvar)
        latents = [
            {
                "latent": latent,
                "active": bool(known.active[latent]),
                "kl": float(known.kl[latent]),
                "knows_most_of": known.most_of(latent)[0] if bool(known.active[latent]) else None,
                "mutual_information": known.information[latent].tolist(),
            }
            for latent in range(len(known.kl))
        ]
        images = [
            {
                "image": name,
                "picture": str(file),
                "rows": [self.latents(i)[k] for k in self.rows(i)],
                "mean": self.maps.mean[i].tolist(),
                "logvar": self.maps.logvar[i].tolist(),
                "kl": kl[i].tolist(),
            }
            for i, (name, file) in enumerate(zip(self.names, self.files, strict=True))
        ]
        return {
            "layer": self.maps.layer,
            "method": self.maps.method,
            "variant": self.maps.variant,
            "active_latents": known.active.nonzero().flatten().tolist(),
            "values": list(VALUES),
            "factors": list(FACTORS),
            "measured_on": known.sprites,
            "latents": latents,
            "images": images,
            "report": str(self.report),
        }


def traverse(
    run: Run, out: Path, attention: LatentAttention | None = None, overwrite: bool = False, root: Path | None = None
) -> Traversed:
    """Draw, for a sprite of each shape, what each latent does to it beside the latent's map, on one colour scale.

    The folder gets a PNG for each shape, `latents.json` with the numbers and `report.html`.

    Args:
        run: of dSprites.
        out: folder to make.
        attention: for another layer, variant or method than the run's, or for some of its latents.
        overwrite: replace a folder of results that is there.
        root: the official file or its folder, where it has moved, or to have its sprites in place of drawn ones.

    Raises:
        UsageError: a run of another data set, more than 128 latents, or a folder that is not free.
        DataError: the official file is not what it should be.
    """
    check_of_sprites(run)
    check_free(out, "explain", overwrite)
    if Path(os.path.realpath(run.path)).is_relative_to(os.path.realpath(out)):
        raise UsageError(f"the run {shown(run.path)} lies in --out {shown(out)}; choose another --out")
    with result_folder(out, "explain", overwrite) as folder:  # a place that cannot be written is known before the work
        result = _traversed(run, out, attention, root)
        limit = float(result.maps.signed.abs().max()) or 1.0
        pngs = [to_png(_grid(result, i, limit)) for i in range(len(result.names))]
        for file, png in zip(result.files, pngs, strict=True):
            write_bytes(folder / file.name, png)
        numbers = result.to_dict()
        numbers["report"] = "report.html"
        for entry, file in zip(numbers["images"], result.files, strict=True):
            entry["picture"] = file.name  # beside it, wherever the folder goes
        write_json(folder / "latents.json", numbers)
        write_report(_report(run, result, pngs), folder / "report.html")
    return result


def _traversed(run: Run, out: Path, attention: LatentAttention | None, root: Path | None) -> Traversed:
    """What is to be drawn, for a sprite of each shape."""
    draw = sprites_of(run, root)
    poses = np.array([(shape, *POSE) for shape in range(len(SHAPES))])
    images = draw(poses)
    maps = run.explain(images, attention).maps
    if maps.signed.shape[1] > MOST:
        raise UsageError(
            f"explain draws a row for each latent and at most {MOST}, and the run has {maps.signed.shape[1]}; choose some by "
            f"--latents, such as top{MOST}"
        )
    return Traversed(
        names=tuple(name_of(pose) for pose in poses.tolist()),
        images=images,
        maps=maps,
        decoded=decode(run, maps.mean),
        frames=frames_of(run, maps, VALUES),
        knowledge=knowledge_of(run, draw),
        files=tuple(out / f"{shape}.png" for shape in SHAPES),
        report=out / "report.html",
    )


def check_of_sprites(run: Run) -> None:
    """Refuse a run of another data set.

    Raises:
        UsageError: the message says what to do with it.
    """
    if not run.config.of_factors:
        raise UsageError(f"{run.path} is of {run.config.dataset['name']}, not of dsprites; explain images of it")


def sprites_of(run: Run, root: Path | None = None) -> Draw:
    """What makes sprites by their factors, (N, 5) -> (N, 1, 64, 64), float32: drawn, or looked up where the run has a file.

    Drawing takes no memory for the 737,280 that there are.

    Args:
        run: of dSprites.
        root: the official file or its folder, where it has moved, or to have its sprites in place of drawn ones.

    Raises:
        UsageError, DataError: see `load_official`.
    """
    place = root or run.config.dataset["root"]
    if place is None:
        return lambda classes: torch.from_numpy(render(classes)).unsqueeze(1).float()
    official = load_official(Path(place), download=False)
    return lambda classes: official.take(official.numbers(classes))


def random_poses(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Factors (count, 5) of sprites drawn at random."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in SIZES], dim=1).numpy()


def knowledge_of(run: Run, draw: Draw, count: int | None = None) -> Knowledge:
    """What the latents carry, and know of the factors, on sprites drawn at random.

    Args:
        run: of dSprites.
        draw: see `sprites_of`.
        count: of sprites; None: 20,000.
    """
    poses = random_poses(SAMPLE if count is None else count)
    codes = []
    with torch.inference_mode():
        for part in np.array_split(poses, -(-len(poses) // _AT_ONCE)):
            batch = draw(part).to(run.device).contiguous(memory_format=LAYOUT)
            codes.append([code.cpu() for code in run.model.encode(batch)])
    mean, logvar = (torch.cat(code) for code in zip(*codes, strict=True))
    information, entropy = mutual_information(labelled("mutual information", mean, poses))
    return Knowledge(kl_per_latent(mean, logvar).double().mean(0), information, entropy, len(poses))


def _grid(result: Traversed, i: int, limit: float) -> Any:
    rows, latents, maps = result.rows(i), result.latents(i), result.maps
    drawn = [latents[k] for k in rows]
    means = [float(maps.mean[i, latent]) for latent in drawn]
    return traversal_grid(
        picture(result.images[i]),
        picture(result.decoded[i]),
        np.stack([[picture(frame) for frame in result.frames[i, k]] for k in rows]),
        maps.per_latent[i, rows].numpy(),
        [_latent(latent, result.knowledge) for latent in drawn],
        VALUES,
        result.names[i],
        means=means,
        notes=[_notes(latent, mean, result.knowledge) for latent, mean in zip(drawn, means, strict=True)],
        limit=limit,
        # The other variants' maps have both in them, or nothing that lowers.
        lowering=torch.relu(-maps.signed[i, rows]).numpy() if is_linear(maps.variant) else None,
    )


def _latent(latent: int, knowledge: Knowledge) -> str:
    return f"z{latent}" if bool(knowledge.active[latent]) else f"z{latent} (dead)"


def _notes(latent: int, mean: float, knowledge: Knowledge) -> list[str]:
    here = f"{mean:+.2f} here".replace("-", "−")
    if not knowledge.active[latent]:
        return [here]
    factor, _, share = knowledge.most_of(latent)
    return [here, f"knows {share:.0%} of {factor}"]


def _report(run: Run, result: Traversed, pngs: list[bytes]) -> Report:
    known, maps = result.knowledge, result.maps
    captions = [
        "Largest posterior means: "
        + ", ".join(f"z{k} {float(mean[k]):+.2f}".replace("-", "−") for k in mean.abs().argsort(descending=True)[:4].tolist())
        + "."
        for mean in maps.mean
    ]
    return Report(
        title="What each latent does, and where it looks",
        lead=f"Latents of {run.path.name}, of objective '{run.config.objective}', on a sprite of each shape: the decoder's "
        "images as each latent moves, beside its attention map.",
        summary=(
            ("latents", f"{len(known.kl)}, {int(known.active.sum())} active"),
            ("layer", f"{maps.layer} ({maps.method.replace('_', ' ')})"),
            ("values of a latent", f"{len(VALUES)}, from {VALUES[0]:g} to {VALUES[-1]:+g}".replace("-", "−")),
        ),
        settings=run.settings(),
        tables=(_table(known),),
        figures=tuple(Figure(name, caption, png) for name, caption, png in zip(result.names, captions, pngs, strict=True)),
        images=(),
        map_limit=None,
        notes=(
            "All latents but the moved one stay at the sprite's posterior mean. The prior has a standard deviation of 1.",
            "A dead latent carries 0.05 nats or less in the mean: the decoder has learned to do without it, and its map means "
            "nothing.",
            "A map shows where a latent's value comes from, measured against no activation at all, on one colour scale for all "
            "latents and shapes.",
            *((_RAISES,) if is_linear(maps.variant) else ()),
        ),
    )


def _table(known: Knowledge) -> Table:
    rows: list[tuple[object, ...]] = []
    for latent, kl in enumerate(known.kl.tolist()):
        factor, nats, share = known.most_of(latent)
        rows.append((_latent(latent, known), kl, factor if bool(known.active[latent]) else "-", nats, share))
    return Table(
        f"Latents, on {known.sprites:,} sprites drawn at random",
        ("latent", "KL, nats", "knows most of", "mutual information, nats", "share of the factor's entropy"),
        tuple(rows),
        note="Mutual information is taken over 20 bins of a latent: of a latent that knows nothing, it is a little above 0.",
    )
