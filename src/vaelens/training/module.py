"""The Lightning module of the plain VAE family: the VAE, with another KL weight the beta-VAE, and either with attention maps
that are kept apart.

Imports Lightning, which takes seconds; `fit` imports this when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from vaelens.data.augment import parse
from vaelens.data.factors import Drawable
from vaelens.errors import UsageError
from vaelens.objectives import active_latents, elbo, kl_warmup, reparameterize
from vaelens.training.batches import Batch, Batches, Images, derived_seed, seeded
from vaelens.training.drawn import batches_of, first_images
from vaelens.training.guard import FiniteGuard
from vaelens.training.heads import layers_of
from vaelens.training.overlap import Overlap
from vaelens.training.settings import TrainSettings
from vaelens.training.terms import EpochMeans, Terms
from vaelens.training.turning import gather, turn
from vaelens.training.waking import Waking

_LOOK_EVERY = 16
_LOOKED_AT, _TURNED_BY = 16, 64  # batches that tell which latents are closed, and how open ones lie


class VAEModule(LightningModule):  # type: ignore[misc]
    """Minimises the negative evidence lower bound (eq. 1) with Adam and a KL warm-up; where the settings have a weight for it,
    plus the attention disentanglement loss (eq. 5).

    The order of the images depends on (seed, epoch) and the posterior's noise on (seed, step), so that a run that
    resumes after an epoch goes on exactly. The held-out images meet the same noise in every epoch and the full KL
    weight from the first, so that their losses can be compared.

    Args:
        model: `encode(images) -> (mean, logvar)`, both (B, D), and `decode_logits(latents) -> logits` (B, C, H, W).
        settings: how to train.
        train: the images to train on, or what they are drawn from.
        held_out: images to measure the loss and the active latents on; the training images serve where None.

    Raises:
        UsageError: a layer that has no attention maps which could be kept apart.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, train: Images | Drawable, held_out: Images | None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.batches = batches_of(train, settings)
        self.held_out_batches = None if held_out is None else Batches(held_out.images, settings.batch_size)
        self._augmentation = parse(settings.augmentation)
        self._names = (train.names, () if held_out is None else held_out.names)
        self._warmup_steps = settings.warmup_steps(len(self.batches))
        self._rate_steps = [
            round(each * len(self.batches)) for each in (settings.rate_warmup_epochs, settings.rate_cooldown_epochs)
        ]
        self._train_means = EpochMeans()
        self._held_out_means = EpochMeans()
        self._guard = self._held_out_guard = FiniteGuard((), settings)
        self._last_batch = 0, torch.empty(0)
        self._last_images = torch.empty(0)
        self._overlap = self._compared(train)
        self._gather_at, self._turn_at, wake_at = (
            None if after is None else _step_of(after, len(self.batches))
            for after in (settings.gather_after, settings.turn_after, settings.wake_after)
        )
        if not (self._gather_at is self._turn_at is None):
            layers_of(model)
        self.waking = None if wake_at is None else Waking(model, wake_at, len(self.batches))
        self._layout = torch.contiguous_format

    @property
    def kl_weight(self) -> float:
        """The KL weight of the current epoch's last batch."""
        return self.kl_weight_at((self.current_epoch + 1) * len(self.batches) - 1)

    def step_at(self, batch_idx: int) -> int:
        """The step of training, from 0 on, that a batch of the current epoch is."""
        return int(self.current_epoch) * len(self.batches) + batch_idx

    def rate_at(self, step: int) -> float:
        """The model's learning rate at a step of training, from 0 on."""
        rise, fall = (max(1, steps) for steps in self._rate_steps)
        left = self.settings.epochs * len(self.batches) - step
        return self.settings.learning_rate * min(1.0, (step + 1) / rise, left / fall)

    def kl_weight_at(self, step: int) -> float:
        """The KL weight of a step of training, from 0 on."""
        start, end, share = self.settings.kl_start, self.settings.kl_weight, kl_warmup(step, self._warmup_steps)
        if start and end:
            return float(start * (end / start) ** share)
        return start + (end - start) * share

    def kl_weights_at(self, step: int) -> float | Tensor:
        """The KL weight of a step of training, from 0 on, or (D,) one for each latent."""
        weight = self.kl_weight_at(step)
        return weight if self.waking is None else weight * self.waking.kl_factors(step)

    def _compared(self, train: Images | Drawable) -> Overlap | None:
        """The overlap of the maps of latents: where the settings ask for it and, where factors are to be found, as a figure."""
        if self.settings.ad_weight is not None:
            return Overlap(self.model, self.settings, first_images(train))
        if self.settings.gamma is None and not isinstance(train, Drawable):
            return None
        try:
            return Overlap(self.model, self.settings, first_images(train))
        except UsageError:  # one latent, or no feature map: there is nothing to compare, and nobody asked for it
            return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, fused: measured a fifth faster per step on the CPU, and as exact to resume."""
        return self._adam_of_model()

    def _adam_of_model(self) -> torch.optim.Optimizer:
        """Over the weights that are not frozen; where latents are woken those of the encoder are a group of their own."""
        parameters = self._trainable()
        if self.waking is None:
            return self._adam(parameters)
        encoder = {id(parameter) for parameter in self.model.encoder.parameters()}  # type: ignore[union-attr]
        groups = {own: [p for p in parameters if (id(p) in encoder) is own] for own in (False, True)}
        return self._adam([{"params": group, "of_encoder": own} for own, group in groups.items() if group])

    def _adam(
        self,
        parameters: Iterable[Any],
        betas: tuple[float, float] = (0.9, 0.999),
        rate: float | None = None,
    ) -> torch.optim.Optimizer:
        rate, decay = self.settings.learning_rate if rate is None else rate, self.settings.weight_decay
        return torch.optim.Adam(list(parameters), lr=rate, betas=betas, weight_decay=decay, fused=True)

    def _trainable(self) -> list[nn.Parameter]:
        """The model's weights that are not frozen."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not parameters:
            raise UsageError("the model has no parameter to train: all are frozen, or there are none")
        return parameters

    def on_fit_start(self) -> None:
        """Starts the guards and lays the weights out, once device and precision are known."""
        # In bf16 with channels last a step of the UCSD network takes a fifth of what it takes with either alone.
        if self.trainer.precision == "bf16-mixed":
            self._layout = torch.channels_last
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        every = 1 if self.device.type == "cpu" else _LOOK_EVERY
        self._guard = FiniteGuard(self._names[0], self.settings, every)
        self._held_out_guard = FiniteGuard(self._names[1], self.settings, every)

    def on_train_epoch_start(self) -> None:
        """Sets the epoch's order and starts its means."""
        self.batches.set_epoch(self.current_epoch)
        self._train_means = EpochMeans()
        self._held_out_means = EpochMeans()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sets the model's learning rate, which may rise and fall; gathers, turns or wakes latents when the time has come."""
        step = self.step_at(batch_idx)
        optimizer = self.trainer.optimizers[0]
        if step == self._gather_at:
            gather(self.model, optimizer, self._looked_at(step, _TURNED_BY))
        if step == self._turn_at:
            turn(self.model, optimizer, self._looked_at(step, _TURNED_BY))
        if self.waking is not None and (number := self.waking.begins(step)) is not None:
            images = self._looked_at(step, _LOOKED_AT)
            self.waking.wake(self.model, optimizer, images, seeded(self.settings.seed, "waking", number))
        rate = self.rate_at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
            if self.waking is not None and group["of_encoder"]:
                group["lr"] *= self.waking.encoder_rate(step)

    def _looked_at(self, step: int, batches: int) -> Tensor:
        """Images (B, C, H, W) to look at the latents with: of so many batches before a step, or of all of them."""
        images = [self.batches.another(each).to(self.device) for each in range(max(0, step - batches), step)]
        return torch.cat(images).contiguous(memory_format=self._layout)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch: images (B, C, H, W) in [0, 1] -> the scalar loss in nats."""
        step = self.step_at(batch_idx)
        self._seed_layers(step)
        terms = self.terms(
            self.augmented(batch.images, step),
            self.kl_weights_at(step),
            seeded(self.settings.seed, "noise", step),
        )
        self._guard.check(terms.loss, "loss", self.current_epoch, batch_idx, batch.indices)
        self._last_batch = batch_idx, batch.indices
        self._last_images = batch.images
        self._train_means.add(terms)
        return terms.loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at the gradients before they reach the weights; a norm costs 1 to 2 % of a step."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._guard.check(norm, "gradient norm", self.current_epoch, *self._last_batch)

    def on_validation_start(self) -> None:
        """Looks at what the guard still holds, so that a failure is not laid on the held-out images."""
        self._guard.flush()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch of held-out images."""
        terms = self.terms(batch.images, self.settings.kl_weight, seeded(self.settings.seed, "held-out", batch_idx))
        self._held_out_guard.check(terms.loss, "held-out loss", self.current_epoch, batch_idx, batch.indices)
        self._held_out_means.add(terms)

    def on_validation_epoch_end(self) -> None:
        """Hands the held-out means to Lightning, for early stopping."""
        self._held_out_guard.flush()
        self.log_dict(self._held_out_means.row("val"), logger=False)

    def on_train_epoch_end(self) -> None:
        """Hands the epoch's figures to Lightning's callbacks."""
        self._guard.flush()
        self.log_dict({name: float(value) for name, value in self.epoch_row().items()}, logger=False)

    def _seed_layers(self, step: int) -> None:
        """Seeds what layers such as dropout draw from, so that they too go on exactly."""
        seed = derived_seed(self.settings.seed, "layers", step)
        # Not torch.manual_seed: without CUDA it queues a call, with a formatted stack, each time; that took 3 ms a step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def terms(self, images: Tensor, kl_weight: float | Tensor, generator: torch.Generator) -> Terms:
        """The objective for images (B, C, H, W) in [0, 1], with one sample of the posterior."""
        return self.terms_and_posterior(images, kl_weight, generator)[0]

    def terms_and_posterior(
        self, images: Tensor, kl_weight: float | Tensor, generator: torch.Generator
    ) -> tuple[Terms, Tensor, Tensor, Tensor]:
        """The objective, the sample of the posterior that it was taken with, and the posterior's mean and log variance.

        Args:
            images: (B, C, H, W) in [0, 1].
            kl_weight: of the KL divergence, or (D,) of each latent's.
            generator: of the sample.
        """
        others = {}
        weight = self.settings.ad_weight
        if weight is None or self._overlap is None:
            mean, logvar = self.model.encode(images)  # type: ignore[operator]
        else:
            mean, logvar, others["overlap"] = self._overlap.loss(images, generator)
        codes = reparameterize(mean, logvar, generator)
        logits = self.model.decode_logits(codes)  # type: ignore[operator]
        loss, reconstruction, kl = elbo(logits, images, mean, logvar, self.settings.likelihood, kl_weight)
        if weight is not None and others:
            loss = loss + weight * others["overlap"]
        return Terms(loss, reconstruction, kl, others), codes, mean, logvar

    def augmented(self, images: Tensor, step: int) -> Tensor:
        """A training batch (B, C, H, W) in [0, 1], rotated and mirrored as the settings allow; the same at each `step`."""
        if self._augmentation:
            images = self._augmentation(images, seeded(self.settings.seed, "augmentation", step))
        return images.contiguous(memory_format=self._layout)

    def mean_kl(self) -> Tensor:
        """(D,), nats: mean over the held-out images of the epoch, or over the training images where there are none."""
        means = self._train_means if self.held_out_batches is None else self._held_out_means
        return means.kl()

    def epoch_row(self) -> dict[str, float]:
        """The epoch's figures: losses in nats per image, the number of active latents and the KL weight. Where the attention of
        latents is compared also, on the last batch, the overlap of all pairs and the share of empty maps, and the KL divergence
        of each latent.
        """
        row = self._train_means.row("train")
        if self.held_out_batches is not None:
            row |= self._held_out_means.row("val")
        row["active_latents"] = int(active_latents(self.mean_kl()).sum())
        row["kl_weight"] = self.kl_weight
        if self._overlap is not None:
            row |= self._overlap.figures(self._last_images)
            row |= {f"kl/z{latent}": value for latent, value in enumerate(self.mean_kl().tolist())}
        return row


def _step_of(after: float, batches: int) -> int:
    """The step after so many epochs of so many batches: in the epoch that it falls into, so that it comes before the run's end,
    and after a step at least, for there are no images to look at before."""
    return max(1, min(round(after * batches), (int(after) + 1) * batches - 1))
