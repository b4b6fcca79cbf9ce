"""What training minimises: the evidence lower bound in parts, total correlation, and how far attention maps overlap."""

from __future__ import annotations

from vaelens.objectives.attention_disentanglement import PAIRS, RECTIFIERS, attention_disentanglement, empty_maps
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
from vaelens.objectives.total_correlation import (
    Discriminator,
    discriminator_loss,
    permute_latents,
    standardized,
    total_correlation,
)

__all__ = [
    "ACTIVE_NATS",
    "LIKELIHOODS",
    "PAIRS",
    "RECTIFIERS",
    "Discriminator",
    "ElboTerms",
    "active_latents",
    "attention_disentanglement",
    "discriminator_loss",
    "elbo",
    "empty_maps",
    "kl_per_latent",
    "kl_warmup",
    "permute_latents",
    "reconstruction_error",
    "reparameterize",
    "standardized",
    "total_correlation",
]
