"""AnoGAN (Schlegl et al. 2017): the nearest image that a generator of normal images can make, and what differs from it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError, whole
from vaelens.localizers.base import LearnsNothing, Localization
from vaelens.models import DCGAN

STEPS = 100
"""Steps of the search where none are named. The paper's 500 take five times as long."""
_PAPER_STEPS = 500
_CHUNK = 8  # images searched for together


class AnoGANLocalizer(LearnsNothing):
    """For each image the noise z is sought by Adam whose image G(z) is nearest.

    The loss is (1 - weight) |x - G(z)|, summed over pixels, + weight |f(x) - f(G(z))|, summed over the discriminator's
    last features f. The map is |x - G(z)| at the last z, mean over channels, values in [0, 1]; the score is the loss there.

    Each image starts from the same z, drawn from `seed`, and is searched for in a batch of fixed size, so that its map does
    not depend on what else is asked for. Nothing is learned from normal images beyond what the networks did.

    Args:
        model: a trained DCGAN.
        steps: of the search; the paper takes 500.
        weight: of the discriminator's features, lambda; the paper's 0.1.
        learning_rate: of Adam over z; the paper names none. 0.1 got nearest to held-out normal images in 100 steps.
        seed: of the first z.

    Raises:
        UsageError: another network, or a number that cannot be used.
    """

    name: ClassVar[str] = "anogan"
    explains: ClassVar[str] = "difference from the nearest image that a generator of normal images makes (AnoGAN)"

    def __init__(
        self, model: nn.Module, steps: int = STEPS, weight: float = 0.1, learning_rate: float = 0.1, seed: int = 0
    ) -> None:
        if not isinstance(model, DCGAN):
            raise UsageError(
                f"localizer 'anogan' searches a generator (network 'dcgan'), and this model is a {type(model).__name__}: "
                "train a run with objective 'anogan'"
            )
        numbers = all(isinstance(value, int | float) for value in (weight, learning_rate))
        if not numbers or not 0 <= weight <= 1 or not learning_rate > 0:
            raise UsageError(
                f"weight is a share from 0 to 1 and learning_rate a number above 0, got {weight!r} and {learning_rate!r}"
            )
        self.model = model
        self.steps = whole("steps", steps)
        self.weight = weight
        self.learning_rate = learning_rate
        self.seed = whole("seed", seed, least=0, most=2**63 - 1)

    @property
    def detail(self) -> str:
        """How thorough the search is, in a few words for tables."""
        return f"{self.steps} search steps" + ("" if self.steps == _PAPER_STEPS else f" (the paper: {_PAPER_STEPS})")

    def localize(self, images: Tensor) -> Localization:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.model.input_shape:
            expected = ", ".join(map(str, self.model.input_shape))
            raise UsageError(f"this generator makes images (B, {expected}), got {tuple(images.shape)}")
        parts = [self._padded(part) for part in torch.split(images, _CHUNK)]
        return Localization(torch.cat([part.maps for part in parts]), torch.cat([part.score for part in parts]))

    def search(self, images: Tensor) -> Tensor:
        """The noise (B, D) whose images are nearest to `images` (B, C, H, W)."""
        start = self.model.noise(1, torch.Generator("cpu").manual_seed(self.seed))
        with torch.inference_mode(False), torch.enable_grad():
            images = images.detach().clone()
            with torch.no_grad():
                wanted = self.model.discriminate(images)[1]
            noise = start.to(images).repeat(len(images), 1).requires_grad_()
            optimizer = torch.optim.Adam([noise], lr=self.learning_rate)
            for _ in range(self.steps):
                loss = self._losses(images, self.model.decode(noise), wanted).sum()
                (noise.grad,) = torch.autograd.grad(loss, noise)  # leaves the networks' gradients alone
                optimizer.step()
        return noise.detach()

    def _padded(self, images: Tensor) -> Localization:
        count = len(images)
        full = torch.cat([images, images[-1:].expand(_CHUNK - count, *images.shape[1:])])
        noise = self.search(full)
        with torch.no_grad():
            made = self.model.decode(noise)
            losses = self._losses(full, made, self.model.discriminate(full)[1])
        return Localization((full - made).abs().mean(1)[:count], losses[:count])

    def _losses(self, images: Tensor, made: Tensor, wanted: Tensor) -> Tensor:
        """The loss (B,) of images made in place of `images`, whose last features are `wanted`."""
        residual = (images - made).abs().flatten(1).sum(1)
        features = (wanted - self.model.discriminate(made)[1]).abs().flatten(1).sum(1)
        return (1 - self.weight) * residual + self.weight * features
