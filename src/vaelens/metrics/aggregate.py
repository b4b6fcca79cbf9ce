"""What the KL divergence of codes consists of: the aggregate posterior q(z) of a whole data set, without a discriminator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaelens.errors import UsageError, whole
from vaelens.metrics.arrays import as_array
from vaelens.metrics.codes import Array

SAMPLES = 256
_AT_ONCE = 64
_IMAGES = 4096  # of so many all samples' log densities stay in the processor's cache
_LEAST = -80.0  # of logarithms: less adds nothing to what a sample's own posterior gives, and exp takes ten times as long there
_MOST, _MOST_LOGVAR = float(np.finfo(np.float32).max), 85.0
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class KLParts:
    """The mean KL divergence of posteriors from the standard normal prior, in three parts (Chen et al. 2018, eq. 2); nats.

    Attributes:
        information: mutual information of image and code, at most log N.
        total_correlation: KL(q(z) || prod_j q(z_j)), how far the latents are from independent.
        marginal: (D,), KL(q(z_j) || p(z_j)), how far each latent is from the prior over all images.
        information_error: standard error of `information` over the samples.
        total_correlation_error: likewise.
    """

    information: float
    total_correlation: float
    marginal: NDArray[np.float64]
    information_error: float
    total_correlation_error: float


def kl_parts(
    mean: Array,
    logvar: Array,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> KLParts:
    """Mutual information, total correlation and marginal divergence of the posteriors of N images.

    q(z) is the mixture of all N posteriors and is evaluated as that, at samples from it: the figures are exact but for the
    number of samples, whose standard error comes along. What FactorVAE's discriminator estimates while it is trained may be far
    below, for it sees few codes of each state of the encoder.

    Args:
        mean: (N, D), posterior means of every image of the data set.
        logvar: (N, D), log variances.
        samples: how many codes q(z) is evaluated at; time grows with samples * N * D.
        seed: of the samples.
        progress: called with samples done and in all.

    Raises:
        UsageError: arrays of other shapes, fewer than 2 images, or numbers that are not finite.
    """
    means, logvars = _table("mean", mean), _table("logvar", logvar)
    if logvars.numel() and float(logvars.abs().max()) > _MOST_LOGVAR:
        raise UsageError(f"logvar must lie between -{_MOST_LOGVAR:g} and {_MOST_LOGVAR:g}: no float32 holds other variances")
    if means.shape != logvars.shape:
        raise UsageError(f"mean {tuple(means.shape)} and logvar {tuple(logvars.shape)} must have one shape")
    if len(means) < 2:
        raise UsageError(f"mean {tuple(means.shape)} must have at least 2 rows: one image has no aggregate")
    count, seed = whole("samples", samples, least=2), whole("seed", seed, least=0)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(means), (count,), generator=generator)
    noise = torch.randn(count, means.shape[1], generator=generator)
    codes = means[chosen] + noise * (logvars[chosen] / 2).exp()
    own = (-0.5 * (noise.double().square() + logvars[chosen].double()) - _HALF_LOG_TAU).sum(1)
    prior = -0.5 * codes.double().square() - _HALF_LOG_TAU
    joint, marginals = [], []
    for start in range(0, count, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        of_all, of_each = _log_densities(codes[part], means, logvars)
        joint.append(of_all)
        marginals.append(of_each)
        if progress is not None:
            progress(min(part.stop, count), count)
    together, apart = torch.cat(joint), torch.cat(marginals)
    information, correlation = own - together, together - apart.sum(1)
    return KLParts(
        information=float(information.mean()),
        total_correlation=float(correlation.mean()),
        marginal=(apart - prior).mean(0).numpy(),
        information_error=float(information.std() / count**0.5),
        total_correlation_error=float(correlation.std() / count**0.5),
    )


def _log_densities(codes: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) (S,) and log q(z_j) (S, D) of codes (S, D), double, the mixtures of the posteriors (N, D)."""
    samples, latents = codes.shape
    joint = torch.full((samples,), -math.inf, dtype=torch.float64)
    sums = torch.zeros(samples, latents, dtype=torch.float64)
    for start in range(0, len(mean), _IMAGES):
        part = slice(start, start + _IMAGES)
        scale, constant = (-logvar[part] / 2).exp(), -logvar[part] / 2 - _HALF_LOG_TAU
        total, density = torch.zeros(samples, len(scale)), torch.empty(samples, len(scale))
        for latent in range(latents):
            torch.sub(codes[:, latent, None], mean[part, latent], out=density)
            density.mul_(scale[:, latent]).square_().mul_(-0.5).add_(constant[:, latent])
            total += density
            sums[:, latent] += density.clamp_(min=_LEAST).exp_().sum(1)
        most = total.amax(1)
        in_units = total.sub_(most[:, None]).clamp_(min=_LEAST).exp_().sum(1)
        joint = torch.logaddexp(joint, most.double() + in_units.double().log())
    return joint - math.log(len(mean)), sums.log() - math.log(len(mean))


def _table(name: str, given: Array) -> Tensor:
    values: NDArray[Any] = as_array(given, f"{name} must be an array (images, latents)")
    if values.ndim != 2 or values.shape[1] < 1:
        raise UsageError(f"{name} must have the shape (images, latents), got {values.shape}")
    half = values.dtype.kind == "f" and values.dtype.itemsize < 4  # whose own numbers the limit is beyond
    if values.dtype.kind not in "fiub" or not (np.isfinite(values) if half else np.abs(values) <= _MOST).all():
        raise UsageError(f"{name} must hold finite real numbers, none beyond float32's")
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
