"""Which images a gallery shows, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vaelens.errors import UsageError
from vaelens.report.content import ReportImage


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """The images of a gallery, highest score first.

    Args:
        images: those shown; ones without a score come last.
        total: how many there were.
        sentence: what was left out, in one sentence; empty where nothing was.
    """

    images: tuple[ReportImage, ...]
    total: int
    sentence: str


def select(images: Sequence[ReportImage], most: int, seed: int = 0) -> Selection:
    """At most `most` images: about 7 in 10 are those of highest score, 2 a random sample of the others, 1 failed ones.

    Args:
        images: all of them, in any order. Equal scores keep this order.
        most: at least 1. Where there are no more, all are taken.
        seed: of the sample; the same seed takes the same images.

    Raises:
        UsageError: `most` below 1.
    """
    if most < 1:
        raise UsageError(f"a report shows at least 1 image; most is {most}")
    ranked = sorted(images, key=lambda image: math.inf if math.isnan(image.score) else -image.score)
    total = len(ranked)
    if total <= most:
        return Selection(tuple(ranked), total, "")
    failed = [position for position, image in enumerate(ranked) if image.error is not None]
    sound = [position for position, image in enumerate(ranked) if image.error is None]
    # Room that the failed images or the others do not need goes to the other kind.
    for_failed = min(len(failed), max(most // 10, most - len(sound)))
    for_sound = most - for_failed
    drawn = min(most // 5, len(sound) - for_sound + most // 5) if len(sound) > for_sound else 0
    top = for_sound - drawn
    sample = np.random.default_rng(seed).choice(len(sound) - top, drawn, replace=False) if drawn else ()
    shown = sound[:top] + [sound[top + int(position)] for position in sample] + failed[:for_failed]
    parts = []
    if top:
        parts.append(f"the {top:,} with the highest scores")
    if drawn:
        parts.append(f"{drawn:,} drawn at random from the others (seed {seed})")
    if for_failed:
        parts.append(f"{for_failed:,} of {len(failed):,} that failed")
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
    return Selection(
        tuple(ranked[position] for position in sorted(shown)),
        total,
        f"The gallery shows {most:,} of {total:,} images: {listed}.",
    )
