"""What training minimises: the parts of the evidence lower bound, each per image and per latent, in nats."""

from __future__ import annotations

from vaelens.objectives.elbo import (
    ACTIVE_NATS,
    LIKELIHOODS,
    ElboTerms,
    active_latents,
    elbo,
    kl_per_latent,
    kl_warmup,
    reconstruction_error,
    reparameterize,
)

__all__ = [
    "ACTIVE_NATS",
    "LIKELIHOODS",
    "ElboTerms",
    "active_latents",
    "elbo",
    "kl_per_latent",
    "kl_warmup",
    "reconstruction_error",
    "reparameterize",
]
