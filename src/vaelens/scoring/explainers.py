"""The ways to a map of each latent that are compared with each other: attention, its variants, deviation, captum.

A new one is a function here, or in a file of its own, and one line of METHODS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention
from vaelens.attention.variants import VARIANTS
from vaelens.errors import UsageError, unknown
from vaelens.runs import Run

Explain: TypeAlias = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) -> maps (B, K, h, w), values >= 0."""

INTEGRATED = "integrated-gradients"
DEVIATION = "deviation"
_NORMAL = 512  # images that a deviation is from
_NEIGHBOURS, _RIDGE = 20, 0.3  # as the localizer has them
_STEPS = 16  # of the path of integrated gradients
_AT_ONCE = 32


class Opposite(nn.Module):
    """A model whose latents have the other sign: its maps are of what lowers the latents of the model itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.model.encode(images)  # type: ignore[operator]
        return -mean, logvar


@dataclass(frozen=True)
class Method:
    """A way to a map of each latent.

    Attributes:
        explains: what its maps are, in a few words.
        make: a run and K of its latents -> a model of the run's architecture -> its maps.
        signed: whether a map is of what raises a latent, so that what lowers it has another.
        needs_normal: whether it compares with normal images.
    """

    explains: str
    make: Callable[[Run, list[int]], Callable[[nn.Module], Explain]]
    signed: bool = False
    needs_normal: bool = False


def _attention(variant: str) -> Callable[[Run, list[int]], Callable[[nn.Module], Explain]]:
    def make(run: Run, latents: list[int]) -> Callable[[nn.Module], Explain]:
        def of(model: nn.Module) -> Explain:
            attention = LatentAttention(model, _layer(run, model), latents, variant=variant)
            return _quietly(lambda images: attention(images).per_latent)

        return of

    return make


def _deviation(run: Run, latents: list[int]) -> Callable[[nn.Module], Explain]:
    normal = run.normal_images[:: -(-len(run.normal_images) // _NORMAL)]

    def of(model: nn.Module) -> Explain:
        attention = LatentAttention(model, _layer(run, model), latents)
        neighbours = min(_NEIGHBOURS, len(normal))
        fitted = Deviation.fit(attention, normal.to(run.device), neighbours, _AT_ONCE, _RIDGE)
        return _quietly(lambda images: fitted.maps(attention, images).per_latent)

    return of


def _integrated_gradients(run: Run, latents: list[int]) -> Callable[[nn.Module], Explain]:
    captum = _captum()
    if captum is None:
        raise UsageError(f"method '{INTEGRATED}' needs captum; install it with: pip install 'vaelens[bench]'")
    integrated: type = captum

    def of(model: nn.Module) -> Explain:
        method = integrated(lambda images: model.encode(images)[0])  # type: ignore[operator]

        def maps(images: Tensor) -> Tensor:
            inputs = images.detach().clone().requires_grad_()
            each = [method.attribute(inputs, target=latent, n_steps=_STEPS).detach() for latent in latents]
            return torch.stack([one.abs().sum(1) for one in each], 1).cpu()

        return _in_batches(maps, 8)

    return of


METHODS: dict[str, Method] = {
    "cvpr": Method("attention, eq. 2 and 3", _attention("cvpr"), signed=True),
    "arxiv_v1": Method("attention as in the paper's first version", _attention("arxiv_v1"), signed=True),
    "expvae": Method("attention as in the authors' code", _attention("expvae")),
    "hirescam": Method("attention with a weight for each pixel", _attention("hirescam"), signed=True),
    DEVIATION: Method("each latent's deviation from normal neighbours", _deviation, needs_normal=True),
    INTEGRATED: Method(
        f"captum's integrated gradients from a black image in {_STEPS} steps, absolute values", _integrated_gradients
    ),
}
assert set(VARIANTS) <= set(METHODS)


def methods_of(run: Run, asked: list[str] | None = None) -> tuple[list[str], list[str]]:
    """The methods to judge, and for each that is left out by itself a sentence that says why.

    Args:
        run: whose latents.
        asked: names; None: all that the run and what is installed allow.

    Raises:
        UsageError: an unknown name, or one that was asked for and cannot be.
    """
    if asked is not None:
        for name in asked:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
            if METHODS[name].needs_normal and run.config.of_factors:
                raise UsageError(f"method '{name}' compares with normal images, of which {run.config.dataset['name']} has none")
        return list(dict.fromkeys(asked)), []
    names, left_out = list(METHODS), []
    if run.config.of_factors:
        names.remove(DEVIATION)
        left_out.append(f"'{DEVIATION}' is left out: {run.config.dataset['name']} has no normal images to deviate from.")
    if _captum() is None:
        names.remove(INTEGRATED)
        left_out.append(f"'{INTEGRATED}' is left out: captum is not installed (pip install 'vaelens[bench]').")
    return names, left_out


def _captum() -> type | None:
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        return None
    return IntegratedGradients  # type: ignore[no-any-return]


def _layer(run: Run, model: nn.Module) -> str:
    return f"model.{run.attention.layer}" if isinstance(model, Opposite) else run.attention.layer


def _quietly(maps: Explain) -> Explain:
    def explain(images: Tensor) -> Tensor:
        with torch.no_grad():
            return maps(images).cpu()

    return _in_batches(explain, _AT_ONCE)


def _in_batches(maps: Explain, at_once: int) -> Explain:
    return lambda images: torch.cat([maps(batch) for batch in torch.split(images, at_once)])
