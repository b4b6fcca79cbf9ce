"""How far anomaly maps can be trusted: whether scores hang on the pixels they name, and whether those are the defect's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.metrics.faithfulness import PairedDifference, centre_map, energy_inside, paired_difference, pointing_game
from vaelens.runs import Run
from vaelens.runs.localizers import build
from vaelens.runs.objective import main_localizer_of
from vaelens.scoring.faithfulness_curves import Judge, Judged, areas
from vaelens.scoring.faithfulness_sample import Sample, replacement_of

SCORED = 16  # images whose scores are followed: each step of each curve is another image to localize
_AT_ONCE = 32


@dataclass(frozen=True)
class Inside:
    """Maps of images with a mask.

    Attributes:
        pointing: the share of images whose highest pixel lies in the mask.
        energy: the mean share of the map's sum that does.
        gains: of either figure, "pointing" and "energy", over a random map (the mask's share of the image, exactly) and over
            a Gaussian at the centre.
    """

    pointing: float
    energy: float
    gains: Mapping[str, Mapping[str, PairedDifference]]

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        gains = {figure: {name: gain.to_dict() for name, gain in each.items()} for figure, each in self.gains.items()}
        return {"pointing_game": self.pointing, "energy_inside": self.energy, "gain": gains}


@dataclass(frozen=True, eq=False)
class JudgedAnomalies:
    """Anomaly maps of a run.

    Attributes:
        curves: by localizer, deletion and insertion of its score, pixels being replaced by the nearest normal image's.
        baselines: of each localizer, areas and curves by name and kind.
        scored: how many images were followed for these.
        inside: by localizer, and by "METHOD (mean of latents)"; empty where no image has a mask.
        chance: the same of maps that know nothing, "random" and "centre".
        masked: how many images with a mask.
    """

    curves: dict[str, dict[str, Judged]]
    baselines: dict[str, dict[str, dict[str, dict[str, Any]]]]
    scored: int
    inside: dict[str, Inside]
    chance: dict[str, dict[str, float]]
    masked: int

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        followed = {name: {kind: one.to_dict() for kind, one in each.items()} for name, each in self.curves.items()}
        return {
            "score_images": self.scored,
            "score_curves": followed,
            "score_baselines": self.baselines,
            "masked_images": self.masked,
            "inside": {name: found.to_dict() for name, found in self.inside.items()},
            "inside_by_chance": self.chance,
        }


def check_localizers(run: Run, asked: list[str] | None) -> list[str]:
    """The localizers to judge: those asked for, or the main one, the deviation and the reconstruction; none of dsprites.

    Raises:
        UsageError: one that the run does not allow.
    """
    if run.config.of_factors:
        return []
    names = asked or [main_localizer_of(run.config), "deviation", "reconstruction"]
    for name in names:
        build(name, run.model, run.config)
    return list(dict.fromkeys(names))


def judge_anomalies(
    run: Run,
    names: list[str],
    sample: Sample,
    overall: Mapping[str, Tensor | None],
    steps: int,
    seed: int,
    done: Callable[[], None],
) -> JudgedAnomalies:
    """Judge anomaly maps.

    Args:
        run: with normal images.
        names: of localizers.
        sample: its images.
        overall: by method, maps (M, h, w) of the images with masks, in the mean over latents.
        steps, seed: of the curves.
        done: called behind each of eight parts for each localizer.
    """
    images = sample.images[:SCORED]
    replacement = replacement_of(run, images, "neighbour")
    curves, baselines = {}, {}
    found: dict[str, Tensor] = {}
    for name in names:
        localizer = run.localizer(name)

        def score(batch: Tensor, localize: Callable[[Tensor], Any] = localizer.localize) -> Tensor:
            return torch.as_tensor(localize(batch).score)[:, None]

        judge = Judge.prepare(score, images, replacement, [0], steps, seed, done)
        curves[name] = judge.judge(localizer.localize(images).maps.unsqueeze(1), done)
        baselines[name] = areas(judge.baselines)
        if sample.masked is not None:
            found[name] = torch.cat([localizer.localize(batch).maps for batch in torch.split(sample.masked, _AT_ONCE)])
    found |= {f"{name} (mean of latents)": maps for name, maps in overall.items() if maps is not None}
    masks = sample.masks
    if masks is None:
        return JudgedAnomalies(curves, baselines, len(images), {}, {}, 0)
    random = masks.double().mean((1, 2))
    centre = centre_map((masks.shape[1], masks.shape[2])).expand(len(masks), -1, -1)
    chance = {"pointing": {"random": random, "centre": pointing_game(centre, masks)}}
    chance["energy"] = {"random": random, "centre": energy_inside(centre, masks)}
    return JudgedAnomalies(
        curves=curves,
        baselines=baselines,
        scored=len(images),
        inside={name: _inside(maps, masks, chance) for name, maps in found.items()},
        chance={name: {figure: float(each[name].mean()) for figure, each in chance.items()} for name in ("random", "centre")},
        masked=len(masks),
    )


def _inside(maps: Tensor, masks: Tensor, chance: Mapping[str, Mapping[str, Tensor]]) -> Inside:
    figures = {"pointing": pointing_game(maps, masks), "energy": energy_inside(maps, masks)}
    share = chance["pointing"]["random"]
    drawn = float((share * (1 - share)).mean().sqrt())  # how far hits of one pixel of each image, drawn at random, spread
    least = {("pointing", "random"): drawn}
    gains = {
        figure: {
            name: paired_difference(values - base, least.get((figure, name), 0.0)) for name, base in chance[figure].items()
        }
        for figure, values in figures.items()
    }
    return Inside(float(figures["pointing"].mean()), float(figures["energy"].mean()), gains)
