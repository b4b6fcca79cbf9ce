"""What a run says of images: what its latents see in them, and whether and where they are not normal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaelens.attention import LatentMaps

FIRED_Z = 3.0  # a latent fires where its mean is this many standard deviations from the normal images'
FIRED_NATS = 0.05  # and where it tells more about the image than this: a dead latent's spread is next to nothing


@dataclass(frozen=True)
class Explanation:
    """What the latents see in a batch of images.

    Attributes:
        maps: every latent's map (B, D, h, w).
        z_scores: (B, D), the posterior mean's distance from its mean over normal images, in their standard deviations.
        fired: (B, D), bool: |z| of at least 3, and more than 0.05 nats of information about this image.
        active: (D,), bool: latents that carry more than 0.05 nats on normal images; the others are dead there.
        images: (B, C, H, W), what was explained, as a person is shown it; not a copy.
    """

    maps: LatentMaps
    z_scores: Tensor
    fired: Tensor
    active: Tensor
    images: Tensor | None = field(default=None, repr=False, compare=False)

    def plot(
        self,
        latents: int | Sequence[int] | None = None,
        *,
        axes: Any = None,
        limit: float | None = None,
        most: int | None = None,
    ) -> Any:
        """Draw the maps over the images, with z-scores, latents that fired marked and dead ones named so.

        See `LatentMaps.plot` for the arguments, what is returned and what is refused.
        """
        from vaelens.attention.drawing import plot_maps

        dead, z_scores = ~self.active, self._shown_z_scores()
        return plot_maps(self.maps, self.images, latents, axes, limit, most, dead=dead, z_scores=z_scores)

    def show(self) -> None:
        """Show it: in a notebook as a picture, else in a window where there is a display, else in words."""
        from vaelens.report.notebook import show

        show(self)

    def in_words(self) -> str:
        """Which latents fired, a line for each image, of fifty at most."""
        from vaelens.report.notebook import few_lines

        def line(i: int) -> str:
            z_scores = self.z_scores[i]
            far = sorted(self.fired[i].nonzero().flatten().tolist(), key=lambda d: -abs(float(z_scores[d])))
            told = ", ".join(f"z{d} ({float(z_scores[d]):+.1f} sd)" for d in far) or "no latent"
            return f"image {i}: {told} fired"

        return few_lines(len(self.z_scores), line)

    def _repr_html_(self) -> str:
        from vaelens.attention.drawing import html_of_maps

        given = {"dead": ~self.active, "z_scores": self._shown_z_scores()}
        return html_of_maps(self.maps, self.images, "Explanation", **given)

    def _shown_z_scores(self) -> Tensor:
        """(B, K); none where a latent is far off but did not fire, for then it is not marked so."""
        latents = self.maps.latents.expand(len(self.z_scores), -1)
        z_scores, fired = self.z_scores.gather(1, latents), self.fired.gather(1, latents)
        return z_scores.masked_fill((z_scores.abs() >= FIRED_Z) & ~fired, math.nan)


@dataclass(frozen=True)
class Verdict:
    """Whether images are normal, and where they are not.

    Attributes:
        maps: (B, H, W), values >= 0, higher is more abnormal.
        score: (B,), higher is more abnormal.
        p_value: (B,), share of normal images that would score as high (conformal; valid in finite samples).
        flagged: (B,), bool: p-value at most the false-alarm rate.
        masks: (B, H, W), bool: pixels above the pixel threshold.
        score_threshold: images above are flagged; infinite where too few normal images were held out for the rate.
        pixel_threshold: pixels above are flagged.
        localizer: whose maps and scores these are.
        posterior: mean and log variance (B, D), where the localizer encoded the images.
        images: (B, C, H, W), what was localized in, as a person is shown it; not a copy.
        false_alarms: the rate that was allowed.
    """

    maps: Tensor
    score: Tensor
    p_value: Tensor
    flagged: Tensor
    masks: Tensor
    score_threshold: float
    pixel_threshold: float
    localizer: str
    posterior: tuple[Tensor, Tensor] | None = None
    images: Tensor | None = field(default=None, repr=False, compare=False)
    false_alarms: float | None = None

    def plot(self, *, ax: Any = None, limit: float | None = None, most: int | None = None) -> Any:
        """Draw each image with what is flagged outlined, beside its map and the verdict in words.

        Args:
            ax: matplotlib Axes to draw into, one for each image, in any array or sequence: the map over the image, what is
                flagged outlined, and the verdict above. None: a new figure.
            limit: upper end of the colour scale; None takes the 99.5th percentile over what is drawn.
            most: images that a new figure shows, the first of them; 8 where None.

        Returns:
            The axes as they were given; or the new Figure, which notebooks show and pyplot does not know.

        Raises:
            UsageError: axes that are not as many as the images.
        """
        from vaelens.runs.drawing import plot_verdict  # draws by the report, which imports matplotlib

        return plot_verdict(self, ax, limit, most)

    def show(self) -> None:
        """Show it: in a notebook as a picture, else in a window where there is a display, else in words."""
        from vaelens.report.notebook import show

        show(self)

    def in_words(self) -> str:
        """The verdict on each image, a line for each, of fifty at most."""
        from vaelens.report.notebook import few_lines

        return few_lines(len(self.score), lambda i: f"image {i}: {self.headline(i)}; {'; '.join(self.reasons(i))}")

    def headline(self, i: int) -> str:
        """Image i in a word or two."""
        return "not normal" if bool(self.flagged[i]) else "no anomaly found"

    def reasons(self, i: int) -> list[str]:
        """Why, in a few short lines."""
        from vaelens.report.wording import number, p_value

        above = "infinite: too few normal images" if math.isinf(self.score_threshold) else number(self.score_threshold, 3)
        rate = "" if self.false_alarms is None else f", {100 * self.false_alarms:g} % of normal images allowed"
        pixels = float(self.masks[i].to(torch.float32).mean())
        return [
            f"score {number(float(self.score[i]), 3)} by {self.localizer} (threshold {above})",
            f"{p_value(float(self.p_value[i]))}{rate}",
            f"{100 * pixels:.2g} % of its pixels above {number(self.pixel_threshold, 3)}",
        ]

    def _repr_html_(self) -> str:
        from vaelens.runs.drawing import html_of_verdict

        return html_of_verdict(self)
