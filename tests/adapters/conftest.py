"""What plain autograd says of a model's maps: one backward pass per latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Check = Callable[..., Any]


def textbook(
    posterior: Callable[[Tensor], tuple[Tensor, Tensor]], layer: nn.Module, images: Tensor, logvar: bool = False
) -> Tensor:
    """Signed maps (B, D, h, w) of the mean, or of the log variance, at a module's last call."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        with torch.enable_grad():
            outputs = posterior(images.clone().requires_grad_())[1 if logvar else 0]
    finally:
        handle.remove()
    features = kept[-1]
    maps = []
    for i in range(outputs.shape[1]):
        (gradient,) = torch.autograd.grad(outputs[:, i].sum(), features, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * features).sum(1))
    return torch.stack(maps, 1).detach()


@pytest.fixture(scope="session")
def agrees() -> Check:
    """Checks that maps of the mean, and the spread over the posterior, are the textbook's to 1e-5; gives the attention."""
    from vaelens import LatentAttention

    def check(
        vae: Any,
        posterior: Callable[[Tensor], tuple[Tensor, Tensor]],
        images: Tensor,
        layer: str | None = None,
        method: str | None = None,
    ) -> LatentAttention:
        attention = LatentAttention(vae, layer)
        with torch.no_grad():
            maps = attention(images)
            spread = attention.posterior(images)
            mean, logvar = posterior(images)
        assert method in (None, maps.method), (maps.method, attention.why_not)
        torch.testing.assert_close(maps.mean, mean)
        torch.testing.assert_close(maps.logvar, logvar)
        module = vae.get_submodule(attention.layer)
        expected = textbook(posterior, module, images)
        assert float(expected.abs().max()) > 0
        assert float((maps.signed - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        by_logvar = textbook(posterior, module, images, logvar=True) * (logvar / 2).exp()[..., None, None] / 2
        assert float((spread.slope - by_logvar).abs().max()) <= 1e-5 * float(by_logvar.abs().max())
        return attention

    return check


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
