"""Channel weights by batched vector-Jacobian products, for every head that autograd can follow."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from vaelens.attention.entrance import Entrance, entrance
from vaelens.attention.variants import Kept, channel_weights
from vaelens.errors import UsageError

log = logging.getLogger("vaelens.attention")

_WORTH = 4  # scalars; for fewer, holding the short way against autograd costs more than it saves
_ROUNDING = 1e-3  # between the two, relative to the largest weight


def vjp_weights(
    features: Tensor,
    outputs: Mapping[str, Tensor],
    cotangents: Mapping[str, Tensor],
    kept: Kept,
    per_chunk: int,
    create_graph: bool,
) -> Tensor:
    """Channel weights of R scalars that are linear in the posterior; 0 where the log variance alone does not depend on the map.

    Args:
        features: (B, n, h, w), in the graph that leads to `outputs`.
        outputs: "mean" and "logvar" (B, D).
        cotangents: by output, the derivative of each scalar by that output: (R, D), or (B, R, D) where it differs by image.
        kept: what is kept of a gradient.
        per_chunk: how many of the R go through one batched product.
        create_graph: whether the weights are to be differentiable.

    Returns:
        (B, R, n), or as `kept` has it.

    Raises:
        UsageError: the mean does not depend on the feature map.
    """
    rows = next(iter(cotangents.values())).shape[-2]
    # An output that does not depend on the image, such as a constant log variance, has no graph and adds nothing.
    names = [name for name in cotangents if outputs[name].requires_grad]
    if not names:
        return kept.none(features, rows)
    targets = [outputs[name] for name in names]
    batch, latents = targets[0].shape
    given = [cotangents[name] for name in names]
    seeds = [c.unsqueeze(1).expand(-1, batch, latents) if c.ndim == 2 else c.transpose(0, 1) for c in given]
    seeds = [seed.to(target.dtype) for seed, target in zip(seeds, targets, strict=True)]
    short = None
    if rows >= _WORTH and not create_graph and kept.means_alone:
        short = _confirmed(entrance(features, dict(zip(names, targets, strict=True))), targets, features, seeds)
    of = features if short is None else short.output
    weights = []
    batched = True
    for start in range(0, rows, per_chunk):
        piece = [seed[start : start + per_chunk] for seed in seeds]
        gradient, batched = _gradient(targets, of, piece, create_graph, batched)
        if gradient is None:
            if "mean" in names:
                raise UsageError("the posterior does not depend on this layer; choose one that lies on the way to the mean")
            return kept.none(features, rows)
        weights.append(kept.of(gradient, kept.features) if short is None else short.weights(gradient))
    return torch.cat(weights).transpose(0, 1)


def _confirmed(short: Entrance | None, targets: list[Tensor], features: Tensor, seeds: list[Tensor]) -> Entrance | None:
    """The short way, if autograd's whole way gives the same for all scalars together: a hook may change a gradient."""
    if short is None:
        return None
    row = [seed.sum(0) for seed in seeds]
    whole = _grad(targets, features, row, create_graph=False, batched=False)
    behind = _grad(targets, short.output, row, create_graph=False, batched=False)
    if whole is None or behind is None:
        return None
    expected = channel_weights(whole, "cvpr")
    largest = expected.abs().max()
    return short if (short.weights(behind) - expected).abs().max() <= _ROUNDING * largest else None


def can_batch(features: Tensor, outputs: Tensor) -> bool:
    """Whether vmap can follow the way from `outputs` (B, D) back to `features`, so that latents go through it together."""
    if not outputs.requires_grad:
        return True
    seeds = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)[:2].unsqueeze(1)
    return _gradient([outputs], features, [seeds.expand(-1, *outputs.shape)], False, True)[1]


def _gradient(
    targets: list[Tensor], of: Tensor | GradientEdge, seeds: list[Tensor], create_graph: bool, batched: bool
) -> tuple[Tensor | None, bool]:
    """Seeds (R, B, D) for each target -> gradient (R, B, n, h, w) by a feature map; None where there is no dependence.

    `batched` is whether one pass for all of them is to be tried; it comes back false where vmap could not follow.
    """
    if batched and seeds[0].shape[0] > 1:
        try:
            return _grad(targets, of, seeds, create_graph, batched=True), True
        except RuntimeError as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.info("batched products are not possible here (%s); one backward pass per latent instead", why)
            batched = False
    rows = ([seed[i].contiguous() for seed in seeds] for i in range(seeds[0].shape[0]))
    each = [_grad(targets, of, row, create_graph, batched=False) for row in rows]
    return None if each[0] is None else torch.stack([gradient for gradient in each if gradient is not None]), batched


def _grad(
    targets: list[Tensor], of: Tensor | GradientEdge, seeds: list[Tensor], create_graph: bool, batched: bool
) -> Tensor | None:
    # autograd.grad, and not backward: it leaves every .grad alone.
    gradient: Tensor | None = torch.autograd.grad(
        targets,
        of,
        grad_outputs=seeds,
        retain_graph=True,
        create_graph=create_graph,
        is_grads_batched=batched,
        allow_unused=True,
    )[0]
    return gradient
