"""How sure the maps of explained images are: what of their distribution is drawn, and what is told in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.attention import LatentAttention, PosteriorMaps
from vaelens.attention.variants import is_linear
from vaelens.objectives import kl_per_latent
from vaelens.report.content import Array
from vaelens.report.spreads import spread_grid
from vaelens.report.wording import number, signed
from vaelens.runs import Explanation, Run

MOST_FIRED = 6  # latents that fired whose spread is drawn, the farthest from normal first
MOST_TOLD = 3  # where none fired: those that carry most about the image
MOST_ASKED = 32  # latents that were asked for
CERTAIN = 0.95

NOTE = (
    "A latent's posterior has a spread, and so has its map: each cell is Gaussian, exactly, without a sample. Where the spread "
    "is as large as the map, the map at the posterior mean is one of many. The probability says how likely the map is above 0 "
    "at all."
)


@dataclass(frozen=True, eq=False)
class Distribution:
    """The distribution over the posterior of the maps of B explained images.

    Attributes:
        posterior: the maps (B, K, h, w).
        explanation: of the same images, with the same K latents.
        asked: whether the latents were chosen by a person: then all of them are drawn.
    """

    posterior: PosteriorMaps
    explanation: Explanation
    asked: bool

    @classmethod
    def of(
        cls, run: Run, images: Tensor, explanation: Explanation, attention: LatentAttention | None = None
    ) -> Distribution | None:
        """Of images (B, C, H, W), float in [0, 1], that were explained with this attention; None in a variant without one."""
        chosen = attention or run.attention
        if not is_linear(chosen.variant):
            return None
        return cls(run.posterior(images, chosen), explanation, chosen.latents is not None)

    def latents(self, i: int) -> list[int]:
        """Which latent each of image i's maps belongs to."""
        latents = self.posterior.maps.latents
        return [int(latent) for latent in (latents if latents.ndim == 1 else latents[i])]

    def rows(self, i: int) -> list[int]:
        """The positions of image i's maps that are drawn.

        Those asked for; else those of the latents that fired, the farthest from normal first; where none did, of those that
        carry most about the image.
        """
        if self.asked:
            return list(range(len(self.latents(i))))[:MOST_ASKED]
        z_scores, fired = self.explanation.z_scores[i].abs(), self.explanation.fired[i]
        if fired.any():
            return z_scores.masked_fill(~fired, -1).argsort(descending=True)[: min(MOST_FIRED, int(fired.sum()))].tolist()
        maps = self.posterior.maps
        return kl_per_latent(maps.mean[i], maps.logvar[i]).argsort(descending=True)[:MOST_TOLD].tolist()

    def drawn(self, i: int, name: str, image: Array) -> Any:
        """Image i's figure: of a latent below normal what lowers it, for that is what moved it."""
        posterior, rows, latents = self.posterior, self.rows(i), self.latents(i)
        sides = torch.tensor([-1.0 if self._lowered(i, latents[k]) else 1.0 for k in rows])
        mean, std = posterior.mean[i, rows] * sides[:, None, None], posterior.std[i, rows]
        above = posterior.probability()[i, rows]
        # Where nothing is active the map is 0 for certain, on both sides.
        below = torch.where(posterior.std[i, rows] > 0, 1 - above, (posterior.mean[i, rows] < 0).to(above.dtype))
        probability = torch.where(sides[:, None, None] < 0, below, above)
        return spread_grid(
            image,
            mean.relu().numpy(),
            std.numpy(),
            probability.clamp(0, 1).numpy(),
            [self._called(latents[k]) for k in rows],
            name,
            [self._notes(i, latents[k]) for k in rows],
        )

    def caption(self, i: int) -> str:
        """What image i's figure shows."""
        rows = self.rows(i)
        if self.asked:
            which = "Of the latents asked for"
        elif self.explanation.fired[i].any():
            of = int(self.explanation.fired[i].sum())
            which = "Of the latents that fired" if of == len(rows) else f"Of {len(rows)} of the {of} latents that fired"
        else:
            which = f"No latent fired: of the {len(rows)} that carry most about the image"
        return f"{which}, the map, its standard deviation over the posterior, and the probability that it is above 0."

    def to_dict(self, i: int) -> dict[str, Any]:
        """Image i's numbers, one for each of its K maps: of what raises the latent, eq. 2.

        Returns:
            latents: which; peak: the largest cell of the map at the posterior mean; std_at_peak, probability_at_peak: there;
            rms_std: the root mean square of the standard deviation over cells; certain: the share of cells where the
            probability is at least 0.95, or at most 0.05.
        """
        mean, std = self.posterior.mean[i].flatten(1), self.posterior.std[i].flatten(1)
        probability = self.posterior.probability()[i].flatten(1)
        at = mean.argmax(1, keepdim=True)
        certain = (probability >= CERTAIN) | (probability <= 1 - CERTAIN)
        return {
            "latents": self.latents(i),
            "peak": mean.gather(1, at).relu().flatten().tolist(),
            "std_at_peak": std.gather(1, at).flatten().tolist(),
            "probability_at_peak": probability.gather(1, at).flatten().tolist(),
            "rms_std": std.square().mean(1).sqrt().tolist(),
            "certain": certain.double().mean(1).tolist(),
        }

    def _lowered(self, i: int, latent: int) -> bool:
        return bool(self.explanation.fired[i, latent]) and float(self.explanation.z_scores[i, latent]) < 0

    def _called(self, latent: int) -> str:
        return f"z{latent}" if bool(self.explanation.active[latent]) else f"z{latent} (dead)"

    def _notes(self, i: int, latent: int) -> list[str]:
        maps, e = self.posterior.maps, self.explanation
        std = float(torch.exp(maps.logvar[i, latent] / 2))
        notes = [f"mean {number(float(maps.mean[i, latent]), 3)} ± {number(std, 2)}"]
        if bool(e.fired[i, latent]):
            notes.append(f"z-score {signed(float(e.z_scores[i, latent]))}")
        return [*notes, "what lowers it" if self._lowered(i, latent) else "what raises it"]
