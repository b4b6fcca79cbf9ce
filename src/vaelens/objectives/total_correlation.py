"""FactorVAE's penalty (Kim and Mnih 2018): the total correlation of the latents, estimated by a discriminator."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.errors import UsageError, whole


class Discriminator(nn.Module):
    """Tells codes of the aggregate posterior q(z) from those whose latents are independent.

    Six layers in all, 1000 units and leaky ReLU of slope 0.2, as in FactorVAE's appendix. Weights are drawn from torch's
    global generator (He initialisation, zero biases).

    Args:
        latent_dim: D, at least 2: one latent cannot be correlated with another.
        units: of each hidden layer.
        smooth: GELU in place of the leaky ReLU, which finds dependencies in a fraction of the steps.

    Raises:
        UsageError: fewer than two latents.
    """

    SLOPE = 0.2

    def __init__(self, latent_dim: int, units: int = 1000, *, smooth: bool = False) -> None:
        super().__init__()
        if whole("latent_dim", latent_dim) < 2:
            raise UsageError("total correlation is between latents, and there is one: take --latents 2 or more")
        widths = [latent_dim, *[units] * 5]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU() if smooth else nn.LeakyReLU(self.SLOPE, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(units, 2))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=self.SLOPE)
                nn.init.zeros_(layer.bias)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, D) -> logits (B, 2): of q(z), and of the product of its marginals."""
        logits: Tensor = self.layers(codes)
        return logits


def permute_latents(codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Shuffle each latent of codes (B, D) over the batch by itself: a sample of the product of the marginals.

    Args:
        codes: (B, D).
        generator: of the orders; torch's global generator where None.
    """
    device = codes.device if generator is None else generator.device
    orders = torch.rand(codes.shape, generator=generator, device=device).argsort(0).to(codes.device)
    return codes.gather(0, orders)


def standardized(codes: Tensor) -> Tensor:
    """Codes (B, D) with each latent of mean 0 and variance 1 over the batch, for a discriminator.

    The total correlation is the same, for it does not change when latents are shifted and scaled one by one. What changes is
    what an encoder can do against a discriminator that lags behind: it can no longer make the codes so small that they are hard
    to tell apart, which costs much KL divergence and disentangles nothing.

    A batch of one, as may be left over at the end of an epoch, has no variance and stays as it is.
    """
    codes = codes.to(torch.promote_types(codes.dtype, torch.float32))
    return codes if len(codes) == 1 else functional.batch_norm(codes, None, None, training=True)


def total_correlation(logits: Tensor) -> Tensor:
    """The total correlation KL(q(z) || prod_j q(z_j)) by the density-ratio trick, from a discriminator's logits (B, 2).

    Returns:
        Scalar, nats; an estimate, which may be negative.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits[:, 0] - logits[:, 1]).mean()


def discriminator_loss(logits: Tensor, permuted_logits: Tensor) -> Tensor:
    """The discriminator's cross entropy, in the mean over both kinds of codes.

    Args:
        logits: (B, 2), of codes z; made from `z.detach()`, lest the gradient reach the encoder.
        permuted_logits: (B', 2), of codes whose latents were permuted.

    Returns:
        Scalar, nats; log 2 is chance.
    """
    joint, product = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (logits, permuted_logits))
    wrong = functional.softplus(joint[:, 1] - joint[:, 0]).mean() + functional.softplus(product[:, 0] - product[:, 1]).mean()
    return wrong / 2
