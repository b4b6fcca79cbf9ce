"""The evidence lower bound of a variational autoencoder (eq. 1), in parts.

Everything is in nats and in float32 or better: half-precision input, as autocast gives, is taken to float32 first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.errors import UsageError, unknown

LIKELIHOODS = ("bernoulli", "gaussian", "optimal-gaussian")
_LEAST_VARIANCE = 1 / (12 * 255**2)  # of rounding to bytes

ACTIVE_NATS = 0.05
"""A latent whose KL divergence, in the mean over images, is above this carries information about the image."""


class ElboTerms(NamedTuple):
    """The negative evidence lower bound and what it is made of.

    Attributes:
        loss: scalar, mean over images of reconstruction + (kl_weight * kl).sum(1).
        reconstruction: (B,), nats per image, summed over pixels.
        kl: (B, D), nats per image and latent.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


def reconstruction_error(logits: Tensor, images: Tensor, likelihood: str = "bernoulli") -> Tensor:
    """Negative log likelihood of `images` under the decoder's output, summed over channels and pixels.

    Args:
        logits: (B, C, H, W), the decoder's output before the sigmoid.
        images: (B, C, H, W), values in [0, 1].
        likelihood: "bernoulli", binary cross entropy of the logits; "gaussian", half the squared difference between
            sigmoid(logits) and the images: a Gaussian of unit variance without its constant, H W C log(2 pi) / 2; or
            "optimal-gaussian", a Gaussian of the variance that makes these images likeliest, their mean squared difference
            (Rybkin, Daniilidis, Levine 2021), without the same constant. The first two hold a pixel that is 0.03 off for
            nearly as good as a right one, so that few latents are worth their KL divergence where images differ little.

    Returns:
        (B,), nats.

    Raises:
        UsageError: an unknown likelihood, or logits and images of different shapes.
    """
    if likelihood not in LIKELIHOODS:
        raise unknown("likelihood", likelihood, LIKELIHOODS)
    if logits.shape != images.shape:
        raise UsageError(f"the decoder's output {tuple(logits.shape)} and the images {tuple(images.shape)} must have one shape")
    logits, images = _full(logits), _full(images)
    if likelihood == "bernoulli":
        error = functional.binary_cross_entropy_with_logits(logits, images, reduction="none")
    else:
        error = 0.5 * (torch.sigmoid(logits) - images).square()
    if likelihood == "optimal-gaussian":
        # The likelihood is flat in its best variance: nothing is lost by holding that constant.
        variance = (2 * error.detach().mean()).clamp_min(_LEAST_VARIANCE)
        error = error / variance + 0.5 * variance.log()
    return error.flatten(1).sum(1)


def kl_per_latent(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of each latent's posterior N(mean, exp(logvar)) from the prior N(0, 1).

    Args:
        mean: (B, D).
        logvar: (B, D), log variance.

    Returns:
        (B, D), nats, never negative but for rounding.

    Raises:
        UsageError: mean and log variance of different shapes.
    """
    _check_posterior(mean, logvar)
    mean, logvar = _full(mean), _full(logvar)
    # expm1 keeps what exp(logvar) - 1 - logvar loses to cancellation near logvar = 0.
    return 0.5 * (mean.square() + torch.expm1(logvar) - logvar)


def reparameterize(mean: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A sample of the posterior, mean + exp(logvar / 2) e with e ~ N(0, 1), differentiable in both arguments.

    Args:
        mean: (B, D).
        logvar: (B, D), log variance.
        generator: where e comes from; torch's global generator where None. One on another device than `mean` (the
            CPU's, for instance, so that the noise is the same on every device) draws there and the noise is copied.

    Returns:
        (B, D).

    Raises:
        UsageError: mean and log variance of different shapes.
    """
    _check_posterior(mean, logvar)
    mean, logvar = _full(mean), _full(logvar)
    device = mean.device if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * logvar) * noise.to(mean.device)


def elbo(
    logits: Tensor,
    images: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str = "bernoulli",
    kl_weight: float | Tensor = 1.0,
) -> ElboTerms:
    """The negative evidence lower bound with the KL divergence weighted (beta of the beta-VAE; 1 is the VAE).

    Args:
        logits: (B, C, H, W), the decoder's output, before the sigmoid, for a sample of the posterior.
        images: (B, C, H, W), values in [0, 1].
        mean: (B, D).
        logvar: (B, D), log variance.
        likelihood: one of LIKELIHOODS, see `reconstruction_error`.
        kl_weight: the weight of the KL divergence, or (D,) one for each latent's.

    Raises:
        UsageError: an unknown likelihood, or shapes that do not agree.
    """
    reconstruction = reconstruction_error(logits, images, likelihood)
    kl = kl_per_latent(mean, logvar)
    if not isinstance(kl_weight, Tensor):
        return ElboTerms((reconstruction + kl_weight * kl.sum(1)).mean(), reconstruction, kl)
    if kl_weight.shape != kl.shape[1:]:
        raise UsageError(f"a KL weight for each latent is ({kl.shape[1]},), got {tuple(kl_weight.shape)}")
    return ElboTerms((reconstruction + (kl * kl_weight).sum(1)).mean(), reconstruction, kl)


def kl_warmup(step: int, warmup_steps: int) -> float:
    """The factor of the KL weight at `step` (from 0): it rises in a line from 0 to 1 over `warmup_steps`, then stays 1.

    A posterior that is pulled to the prior before the decoder has learnt to use it collapses; the ramp prevents that.

    Raises:
        UsageError: a negative step or number of steps.
    """
    if step < 0 or warmup_steps < 0:
        raise UsageError(f"step and warmup_steps must be at least 0, got {step} and {warmup_steps}")
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def active_latents(mean_kl: Tensor, threshold: float = ACTIVE_NATS) -> Tensor:
    """Which latents carry information: those whose KL divergence, in the mean over images, is above `threshold`.

    Args:
        mean_kl: (D,), nats.
        threshold: nats.

    Returns:
        (D,), bool. A latent whose KL divergence is no number counts as not active.

    Raises:
        UsageError: `mean_kl` is not one value per latent.
    """
    if mean_kl.ndim != 1:
        raise UsageError(f"mean_kl has one value per latent, (D,), got {tuple(mean_kl.shape)}: take the mean over images")
    return mean_kl > threshold


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_posterior(mean: Tensor, logvar: Tensor) -> None:
    if mean.shape != logvar.shape:
        raise UsageError(f"mean {tuple(mean.shape)} and logvar {tuple(logvar.shape)} must have one shape, (B, D)")
