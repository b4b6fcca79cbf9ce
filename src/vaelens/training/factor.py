"""The Lightning module of FactorVAE (Kim and Mnih 2018), with or without attention maps that are kept apart.

Imports Lightning, which takes seconds; hand it to `fit` in a function that is called to train.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaelens.attention.untouched import undone
from vaelens.data.factors import Drawable
from vaelens.errors import UsageError
from vaelens.objectives import (
    Discriminator,
    discriminator_loss,
    permute_latents,
    reparameterize,
    standardized,
    total_correlation,
)
from vaelens.training.batches import Batch, Images, derived_seed, seeded
from vaelens.training.drawn import first_images
from vaelens.training.module import VAEModule
from vaelens.training.pooled import RATE, PooledDiscriminator
from vaelens.training.settings import GAMMA, TrainSettings

_DISCRIMINATOR_BETAS = (0.5, 0.9)


class FactorModule(VAEModule):
    """Minimises the negative evidence lower bound plus gamma times the total correlation, which a discriminator estimates.

    One step of each per batch. A second batch, drawn independently, is encoded without gradients and its latents are permuted;
    the discriminator judges both at once. It learns from the detached codes, so nothing of its loss reaches the encoder; and of
    the total correlation nothing reaches the discriminator.

    For the first epochs a smaller discriminator may stand in, see `PooledDiscriminator`: it has an optimiser of its own, and
    the other begins with its first weights when its turn comes.

    Rows have `train/total_correlation` in nats, `train/discriminator`, its cross entropy (log 2 = 0.693 is chance), and
    `train/loss` with gamma times the first. The held-out loss is without it.

    Args:
        model: `encode(images) -> (mean, logvar)`, both (B, D), D at least 2, and `decode_logits(latents) -> logits`.
        settings: how to train.
        train: the images to train on, or what they are drawn from.
        held_out: images to measure the evidence lower bound and the active latents on; None: on the training images.

    Raises:
        UsageError: a model of one latent, batches of one image, or a layer without attention maps that could be kept apart.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, train: Images | Drawable, held_out: Images | None) -> None:
        if settings.batch_size < 2:
            raise UsageError("FactorVAE shuffles latents over a batch, which takes a batch_size of 2 or more, got 1")
        super().__init__(model, settings, train, held_out)
        self.automatic_optimization = False
        self.gamma = GAMMA if settings.gamma is None else settings.gamma
        latents = _latents(model, train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(settings.seed, "discriminator", 0))
            self.discriminator = Discriminator(latents)
            self.pooled = PooledDiscriminator(latents) if settings.pooled_until else None

    def configure_optimizers(self) -> Any:
        """Two Adams, fused, each with FactorVAE's betas, and a third where another discriminator comes first."""
        rate = self.settings.discriminator_learning_rate
        both = [self._adam_of_model(), self._adam(self.discriminator.parameters(), _DISCRIMINATOR_BETAS, rate)]
        if self.pooled is not None:
            both.append(self._adam(self.pooled.parameters(), _DISCRIMINATOR_BETAS, RATE))
        return both

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """One batch: images (B, C, H, W) in [0, 1]."""
        step = self.step_at(batch_idx)
        self._seed_layers(step)
        gamma = self.gamma_at(step)
        terms, codes, *posterior = self.terms_and_posterior(
            self.augmented(batch.images, step), self.kl_weights_at(step), seeded(self.settings.seed, "noise", step)
        )
        another = self._another(batch.images.device, step)
        generator = seeded(self.settings.seed, "permutation", step)
        # A leaf of its own between encoder and discriminator: each gradient stops where it should.
        leaf = codes.detach().requires_grad_()
        encoder, *judges = self.optimizers()
        if self._is_pooled(step):
            assert self.pooled is not None
            self.pooled.show(*posterior)
            self.pooled.show(*another)
            correlation, against = total_correlation(self.pooled(leaf)), self.pooled.loss(generator)
            taught, judge = self.pooled.discriminator, judges[1]
        else:
            permuted = permute_latents(reparameterize(*another, generator), generator)
            judged = [self._judged(leaf, step), self._judged(permuted, step)]
            joint, product = self.discriminator(torch.cat(judged)).split([len(leaf), len(permuted)])  # one pass serves both
            correlation, against = total_correlation(joint), discriminator_loss(joint, product)
            taught, judge = self.discriminator, judges[0]
        loss = terms.loss + gamma * correlation.detach()
        self._guard.check(loss, "loss", self.current_epoch, batch_idx, batch.indices)
        self._guard.check(against, "discriminator loss", self.current_epoch, batch_idx, batch.indices)
        self._last_batch = batch_idx, batch.indices
        self._last_images = batch.images

        (slope,) = torch.autograd.grad(correlation, leaf, retain_graph=True)
        encoder.zero_grad()
        self.manual_backward(terms.loss + gamma * (slope * codes).sum())
        encoder.step()
        judge.zero_grad()
        self.manual_backward(against, inputs=list(taught.parameters()))
        judge.step()
        others = {**terms.others, "total_correlation": correlation, "discriminator": against}
        self._train_means.add(terms._replace(loss=loss, others=others))

    def gamma_at(self, step: int) -> float:
        """The weight of the total correlation at a step of training, from 0 on: none while woken latents are free."""
        return 0.0 if self.waking is not None and self.waking.is_free(step) else self.gamma

    def _judged(self, codes: Tensor, step: int) -> Tensor:
        """What the discriminator sees of codes (B, D) at a step."""
        after = self.settings.standardize_after
        return codes if after is None or step < round(after * len(self.batches)) else standardized(codes)

    def _is_pooled(self, step: int) -> bool:
        """Whether the other discriminator's turn is yet to come."""
        until = self.settings.pooled_until
        return until is not None and step < round(until * len(self.batches))

    def _another(self, device: torch.device, step: int) -> tuple[Tensor, Tensor]:
        """Means and log variances (B, D) of a second batch, without gradients."""
        images = self.augmented(self.batches.another(step).to(device), step)
        with torch.no_grad():
            mean, logvar = self.model.encode(images)  # type: ignore[operator]
        return mean, logvar


def _latents(model: nn.Module, train: Images | Drawable) -> int:
    """D, from the model or from what it makes of an image."""
    known = getattr(model, "latent_dim", None)
    if isinstance(known, int):
        return known
    images = first_images(train)
    with torch.no_grad(), undone(model, images.device):
        return int(model.encode(images)[0].shape[1])  # type: ignore[operator]
