"""The Lightning module of a generative adversarial network (DCGAN, for AnoGAN).

Imports Lightning, which takes seconds; hand it to `fit` in a function that is called to train.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.errors import UsageError
from vaelens.models import DCGAN
from vaelens.training.batches import Batch, Images, seeded
from vaelens.training.module import VAEModule
from vaelens.training.settings import TrainSettings

_BETAS = (0.5, 0.999)


class GANModule(VAEModule):
    """Trains generator and discriminator against each other: one step of each per batch, the discriminator's first.

    The generator's loss is -log D(G(z)); Adam has DCGAN's betas, 0.5 and 0.999. A loss on held-out images says nothing of
    how well the two do, so none is measured. Rows have `train/generator`, `train/discriminator` and their sum,
    `train/loss`, in nats.

    The noise depends on (seed, step), so that a run that resumes goes on exactly, as with `VAEModule`.

    Args:
        model: a DCGAN.
        settings: how to train; likelihood, KL weight and warm-up play no part.
        train: the images to train on.
        held_out: not looked at.

    Raises:
        UsageError: another model, or a patience.
    """

    model: DCGAN

    def __init__(self, model: nn.Module, settings: TrainSettings, train: Images, held_out: Images | None) -> None:
        if not isinstance(model, DCGAN):
            raise UsageError(f"adversarial training takes network 'dcgan', got {type(model).__name__}")
        if settings.patience is not None:
            raise UsageError("patience watches the held-out loss, and adversarial training has none: leave patience out")
        super().__init__(model, settings, train, None)
        self.automatic_optimization = False
        self._means = LossMeans()

    def configure_optimizers(self) -> Any:
        """One Adam for the generator, one for the discriminator."""
        discriminator = [*self.model.features.parameters(), *self.model.judge.parameters()]
        return [self._adam(self._generator(), _BETAS), self._adam(discriminator, _BETAS)]

    def on_train_epoch_start(self) -> None:
        """Sets the epoch's order and starts its means."""
        super().on_train_epoch_start()
        self._means = LossMeans()

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """One batch: images (B, C, H, W) in [0, 1]."""
        step = self.step_at(batch_idx)
        self._seed_layers(step)
        self._last_batch = batch_idx, batch.indices
        images = self.augmented(batch.images, step)
        count = len(images)
        noise = self.model.noise(count, seeded(self.settings.seed, "noise", step)).to(images)
        generator, discriminator = self.optimizers()
        made = self.model.decode(noise)

        against = self._judged(images, real=True) + self._judged(made.detach(), real=False)
        self._guard.check(against, "discriminator loss", self.current_epoch, batch_idx, batch.indices)
        discriminator.zero_grad()
        self.manual_backward(against)
        discriminator.step()

        towards = self._judged(made, real=True)
        self._guard.check(towards, "generator loss", self.current_epoch, batch_idx, batch.indices)
        generator.zero_grad()
        self.manual_backward(towards, inputs=list(self._generator()))  # the discriminator's gradients are not asked for
        generator.step()
        self._means.add(count, towards, against)

    def mean_kl(self) -> Tensor:
        """Empty: there is no posterior."""
        return torch.empty(0)

    def epoch_row(self) -> dict[str, float]:
        """The epoch's figures: the mean losses, in nats."""
        return self._means.row()

    def _judged(self, images: Tensor, real: bool) -> Tensor:
        """Mean over images of how far the discriminator is from taking them for real, or for made."""
        logits = self.model.discriminate(images)[0].float()
        return functional.softplus(-logits if real else logits).mean()

    def _generator(self) -> Iterable[nn.Parameter]:
        return self.model.decoder.parameters()


class LossMeans:
    """Means over the images of an epoch of the two losses, whatever the sizes of its batches."""

    def __init__(self) -> None:
        self._images = 0
        self._generator: Any = 0.0
        self._discriminator: Any = 0.0

    def add(self, images: int, generator: Tensor, discriminator: Tensor) -> None:
        """Add a batch; stays on the device, so that nothing waits for it."""
        self._images += images
        self._generator = self._generator + generator.detach() * images
        self._discriminator = self._discriminator + discriminator.detach() * images

    def row(self) -> dict[str, float]:
        """The sum of both, and each."""
        generator, discriminator = float(self._generator) / self._images, float(self._discriminator) / self._images
        return {
            "train/loss": generator + discriminator,
            "train/generator": generator,
            "train/discriminator": discriminator,
        }
