"""Figure 9: the two latents of highest response, FactorVAE above AD-FactorVAE, on sprites of each shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelens.attention import LatentMaps
from vaelens.data.sprites import SHAPES, name_of
from vaelens.errors import UsageError
from vaelens.objectives.attention_disentanglement import overlap
from vaelens.output import write_bytes, write_json
from vaelens.paper.asked import Asked
from vaelens.paper.result import Reproduced
from vaelens.paper.sprite_runs import given_sprite_runs, label_of, sprite_recipes, sprite_runs
from vaelens.report.pairs import Pairs, figure9
from vaelens.report.sheet import to_png
from vaelens.report.wording import signed
from vaelens.runs import Run
from vaelens.scoring.gallery import pictures
from vaelens.scoring.traversal import Draw, random_poses, sprites_of
from vaelens.training.settings import steps_of

OBJECTIVES = ("factor", "ad-factor")
POSES = ((5, 0, 16, 16), (3, 13, 8, 24), (1, 26, 24, 8))
"""Scale, orientation, posX and posY of each shape: large, middling and small; turned by none, one and two thirds of a turn; in
the middle, below on the left and above on the right."""
EMPTY = "∅"  # beside the name of a map that is zero everywhere
_AT_RANDOM = 2_048
_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Responses:
    """The two latents of highest response in each sprite.

    Attributes:
        run: whose.
        maps: of two latents for each sprite that is shown.
        overlap: (N,), eq. 5 of the two, for these.
        at_random: (M,), the same for sprites drawn at random.
        empty: share of the maps of sprites drawn at random that are zero everywhere.
    """

    run: Run
    maps: LatentMaps
    overlap: Tensor
    at_random: Tensor
    empty: float

    @property
    def shown_empty(self) -> int:
        """How many of the maps that are shown are zero everywhere."""
        return int(_empty(self.maps).sum())

    @property
    def means(self) -> Tensor:
        """(N, 2): the posterior means of the two latents."""
        return self.maps.mean.gather(1, self.maps.latents)

    def to_dict(self, names: list[str]) -> dict[str, Any]:
        """Plain values, for JSON."""
        pairs = zip(names, self.maps.latents.tolist(), self.means.tolist(), self.overlap.tolist(), strict=True)
        return {
            "label": label_of(self.run),
            "seed": self.run.config.training["seed"],
            "steps": steps_of(self.run.config.training),
            "layer": self.maps.layer,
            "pairs": [{"sprite": name, "latents": two, "means": means, "overlap": over} for name, two, means, over in pairs],
            "empty_maps": self.shown_empty,
            "at_random": {
                "sprites": len(self.at_random),
                "overlap": float(self.at_random.mean()),
                "share_of_empty_maps": self.empty,
            },
        }


def make(asked: Asked, out: Path) -> Reproduced:
    """Write OUT/figure9.png and .json: three sprites of each shape, none chosen for its looks.

    Raises:
        UsageError: given runs that are not one of FactorVAE and one of AD-FactorVAE.
    """
    runs = _given(asked) or list(sprite_runs(sprite_recipes(OBJECTIVES, (asked.one_seed,), asked), out, asked))
    runs.sort(key=lambda run: OBJECTIVES.index(run.config.objective))
    draw = sprites_of(runs[0], asked.root)
    poses = np.array([(shape, *pose) for pose in POSES for shape in range(len(SHAPES))])
    names = [name_of(pose) for pose in poses.tolist()]
    found = [responses(run, draw, draw(poses)) for run in runs]
    shape = (len(POSES), len(SHAPES))
    inputs = pictures(draw(poses))
    drawn = figure9(inputs.reshape(*shape, *inputs.shape[1:]), SHAPES, [_block(one, shape) for one in found])
    files = (out / "figure9.png", out / "figure9.json")
    write_bytes(files[0], to_png(drawn))
    write_json(files[1], {"name": "figure9", "runs": [one.to_dict(names) for one in found]})
    return Reproduced("figure9", text_of(found), files, tuple(run.settings() for run in runs))


def responses(run: Run, draw: Draw, sprites: Tensor) -> Responses:
    """The maps of the two latents of largest |posterior mean|, and how far they overlap.

    Args:
        run: of dSprites.
        draw: see `sprites_of`.
        sprites: (N, 1, 64, 64), to be shown.
    """
    attention = run.attend(latents="top2")
    maps = run.explain(sprites, attention).maps
    poses = random_poses(_AT_RANDOM, seed=1)
    at_random = [run.explain(draw(part), attention).maps for part in np.array_split(poses, -(-len(poses) // _AT_ONCE))]
    return Responses(
        run=run,
        maps=maps,
        overlap=_overlap(maps),
        at_random=torch.cat([_overlap(one) for one in at_random]),
        empty=float(torch.cat([_empty(one) for one in at_random]).float().mean()),
    )


def text_of(found: list[Responses]) -> str:
    """What the figure shows, in a few lines."""
    lines = [
        f"Figure 9: maps (eq. 2) of the two latents of largest |posterior mean|, for {len(POSES)} sprites of each shape; each "
        "two have their own colour scale, to the most of both."
    ]
    for one in found:
        table = one.overlap.reshape(len(POSES), len(SHAPES))
        pairs = "; ".join(
            f"{shape} {', '.join(f'{value:.2f}' for value in table[:, at].tolist())}" for at, shape in enumerate(SHAPES)
        )
        seed, drawn = one.run.config.training["seed"], len(one.at_random)
        lines += [
            f"{label_of(one.run)}: seed {seed}, {steps_of(one.run.config.training):,} steps, layer {one.maps.layer}.",
            f"  Overlap (eq. 5) of each pair, from top to bottom: {pairs}.",
            f"  {one.shown_empty} of these {2 * len(one.maps)} maps are zero everywhere ({EMPTY}); so is their pairs' overlap.",
            f"  Over {drawn:,} sprites drawn at random: overlap {float(one.at_random.mean()):.3f}, empty maps {one.empty:.0%}.",
        ]
    return "\n".join(lines)


def _given(asked: Asked) -> list[Run]:
    runs = given_sprite_runs(asked)
    objectives = [run.config.objective for run in runs]
    if runs and sorted(objectives) != sorted(OBJECTIVES):
        raise UsageError(
            f"figure9 takes two runs, one of objective factor and one of ad-factor; given: {', '.join(objectives)}"
        )
    return runs


def _block(found: Responses, shape: tuple[int, int]) -> Pairs:
    rows, columns = shape
    latents, means, empty = found.maps.latents.tolist(), found.means.tolist(), _empty(found.maps).tolist()
    named = [(_named(z[0], a[0], e[0]), _named(z[1], a[1], e[1])) for z, a, e in zip(latents, means, empty, strict=True)]
    noted = [f"overlap {value:.2f}" for value in found.overlap.tolist()]
    maps = found.maps.per_latent
    return Pairs(
        title=label_of(found.run),
        maps=maps.reshape(rows, columns, *maps.shape[1:]).numpy(),
        names=[named[at : at + columns] for at in range(0, rows * columns, columns)],
        notes=[noted[at : at + columns] for at in range(0, rows * columns, columns)],
    )


def _named(latent: int, mean: float, empty: bool) -> str:
    return f"z{latent} = {signed(mean)}{f' {EMPTY}' if empty else ''}"


def _overlap(maps: LatentMaps) -> Tensor:
    return overlap(*maps.per_latent.flatten(2).unbind(1))


def _empty(maps: LatentMaps) -> Tensor:
    """(N, 2), bool: maps that are zero everywhere."""
    return maps.per_latent.flatten(2).amax(2) == 0
