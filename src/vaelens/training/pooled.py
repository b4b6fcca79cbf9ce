"""FactorVAE's discriminator for the first steps: smaller, smooth, and taught with codes of many batches at each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaelens.objectives import Discriminator, discriminator_loss, permute_latents, reparameterize, standardized

UNITS, CODES, POSTERIORS, RATE = 256, 512, 4096, 1e-3


class PooledDiscriminator(nn.Module):
    """Judges standardized codes, and learns from 512 codes and 512 permuted ones of the posteriors that it was shown last.

    FactorVAE's own learns from the 64 codes of a step and still sees next to nothing of the total correlation after
    thousands of steps, when it is long settled which latents take what. Eight times the codes, a quarter of the units and
    GELU in place of leaky ReLU find it in hundreds. At batches of 64 the posteriors are of the last 32 steps, which is too
    long ago where an encoder changes fast; it is meant for a high KL weight.

    Args:
        latent_dim: D, at least 2.
    """

    mean: Tensor
    logvar: Tensor
    shown: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.discriminator = Discriminator(latent_dim, UNITS, smooth=True)
        # Part of the state, so that a run which goes on draws from the same posteriors.
        self.register_buffer("mean", torch.zeros(POSTERIORS, latent_dim))
        self.register_buffer("logvar", torch.zeros(POSTERIORS, latent_dim))
        self.register_buffer("shown", torch.zeros((), dtype=torch.long))

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, D) -> logits (B, 2), see `Discriminator`."""
        logits: Tensor = self.discriminator(standardized(codes))
        return logits

    def show(self, mean: Tensor, logvar: Tensor) -> None:
        """Posteriors (B, D) to learn from, in place of the oldest; of more than 4,096 the last."""
        mean, logvar = mean[-POSTERIORS:], logvar[-POSTERIORS:]
        places = (torch.arange(len(mean), device=mean.device) + self.shown) % POSTERIORS
        self.mean[places] = mean.detach().to(self.mean.dtype)
        self.logvar[places] = logvar.detach().to(self.logvar.dtype)
        self.shown += len(mean)

    def loss(self, generator: torch.Generator) -> Tensor:
        """The cross entropy (scalar, nats) of 512 codes, and as many with permuted latents, drawn anew from what was shown."""
        there = min(int(self.shown), POSTERIORS)
        drawn = torch.randint(there, (2 * CODES,), generator=generator, device=generator.device).to(self.mean.device)
        codes = reparameterize(self.mean[drawn], self.logvar[drawn], generator)
        joint, product = codes[:CODES], permute_latents(codes[CODES:], generator)
        logits = self.discriminator(torch.cat([standardized(joint), standardized(product)]))
        return discriminator_loss(logits[:CODES], logits[CODES:])
