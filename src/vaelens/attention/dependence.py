"""Whether a latent depends on a layer at all: if it does not, its map would be empty and say nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from vaelens.attention.encoding import KeptMap, Outdated, encode
from vaelens.attention.functions import calls
from vaelens.attention.plan import Plan
from vaelens.attention.proof import trial_images
from vaelens.attention.tokens import Grid
from vaelens.attention.trace import posterior, trace
from vaelens.attention.untouched import Snapshot, hooks, uncompiled
from vaelens.errors import UsageError

_SEED, _DRAWS, _WIDTH = 20261, 4, 10.0


def suspects(weights: Tensor, latents: Tensor) -> set[int]:
    """Latents whose channel weights (B, K, n) are all 0; `latents` (K,) or (B, K) are those that the K belong to."""
    silent = ~weights.detach().any(-1)
    rows = latents.expand(len(weights), -1)
    return set(rows[silent].tolist()) - set(rows[~silent].tolist()) if bool(silent.any()) else set()


def independent(model: nn.Module, images: Tensor, plan: Plan, memory: int, latents: Iterable[int]) -> list[int]:
    """Those latents whose gradient by the layer is 0 everywhere, for `images` and for images of noise.

    A weight of 0 alone does not tell: it is a mean, and an image may leave every unit asleep that leads to the layer. Nor does
    a gradient of 0 where units are saturated: so another map is put in the layer's place, and what moves then depends on it.
    Nor is a latent meant that is the same for all images: a dead one depends on no layer at all.
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
    asked = [latent for latent in asked if latent in moved]
    return sorted({*asked} - _follow(model, images.detach(), plan)) if asked else []


def reached(model: nn.Module, images: Tensor, plan: Plan, grid: Grid) -> list[str]:
    """Layers of maps of the grid's size that a gradient of the mean comes to, by one backward pass for all of them.

    The last first, those of as many channels as the plan's before others: queries, keys and values lie side by side in one.
    All where autograd cannot follow.
    """
    named = [layer for layer, (_, h, w) in plan.layers.items() if (h, w) == (grid.height, grid.width)]
    named.sort(key=lambda layer: plan.layers[layer][0] == plan.shape[0])  # which keeps their order otherwise
    with torch.inference_mode(False), uncompiled():
        seen = trace(model, images, grad=True)
        made = {call.name: call.output.tensor for call in seen.calls if call.name in named}
        outputs = {layer: output for layer, output in made.items() if output.requires_grad}
        mean = seen.mean.tensor
        if not mean.requires_grad:
            return named[::-1]
        row = torch.randn(mean.shape, generator=torch.Generator("cpu").manual_seed(_SEED), device="cpu").to(mean)
        try:
            gradients = torch.autograd.grad(mean, list(outputs.values()), row, allow_unused=True)
        except RuntimeError:
            return named[::-1]
    found = dict(zip(outputs, gradients, strict=True))
    return [layer for layer in reversed(named) if _in_places(found.get(layer), grid)]


def _in_places(gradient: Tensor | None, grid: Grid) -> bool:
    """Whether a gradient by tokens, or by a map, is not 0 throughout, tokens without a place left out."""
    if gradient is None:
        return False
    return bool((grid.map_of(gradient) if grid.fits(gradient) else gradient).any())


def _follow(model: nn.Module, images: Tensor, plan: Plan) -> set[int]:
    """Latents whose mean changes as other maps, of noise wider than its own numbers, take the place of the layer's."""
    generator = torch.Generator("cpu").manual_seed(_SEED)

    def noise(features: Tensor) -> Tensor:
        drawn = torch.randn(features.shape, generator=generator, dtype=torch.float32, device="cpu").to(features)
        return drawn * (_WIDTH * features.detach().abs().amax() + 1)

    def mean_with(change: Callable[[Tensor], Tensor]) -> Tensor:
        before = Snapshot(model, images.device)
        kept = KeptMap(plan)
        handles, listener = kept.listen(model, change)
        try:
            with hooks(*handles), uncompiled(), torch.inference_mode(False), torch.no_grad():
                given = kept.enter(images.clone())
                with calls(listener):
                    return posterior(model, given)[0]
        finally:
            before.restore()

    original = mean_with(lambda features: features)
    moved = torch.stack([mean_with(noise) != original for _ in range(_DRAWS)])
    return set(moved.any(0).any(0).nonzero().flatten().tolist())


def _reaches(values: Tensor, source: Tensor) -> bool:
    if not values.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(values.sum(), source, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.any())
