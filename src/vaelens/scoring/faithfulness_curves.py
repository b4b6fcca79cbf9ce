"""Deletion and insertion of one method against the maps that know nothing of the model, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaelens.metrics.faithfulness import BASELINES, Curve, PairedDifference, deletion, insertion
from vaelens.metrics.faithfulness.inputs import Encode

KINDS = {"deletion": deletion, "insertion": insertion}
CHANCE = ("random", "centre")
"""The baselines that a map must be above to be better than chance."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Curves of one kind, of one method.

    Attributes:
        curve: of its maps.
        gains: over each of `BASELINES`; above 0 is better, in shares of what replacing the whole image does.
    """

    curve: Curve
    gains: Mapping[str, PairedDifference]

    @property
    def verdict(self) -> str:
        """ "better than chance" where it is above random and centre, "worse than chance" where it is below random, else "no
        better than chance"; "too few images" where no interval can be given."""
        found = [self.gains[name].verdict for name in CHANCE]
        if "too few images" in found:
            return "too few images"
        if found == ["better", "better"]:
            return "better than chance"
        return "worse than chance" if found[0] == "worse" else "no better than chance"

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        area = self.curve.share.nanmean()
        return {
            "area": float(area),
            "verdict": self.verdict,
            "gain": {name: gain.to_dict() for name, gain in self.gains.items()},
            "curve": self.curve.mean.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Judge:
    """What is followed on which images, and the baselines' curves of it.

    Attributes:
        encode: what is followed.
        images, replacement: (B, C, H, W).
        latents: K indices of what is followed.
        steps, seed: of the curves.
        baselines: curves by kind, then by name.
    """

    encode: Encode
    images: Tensor
    replacement: Tensor
    latents: list[int]
    steps: int
    seed: int
    baselines: Mapping[str, Mapping[str, Curve]]

    @classmethod
    def prepare(
        cls,
        encode: Encode,
        images: Tensor,
        replacement: Tensor,
        latents: list[int],
        steps: int,
        seed: int,
        done: Callable[[], None],
    ) -> Judge:
        """With the baselines' curves; `done` is called behind each of the six."""
        curves: dict[str, dict[str, Curve]] = {}
        for kind, follow in KINDS.items():
            for name in BASELINES:
                curve = follow(encode, images, name, replacement=replacement, latents=latents, steps=steps, seed=seed)
                curves.setdefault(kind, {})[name] = curve
                done()
        return cls(encode, images, replacement, latents, steps, seed, curves)

    def judge(self, maps: Tensor, done: Callable[[], None]) -> dict[str, Judged]:
        """Maps (B, K, h, w) by kind of curve; `done` is called behind each of the two."""
        found = {}
        for kind, follow in KINDS.items():
            curve = follow(
                self.encode,
                self.images,
                maps,
                replacement=self.replacement,
                latents=self.latents,
                steps=self.steps,
                seed=self.seed,
            )
            found[kind] = Judged(curve, {name: curve.gain(base) for name, base in self.baselines[kind].items()})
            done()
        return found


def areas(baselines: Mapping[str, Mapping[str, Curve]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The baselines' areas and curves, as `evaluate --json` prints them."""
    return {
        name: {
            kind: {"area": float(each[name].share.nanmean()), "curve": each[name].mean.tolist()}
            for kind, each in baselines.items()
        }
        for name in BASELINES
    }
