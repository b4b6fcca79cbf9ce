"""The attention disentanglement loss (eq. 5) as training takes it: from the very forward pass that encodes the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaelens.attention import LatentAttention
from vaelens.attention.untouched import undone
from vaelens.errors import UsageError
from vaelens.objectives import attention_disentanglement, empty_maps
from vaelens.training.batches import seeded
from vaelens.training.settings import TrainSettings


class Overlap:
    """The attention of a model in training, and how far the maps of its latents overlap.

    Args:
        model: `encode(images) -> (mean, logvar)`, at least two latents.
        settings: which pairs, and at which layer.
        example: images (B, C, H, W) in [0, 1], to find the layer with where the model does not say what it takes.

    Raises:
        UsageError: an unknown layer, one whose map has a single pixel, or a model of one latent.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, example: Tensor) -> None:
        self.attention = LatentAttention(model, settings.ad_layer)
        self._pairs, self._rectifier = settings.ad_pairs, settings.ad_rectifier
        if getattr(model, "input_shape", None) is None:
            with torch.no_grad(), undone(model, example.device):
                self.attention.encode(example)
        plan = self.attention.plan
        if plan.latent_dim < 2:
            raise UsageError("maps of two latents are compared, and the model has one: take --latents 2 or more")
        plan.check_places()

    def loss(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) -> mean and log variance (B, D), and the overlap of the settings' pairs, in [0, 1].

        A random pair depends on the generator's seed and takes nothing of it: whichever pairs are compared, what is drawn from
        it next is the same, and runs differ by their pairs alone.
        """
        maps = self.attention(images)
        own = seeded(generator.initial_seed(), "pairs", 0) if self._pairs == "random" else None
        return maps.mean, maps.logvar, attention_disentanglement(maps, self._pairs, own, self._rectifier)

    @torch.no_grad()
    def figures(self, images: Tensor) -> dict[str, float]:
        """Of the maps of images (B, C, H, W): their overlap in the mean over all pairs, and the share of those that are zero
        everywhere, both in [0, 1]. Leaves the model as it was.
        """
        with undone(self.attention.model, images.device):
            maps = self.attention(images)
        overlap, empty = attention_disentanglement(maps, "all"), empty_maps(maps).float().mean()
        return {"attention_overlap": float(overlap), "empty_maps": float(empty)}
