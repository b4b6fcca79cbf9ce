"""Images, verdicts and latents of a run as the cards of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vaelens.attention import LatentMaps
from vaelens.data.images import to_float
from vaelens.report.colour import outlined
from vaelens.report.content import Array, FiredLatent, ReportImage
from vaelens.runs import Explanation, Run, Verdict

FLAGGED_COLOUR = (230, 30, 40)
TRUE_COLOUR = (40, 200, 80)
MOST_FIRED = 8  # latents whose maps a card shows, those of largest |z| first; the others that fired are named


def picture(image: Tensor) -> Array:
    """(C, H, W), uint8 or float in [0, 1] -> (H, W) or (H, W, 3), the same values."""
    array: Array = image.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def pictures(images: Tensor) -> Array:
    """(N, C, H, W), uint8 or float in [0, 1] -> (N, H, W) or (N, H, W, 3), the same values."""
    return np.stack([picture(image) for image in images])


def cards(
    run: Run,
    names: Sequence[str],
    images: Tensor,
    verdict: Verdict,
    explanation: Explanation | None,
    labels: Sequence[str | None] | None = None,
    truth: Tensor | None = None,
) -> list[ReportImage]:
    """One card per image.

    Args:
        run: whose verdict and explanation these are.
        names: B names.
        images: (B, C, H, W), uint8.
        verdict: of these images.
        explanation: of these images; None where the run's model has no latents to explain.
        labels: B classes, where known.
        truth: (B, H, W), bool, where the images are truly abnormal, where known.
    """
    reconstructions = None
    if run.reconstructs:
        # What explained the images has encoded them already.
        mean = None if explanation is None else explanation.maps.mean
        reconstructions = run.visible(run.reconstruct(to_float(images), mean))
    images = run.visible(images)
    return [
        ReportImage(
            name=names[i],
            image=_alone(picture(images[i])),
            score=float(verdict.score[i]),
            p_value=float(verdict.p_value[i]),
            flagged=bool(verdict.flagged[i]),
            label=None if labels is None else labels[i],
            anomaly_map=_alone(verdict.maps[i].numpy()),
            fired=() if explanation is None else fired_latents(explanation, i),
            reconstruction=None if reconstructions is None else _alone(picture(reconstructions[i])),
            error=None,
            further=_outlines(picture(images[i]), verdict, i, truth),
        )
        for i in range(len(names))
    ]


def _outlines(image: Array, verdict: Verdict, i: int, truth: Tensor | None) -> tuple[tuple[str, Array], ...]:
    """The image with what is flagged outlined, and what is truly abnormal; nothing where there is neither."""
    masks = {}
    if truth is not None and bool(truth[i].any()):
        masks[TRUE_COLOUR] = truth[i].numpy()
    if bool(verdict.masks[i].any()):
        masks[FLAGGED_COLOUR] = verdict.masks[i].numpy()
    if not masks:
        return ()
    caption = "flagged (red)" + (", truth (green)" if truth is not None else "")
    return ((caption, outlined(image, masks)),)


def fired_latents(explanation: Explanation, i: int) -> tuple[FiredLatent, ...]:
    """The latents that fired in image i, the farthest from normal first; the first eight that were explained with a map.

    It shows what moved the latent: where its z-score is negative, that is what lowers it.
    """
    z_scores = explanation.z_scores[i]
    order = sorted(explanation.fired[i].nonzero().flatten().tolist(), key=lambda d: -abs(float(z_scores[d])))
    maps = explanation.maps
    explained = (maps.latents if maps.latents.ndim == 1 else maps.latents[i]).tolist()
    drawn = [d for d in order if d in explained][:MOST_FIRED]
    nothing = np.zeros((0, 0), np.float32)
    return tuple(
        FiredLatent(
            d,
            float(z_scores[d]),
            float(maps.mean[i, d]),
            _alone(_moved(maps, i, explained.index(d), float(z_scores[d]))) if d in drawn else nothing,
        )
        for d in order
    )


def _moved(maps: LatentMaps, i: int, k: int, z_score: float) -> Array:
    """What raises a latent that is above normal, and what lowers one that is below: its own map would be all but empty then."""
    if z_score < 0 and maps.rectifier == "relu":
        return torch.relu(-maps.signed[i, k]).numpy()
    return maps.per_latent[i, k].numpy()


def _alone(view: Array) -> Array:
    """A copy, so that a card that is kept does not keep its whole batch in memory."""
    return np.array(view)


def unreadable(name: str, error: str) -> ReportImage:
    """The card of an image that could not be read."""
    nothing = np.zeros((1, 1), np.uint8)
    return ReportImage(name, nothing, float("nan"), None, None, None, nothing.astype(np.float32), (), None, error)
