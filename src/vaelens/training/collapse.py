"""The warning that latents have died. Maps of dead latents show noise."""

from __future__ import annotations

import warnings

from vaelens.objectives import ACTIVE_NATS

_LEAST_SHARE = 0.1


class LatentCollapseWarning(UserWarning):
    """Too few latents carry information about the image."""


class CollapseWatch:
    """Warns once when fewer than a tenth of the latents, or none, are active after the warm-up; again if it gets worse.

    Args:
        warmup_epochs: no warning before these have passed.
        lowest: the number of active latents that was warned about before, when a run resumes.
    """

    def __init__(self, warmup_epochs: float, lowest: int | None = None) -> None:
        self._warmup_epochs = warmup_epochs
        self.lowest = lowest

    def check(self, epoch: int, active: int, latents: int) -> None:
        """Look at one epoch.

        Args:
            epoch: from 1.
            active: number of active latents.
            latents: D.
        """
        if epoch < self._warmup_epochs or active >= max(1.0, _LEAST_SHARE * latents):
            return
        if self.lowest is not None and active >= self.lowest:
            return
        self.lowest = active
        count = f"none of {latents} latents is active" if active == 0 else f"only {active} of {latents} latents active"
        warnings.warn(
            f"{count} after epoch {epoch} (mean KL above {ACTIVE_NATS:g} nats): the posterior has collapsed, and maps "
            "of dead latents show noise; lengthen warmup_epochs, or lower kl_weight or learning_rate",
            LatentCollapseWarning,
            stacklevel=2,
        )
