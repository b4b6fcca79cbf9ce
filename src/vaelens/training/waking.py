"""Latents that closed are given fresh weights, and open again one by one: what a high KL weight at the start leaves undone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaelens.objectives import kl_warmup
from vaelens.training.heads import Fresh, layers_of, means_and_closed, units_of

FREE, FALL = 1.5, 2.0
"""Epochs that the woken latents train for without gamma, and over which their KL weight falls then."""
STARTS = 50.0, 5.0
"""What their KL weight is multiplied by at the start of that, for each waking: what is left for the second is worth less."""
WAKING = len(STARTS) * (FREE + FALL)
"""Epochs that both wakings take."""

_HELD, _LOG_VARIANCE = 0.05, -1.0


class Waking(nn.Module):
    """When latents are woken, which they were, and what their KL weight and the encoder's learning rate are from then on.

    Under a KL weight that falls the latents that are worth most open first, each by itself. But the features that the others
    would need are not learned while those are closed, and even at a KL weight of 1 they then stay closed for thousands of
    steps. So at the start of one step the closed latents, and the units below the heads that no image turns on, get fresh
    weights. For FREE epochs the total correlation costs nothing, and they learn in hundreds of steps what is left to be
    explained, each a bit of everything. Then the whole objective is back, and the KL weight of the woken latents is 50 times
    what it was and falls to that over FALL epochs, by the same factor a step: they close and open again, those that are worth
    most first. Meanwhile the encoder below the heads keeps its features: its learning rate rises from a twentieth. Then those
    that did not open are woken once more, and fall from 5 times.

    Args:
        model: see `wake`.
        begin: the step, from 0 on, that begins with the first waking.
        steps_per_epoch: of training.

    Raises:
        UsageError: a model of another build.
    """

    woken: Tensor

    def __init__(self, model: nn.Module, begin: int, steps_per_epoch: int) -> None:
        super().__init__()
        heads = layers_of(model)[1]
        self._begin = begin
        self._free, self._fall = round(FREE * steps_per_epoch), round(FALL * steps_per_epoch)
        # Part of the state, so that a run which goes on weighs the same latents.
        self.register_buffer("woken", torch.zeros(heads[0].weight.shape[0], dtype=torch.bool))

    def begins(self, step: int) -> int | None:
        """The number, from 0 on, of the waking that a step begins with; None: with none."""
        number, since = self._at(step)
        return number if since == 0 else None

    def is_free(self, step: int) -> bool:
        """Whether a step takes the objective without the total correlation."""
        return 0 <= self._at(step)[1] < self._free

    def kl_factors(self, step: int) -> Tensor:
        """(D,): what each latent's KL weight is multiplied by at a step."""
        return torch.where(self.woken, self._falling(STARTS[self._at(step)[0]], step), 1.0)

    def encoder_rate(self, step: int) -> float:
        """What the learning rate of the encoder below the heads is multiplied by at a step."""
        return self._falling(_HELD, step)

    def _falling(self, start: float, step: int) -> float:
        """From `start` to 1 over the fall, by the same factor a step; 1 before and after it."""
        fallen = self._at(step)[1] - self._free
        return 1.0 if fallen < 0 else float(start ** (1 - kl_warmup(fallen, self._fall)))

    def _at(self, step: int) -> tuple[int, int]:
        """The number of the last waking before a step, or of the first, and the steps since it began."""
        period = self._free + self._fall
        number = min(max(step - self._begin, 0) // period, len(STARTS) - 1)
        return number, step - self._begin - number * period

    @torch.no_grad()
    def wake(self, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, generator: torch.Generator) -> None:
        """Fresh weights for the latents that are closed on images, and for the units below the heads that none turns on.

        What the other latents are on these images stays as it is. The optimizer forgets what it knew of the weights replaced.

        Args:
            model: with `encoder`, whose last layer with weights is linear or a convolution, and the heads `mean` and `logvar`,
                which take its units after a ReLU; its `decoder` begins with such a layer, which takes the latents.
            optimizer: of the model; Adam.
            images: (B, C, H, W) in [0, 1]; a thousand tell what is closed, or off, from what is not.
            generator: of the fresh weights, on the CPU.
        """
        below, (mean, logvar), entrance = layers_of(model)
        fresh = Fresh(optimizer, generator)
        units = units_of(model, images)
        self.woken.copy_(means_and_closed(model, images)[1])
        off, closed = units.amax(0) <= 0, self.woken
        fresh.draw(below.weight, off)
        fresh.put(below.bias, off, 0.0)
        still = off & (units_of(model, images).amax(0) <= 0)
        fresh.put(below.weight, still, -below.weight[still])  # turned round they are on
        for head in (mean, logvar):
            fresh.put(head.weight, (slice(None), off), 0.0)  # nothing of the fresh units reaches latents that are open
        if not bool(closed.any()):
            return
        fresh.draw(mean.weight, closed)
        codes = units_of(model, images) @ mean.weight[closed].flatten(1).T
        spread = codes.std(0).clamp_min(1e-6) if len(codes) > 1 else torch.ones_like(codes[0])
        fresh.put(mean.weight, closed, mean.weight[closed] / spread.reshape(-1, *[1] * (mean.weight.ndim - 1)))
        fresh.put(mean.bias, closed, -codes.mean(0) / spread)
        fresh.put(logvar.weight, closed, 0.0)
        fresh.put(logvar.bias, closed, _LOG_VARIANCE)
        fresh.draw(entrance.weight, (slice(None), closed))
