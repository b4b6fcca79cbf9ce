"""Whether two models that were trained alike, from different seeds, look at the same places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import UsageError, brief
from vaelens.metrics.faithfulness.inputs import check_maps
from vaelens.metrics.faithfulness.similarity import map_similarity

LEAST = 0.5
"""The correlation of codes from which on two latents count as the same."""
_KINDS = ("pearson", "spearman", "cosine")


@dataclass(frozen=True)
class Agreement:
    """How alike the maps of matched latents are.

    Attributes:
        pairs: matched latents, of the first and of the second model, by falling correlation.
        correlation: of their codes over the images, in [-1, 1]; below 0 where one is the other's opposite.
        pearson, spearman, cosine: in the mean over images and pairs; NaN without a pair. Images in which either map is empty
            are left out.
        by_chance: the same between each matched latent and one of another pair, by the same names: what maps of the same
            images have in common anyway. NaN with fewer than two pairs.
        unmatched: the latents of the first model that have no partner.
        unmatched_other: those of the second.
    """

    pairs: tuple[tuple[int, int], ...]
    correlation: tuple[float, ...]
    pearson: float
    spearman: float
    cosine: float
    by_chance: dict[str, float]
    unmatched: tuple[int, ...]
    unmatched_other: tuple[int, ...]

    def named(self, latents: list[int], others: list[int]) -> Agreement:
        """The same with the K and L latents called by these numbers, where they are some of a model's."""
        return replace(
            self,
            pairs=tuple((latents[i], others[j]) for i, j in self.pairs),
            unmatched=tuple(latents[i] for i in self.unmatched),
            unmatched_other=tuple(others[j] for j in self.unmatched_other),
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, as plain values."""
        return {
            "pairs": [list(pair) for pair in self.pairs],
            "correlation": list(self.correlation),
            **{kind: getattr(self, kind) for kind in _KINDS},
            "by_chance": self.by_chance,
            "unmatched": list(self.unmatched),
            "unmatched_other": list(self.unmatched_other),
        }


def agreement(
    codes: Tensor,
    other_codes: Tensor,
    maps: Tensor,
    other_maps: Tensor,
    other_lowering: Tensor | None = None,
    least: float = LEAST,
) -> Agreement:
    """Match the latents of two models one to one by their codes of the same images, and compare the maps of each pair.

    Latents come in no order and with no sign. They are matched so that the sum of absolute correlations is largest (the
    Hungarian method); a pair whose correlation is below `least` is none.

    Args:
        codes: (N, K), posterior means of the first model.
        other_codes: (N, L), of the second, of the same images.
        maps: (M, K, h, w), of these images or others.
        other_maps: (M, L, h, w), of the same images and size.
        other_lowering: (M, L, h, w), the maps of what lowers each latent of the second model, for pairs that are opposites;
            None: maps have no sign (absolute values), and those of `other_maps` serve.
        least: in [0, 1].

    Raises:
        UsageError: shapes that do not fit, fewer than three images, or `least` outside of [0, 1].
    """
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise UsageError(f"least is the size of a correlation, from 0 to 1, got {brief(least)}")
    for name, code, of in (("codes", codes, maps), ("other_codes", other_codes, other_maps)):
        if not isinstance(code, Tensor) or code.ndim != 2 or len(code) < 3 or not code.isfinite().all():
            raise UsageError(f"{name} are finite numbers (N, K) of at least three images")
        if not isinstance(of, Tensor) or of.ndim != 4 or of.shape[1] != code.shape[1]:
            of_shape = tuple(of.shape) if isinstance(of, Tensor) else type(of).__name__
            raise UsageError(f"{name} are {tuple(code.shape)}, and their maps {of_shape}")
    if len(codes) != len(other_codes):
        raise UsageError(f"codes are of the same images, got {len(codes)} and {len(other_codes)}")
    first = check_maps(maps)
    second = check_maps(other_maps, len(first), "other_maps")
    lowering = second if other_lowering is None else check_maps(other_lowering, len(first), "other_lowering")
    if first.shape[2:] != second.shape[2:] or lowering.shape != second.shape:
        raise UsageError(f"maps of both models are of one size, got {tuple(first.shape[2:])} and {tuple(second.shape[2:])}")
    pairs, signs = _matched(codes, other_codes, least)
    here = first[:, [i for i, _ in pairs]]
    facing = [(second if r >= 0 else lowering)[:, j] for (_, j), r in zip(pairs, signs, strict=True)]
    there = torch.stack(facing, 1) if pairs else here
    turned = there.roll(1, 1)
    nothing = dict.fromkeys(_KINDS, torch.nan)
    found = {kind: float(map_similarity(here, there, kind).nanmean()) for kind in _KINDS} if pairs else nothing
    chance = {kind: float(map_similarity(here, turned, kind).nanmean()) for kind in _KINDS} if len(pairs) > 1 else nothing
    return Agreement(
        pairs=tuple(pairs),
        correlation=tuple(signs),
        **found,
        by_chance=chance,
        unmatched=tuple(sorted(set(range(codes.shape[1])) - {i for i, _ in pairs})),
        unmatched_other=tuple(sorted(set(range(other_codes.shape[1])) - {j for _, j in pairs})),
    )


def _matched(codes: Tensor, others: Tensor, least: float) -> tuple[list[tuple[int, int]], list[float]]:
    """Pairs and the correlations of their codes, the strongest first."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    scaled = []
    for values in (codes, others):
        centred = values.detach().cpu().double()
        centred = centred - centred.mean(0)
        scaled.append(centred / centred.norm(dim=0).clamp_min(1e-12))
    correlation = (scaled[0].T @ scaled[1]).clamp(-1, 1)
    rows, columns = linear_sum_assignment(correlation.abs().numpy(), maximize=True)
    found = [((int(i), int(j)), float(correlation[i, j])) for i, j in zip(rows, columns, strict=True)]
    found = sorted((pair for pair in found if abs(pair[1]) >= least), key=lambda pair: -abs(pair[1]))
    return [pair for pair, _ in found], [r for _, r in found]
