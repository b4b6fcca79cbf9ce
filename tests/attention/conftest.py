"""An independent way to the same maps (one backward pass per latent, written out), and small models to explain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn


@dataclass
class Reference:
    """What plain autograd says: features, mean, logvar and, for each scalar asked for, its gradient by the features."""

    features: dict[str, Tensor]
    mean: Tensor
    logvar: Tensor
    gradients: dict[str, Tensor] = field(default_factory=dict)  # layer -> (B, R, n, h, w)

    def weights(self, layer: str, variant: str = "cvpr") -> Tensor:
        g = self.gradients[layer]
        if variant in ("cvpr", "hirescam"):
            return g.sum((-2, -1)) / (g.shape[-2] * g.shape[-1])
        if variant == "arxiv_v1":
            return g.clamp(min=0).sum((-2, -1)) / (g.shape[-2] * g.shape[-1])
        rms = (g.pow(2).sum((-3, -2, -1)) / g[0, 0].numel()).sqrt() + 1e-5
        return (g / rms[..., None, None, None]).sum((-2, -1)) / (g.shape[-2] * g.shape[-1])

    def signed(self, layer: str, variant: str = "cvpr", of: Tensor | None = None) -> Tensor:
        of = self.features[layer] if of is None else of
        if variant == "hirescam":
            return torch.einsum("brkhw,bkhw->brhw", self.gradients[layer], of)
        return torch.einsum("brk,bkhw->brhw", self.weights(layer, variant), of)

    def per_latent(self, layer: str, variant: str = "cvpr") -> Tensor:
        signed = self.signed(layer, variant)
        return signed.abs() if variant == "expvae" else signed.clamp(min=0)


def reference(
    model: nn.Module,
    images: Tensor,
    layers: str | Iterable[str],
    scalars: Callable[[Tensor, Tensor], Tensor] | None = None,
    create_graph: bool = False,
    nth: int = -1,
) -> Reference:
    """One backward pass per scalar, the textbook way.

    Args:
        scalars: (mean, logvar) -> (B, R), what to explain; the posterior mean where None.
        nth: which call of the layers' modules gives the features; the last by default.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            seen[name].append(output)
            return output.clone()  # later modules may write in place

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            own = images.clone()
            if not images.requires_grad:
                own.requires_grad_()  # so that there is a graph with frozen parameters, too
            mean, logvar = model.encode(own)
            features = {name: outputs[nth] for name, outputs in seen.items()}
            values = mean if scalars is None else scalars(mean, logvar)
            rows: dict[str, list[Tensor]] = {name: [] for name in names}
            for r in range(values.shape[1]):
                grads = torch.autograd.grad(
                    values[:, r].sum(), list(features.values()), retain_graph=True, create_graph=create_graph
                )
                for name, grad in zip(names, grads, strict=True):
                    rows[name].append(grad)
    finally:
        for handle in handles:
            handle.remove()
    result = Reference(features, mean, logvar, {name: torch.stack(grads, 1) for name, grads in rows.items()})
    if not create_graph:
        result.features = {name: f.detach() for name, f in features.items()}
        result.mean, result.logvar = mean.detach(), logvar.detach()
    return result


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over largest absolute value; that difference itself where all that is expected is 0."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach(), expected.detach()
    scale = float(expected.abs().max())
    return float((found.to(expected.dtype) - expected).abs().max()) / (scale or 1.0)


class Toy(nn.Module):
    """A VAE encoder of a trunk of modules and two heads; `encode` is what a user would write."""

    def __init__(self, trunk: Sequence[nn.Module] | nn.Module, mean: nn.Module, logvar: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk if isinstance(trunk, nn.Module) else nn.Sequential(*trunk)
        self.mean = mean
        self.logvar = logvar

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(images)
        return self.mean(hidden).flatten(1), self.logvar(hidden).flatten(1)


@pytest.fixture(name="reference", scope="session")
def _reference() -> Callable[..., Reference]:
    return reference


@pytest.fixture(name="relative_error", scope="session")
def _relative_error() -> Callable[[Tensor, Tensor], float]:
    return relative_error


@pytest.fixture(name="Toy", scope="session")
def _toy() -> type[Toy]:
    return Toy


@pytest.fixture
def images() -> Tensor:
    """Three images (3, 1, 8, 8), values in [0, 1]."""
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def toy() -> Toy:
    """Images (B, 1, 8, 8) -> conv (3, 4, 4), ReLU, flatten, linear 6, ReLU -> 4 latents: closed form at trunk.1."""
    trunk = [nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6), nn.ReLU()]
    return Toy(trunk, nn.Linear(6, 4), nn.Linear(6, 4)).eval()


@pytest.fixture
def smooth_toy() -> Toy:
    """The same with SiLU: no closed form."""
    trunk = [nn.Conv2d(1, 3, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(48, 6), nn.SiLU()]
    return Toy(trunk, nn.Linear(6, 4), nn.Linear(6, 4)).eval()
