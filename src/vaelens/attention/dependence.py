"""Whether a latent depends on a layer at all: if it does not, its map would be empty and say nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vaelens.attention.encoding import Outdated, encode
from vaelens.attention.plan import Plan
from vaelens.attention.proof import trial_images
from vaelens.attention.untouched import Snapshot
from vaelens.errors import UsageError


def suspects(weights: Tensor, latents: Tensor) -> set[int]:
    """Latents whose channel weights (B, K, n) are all 0; `latents` (K,) or (B, K) are those that the K belong to."""
    silent = ~weights.detach().any(-1)
    rows = latents.expand(len(weights), -1)
    return set(rows[silent].tolist()) - set(rows[~silent].tolist()) if bool(silent.any()) else set()


def independent(model: nn.Module, images: Tensor, plan: Plan, memory: int, latents: Iterable[int]) -> list[int]:
    """Those latents whose gradient by the layer is 0 everywhere, for `images` and for images of noise.

    A weight of 0 alone does not tell: it is a mean, and an image may leave every unit asleep that leads to the layer. Nor is a
    latent meant that is the same for all images: a dead one depends on no layer at all.
    """
    asked = sorted(latents)
    moved: set[int] = set()
    for probe in (images.detach(), trial_images(images[:0].detach(), plan)):
        before = Snapshot(model, images.device)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                try:
                    encoding = encode(model, probe.clone(), plan, False, memory)
                except UsageError:  # no gradient at all
                    return asked
                values = encoding.mean.detach()
                moved |= set((values != values[:1]).any(0).nonzero().flatten().tolist())
                asked = [latent for latent in asked if not _reaches(encoding.mean[:, latent], encoding.source)]
        except Outdated:
            return []
        finally:
            before.restore()
        if not asked:
            break
    return [latent for latent in asked if latent in moved]


def _reaches(values: Tensor, source: Tensor) -> bool:
    if not values.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(values.sum(), source, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.any())
