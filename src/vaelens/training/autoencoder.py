"""The Lightning module of autoencoders without a posterior (Bergmann et al. 2018).

Imports Lightning, which takes seconds; hand it to `fit` in a function that is called to train.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaelens.errors import unknown
from vaelens.objectives.ssim import ssim_error
from vaelens.training.batches import Images
from vaelens.training.module import VAEModule
from vaelens.training.settings import TrainSettings
from vaelens.training.terms import Terms


def squared_error(images: Tensor, others: Tensor) -> Tensor:
    """Squared difference of images (B, C, H, W), summed over channels and pixels: (B,)."""
    return (images - others).square().flatten(1).sum(1)


OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ae": squared_error, "ae-ssim": ssim_error}
"""The loss of each image (B,), by the name of the objective."""


class AutoencoderModule(VAEModule):
    """Minimises how far the reconstruction of the code is from the image: no KL divergence, nothing sampled.

    Rows have the loss in `train/loss`, again in `train/reconstruction`, and neither KL divergence nor active latents;
    likelihood and KL weight of the settings play no part.

    Args:
        model: `encode(images) -> (code, anything)` and `decode_logits(code) -> logits`, such as network "ae".
        settings: how to train.
        train: the images to train on.
        held_out: images to measure the loss on, or None.
        objective: "ae", the squared difference summed over pixels and channels; or "ae-ssim", (1 - SSIM) / 2 in the mean over
            pixels and channels, which is in [0, 1].

    Raises:
        UsageError: an unknown objective.
    """

    def __init__(
        self, model: nn.Module, settings: TrainSettings, train: Images, held_out: Images | None, objective: str = "ae"
    ) -> None:
        if objective not in OBJECTIVES:
            raise unknown("objective", objective, OBJECTIVES)
        super().__init__(model, settings, train, held_out)
        self.objective = objective

    def terms(
        self, images: Tensor, kl_weight: float | Tensor, generator: torch.Generator, ad_weight: float | None = None
    ) -> Terms:
        """The objective for images (B, C, H, W) in [0, 1]; weights and generator are not used."""
        code, _ = self.model.encode(images)  # type: ignore[operator]
        found = torch.sigmoid(self.model.decode_logits(code).float())  # type: ignore[operator]
        error = OBJECTIVES[self.objective](found, images)
        return Terms(error.mean(), error, error.new_empty(len(images), 0), {})

    def epoch_row(self) -> dict[str, float]:
        """The epoch's figures: losses per image, in the objective's own unit."""
        absent = ("train/kl", "val/kl", "active_latents", "kl_weight")
        return {name: value for name, value in super().epoch_row().items() if name not in absent}
