"""What a file holds: bytes of images in, named results out, as one module whose forward pass can be traced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vaelens.adapters import AdaptedVAE
from vaelens.attention import LatentAttention
from vaelens.data.images import to_float
from vaelens.export.evened import Evened
from vaelens.export.traced import Shared, TracedAttention, traced
from vaelens.localizers import Calibration, Localizer, check_false_alarms

if TYPE_CHECKING:
    from vaelens.runs import Run

ROUNDING = 2e-6
"""Scores that differ by less, relative to themselves, are the same."""


class RunGraph(nn.Module):
    """A run as one forward pass.

    Args:
        run: on the CPU.
        attention: whose latents' maps are written; None for none.
        localizer: whose maps and scores are written, fitted; None for none.
        calibration: its scores of held-out normal images; None: no p-values.
        false_alarms: share of normal images that may be flagged.

    Raises:
        UsageError: the maps of the attention, or of one in the localizer, need gradients.
    """

    def __init__(
        self,
        run: Run,
        attention: LatentAttention | None,
        localizer: Localizer | None = None,
        calibration: Calibration | None = None,
        false_alarms: float = 0.05,
    ) -> None:
        super().__init__()
        self.run = run
        self.model = run.model  # whose weights are then the graph's own, by their names
        self._shared: Shared = {}
        self.attention = None if attention is None else TracedAttention(attention, self._shared)
        self.localizer = None if localizer is None else traced(localizer, self._shared)
        self.false_alarms = check_false_alarms(false_alarms)
        # What another order of summation changes counts as nothing, so that a held-out image has a score that reaches its own.
        self.reached = None if calibration is None else calibration.scores * (1 + ROUNDING)
        self.pixel_threshold = math.inf if calibration is None else calibration.pixel_threshold(false_alarms)
        preparation = run.preparation
        evens = preparation is not None and preparation.brightness
        self.evened = Evened(preparation.frames > 1) if preparation is not None and evens else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Bytes (B, H, W, C), uint8 -> the values of `results`, in their order."""
        return tuple(self.results(images).values())

    def results(self, images: Tensor) -> dict[str, Tensor]:
        """Bytes (B, H, W, C), uint8 -> the results by name, see `vaelens.export.OUTPUTS`."""
        try:
            return self._results(images)
        finally:
            self._shared.clear()

    def _results(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        in_layers = images.permute(0, 3, 1, 2)
        values = to_float(in_layers if self.evened is None else self.evened(in_layers))
        posterior: tuple[Tensor, Tensor] | None = None
        if self.attention is not None:
            maps = self.attention(values)
            found["latent_maps"] = maps.per_latent
            posterior = maps.mean, maps.logvar
        elif self.run.has_posterior:
            posterior = self.run.model.encode(values)
        if posterior is not None:
            found["mean"], found["logvar"] = posterior
            found["z_scores"], found["fired"] = self.run.z_scores(posterior[0]), self.run.fired(*posterior)
        if self.localizer is not None:
            result = self.localizer.localize(values)
            found["maps"], found["score"] = result.maps, result.score
            if self.reached is not None:
                found |= self._verdict(result.maps, result.score, self.reached)
        return found

    def _verdict(self, maps: Tensor, score: Tensor, reached: Tensor) -> dict[str, Tensor]:
        # ONNX has no search in sorted values; the scores of held-out images are few enough to compare with all of them.
        p_value = (1 + (reached >= score.unsqueeze(1)).sum(1)).to(torch.float64) / (len(reached) + 1)
        return {"p_value": p_value, "flagged": p_value <= self.false_alarms, "masks": maps > self.pixel_threshold}


class AttentionGraph(nn.Module):
    """An attention as one forward pass: images as its model takes them -> maps (B, D, h, w), mean and log variance (B, D).

    Raises:
        UsageError: its maps need gradients.
    """

    def __init__(self, attention: LatentAttention) -> None:
        super().__init__()
        vae = attention.model
        self.model = vae.model if isinstance(vae, AdaptedVAE) else vae  # whose weights go by the names that they have there
        self.attention = TracedAttention(attention)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> maps of the latents asked for, mean and log variance of all."""
        maps = self.attention(images)
        return maps.per_latent, maps.mean, maps.logvar
