"""Traversals of a run's latents: those of its model, with what the run knows of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaelens.attention import LatentAttention, LatentMaps
from vaelens.attention.traversal import Traversal, most_telling, values_of
from vaelens.attention.traversal import frames_of as frames_by
from vaelens.errors import UsageError
from vaelens.runs.known import KnownRun

__all__ = ["Traversal", "decode", "frames_of", "traversal_of"]

_AT_ONCE = 256


def traversal_of(
    run: KnownRun,
    image: Tensor,
    latents: int | str | Sequence[int] | None,
    span: float | tuple[float, float],
    steps: int,
    attention: LatentAttention | None,
) -> Traversal:
    """See `Run.traverse`; `image` is a batch of one."""
    if image.ndim != 4 or len(image) != 1:
        raise UsageError(f"a traversal is of one image (C, H, W), or a batch of one, got {tuple(image.shape)}")
    if not (run.has_posterior and run.reconstructs):
        raise UsageError(f"a run of objective '{run.config.objective}' has no latents to move; train a VAE for that")
    values = values_of(span, steps)
    given = run.attention if attention is None else attention
    if latents is None:
        with torch.no_grad():
            mean, logvar = run.model.encode(image.to(run.device))
        latents = most_telling(mean.cpu(), logvar.cpu(), run.active)
    method = "vjp" if given.method == "vjp" else "auto"
    chosen = LatentAttention(given.model, given.layer, latents, method, variant=given.variant)
    maps = run.explain(image, chosen).maps
    which = [int(latent) for latent in maps.latents.flatten()]
    frames = frames_of(run, maps, values)[0]
    return Traversal(
        images=torch.stack([run.visible(one) for one in frames]),
        maps=maps,
        values=values,
        latents=tuple(which),
        image=run.visible(image)[0],
        decoded=run.visible(decode(run, maps.mean))[0],
        active=run.active[which],
    )


def decode(run: KnownRun, codes: Tensor) -> Tensor:
    """The decoder's images (N, C, H, W), in [0, 1], of codes (N, D)."""
    with torch.inference_mode():
        return torch.cat([run.model.decode(part.to(run.device)).cpu() for part in torch.split(codes, _AT_ONCE)])


def frames_of(run: KnownRun, maps: LatentMaps, values: Sequence[float]) -> Tensor:
    """Each explained latent at each of `values`, the others at the posterior mean: (S, K, V, C, H, W), in [0, 1]."""
    return frames_by(lambda codes: decode(run, codes), maps, values)
