"""The model leaves as it came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vaelens import LatentAttention
from vaelens.models import build


def state(model: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(m.training, *(len(getattr(m, h)) for h in hooks)) for m in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        [b.clone() for b in model.buffers()],
        torch.is_grad_enabled(),
        torch.random.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_mode_gradients_hooks_and_random_state(method: str, frozen: bool, grad: bool) -> None:
    model = build("mnist", latent_dim=3, input_shape=(1, 8, 8)).requires_grad_(not frozen)
    model.encoder.eval()
    images = torch.rand(2, 1, 8, 8)
    with torch.set_grad_enabled(grad):
        before = state(model)
        attention = LatentAttention(model, method=method)
        attention(images)
        attention.posterior(images)
        assert str(state(model)) == str(before)
        attention.model.mean.register_forward_pre_hook(lambda module, args: 1 / 0)
        with_bomb = state(model)
        with pytest.raises(ZeroDivisionError):
            LatentAttention(model, "encoder.relu1", method="vjp")(images)
        assert str(state(model)) == str(with_bomb)


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_gradient_of_a_loss_on_the_maps_equals_double_backward(method: str) -> None:
    model = build("mnist", latent_dim=3, input_shape=(1, 12, 12)).double().eval()
    images = torch.rand(2, 1, 12, 12, dtype=torch.float64)
    parameters = list(model.encoder.parameters())
    maps = LatentAttention(model, method=method)(images).per_latent
    found = torch.autograd.grad(maps.square().sum(), parameters, allow_unused=True)

    features = model.encoder[:4](images)  # type: ignore[index]
    mean = model.mean(model.encoder[4:](features))  # type: ignore[index]
    rows = [torch.autograd.grad(mean[:, i].sum(), features, create_graph=True)[0].mean((2, 3)) for i in range(3)]
    expected_maps = torch.relu(torch.einsum("bin,bnhw->bihw", torch.stack(rows, 1), features))
    expected = torch.autograd.grad(expected_maps.square().sum(), parameters, allow_unused=True)
    assert float(maps.max()) > 0
    for mine, theirs in zip(found, expected, strict=True):
        mine, theirs = (torch.zeros(1) if g is None else g for g in (mine, theirs))
        assert float((mine - theirs).abs().max()) <= 1e-9 * max(1.0, float(theirs.abs().max()))


def test_autocast_inference_mode_and_memory_formats() -> None:
    model = build("mvtec", latent_dim=3, input_shape=(3, 64, 64)).eval()
    images = torch.rand(2, 3, 64, 64)
    for method in ("closed_form", "vjp"):
        attention = LatentAttention(model, method=method)
        with torch.no_grad():
            plain = attention(images).signed
            scale = float(plain.abs().max())
            for other in (images.to(memory_format=torch.channels_last), images.transpose(2, 3).contiguous().transpose(2, 3)):
                assert float((attention(other).signed - plain).abs().max()) < 1e-4 * scale
            with torch.autocast("cpu", torch.bfloat16):
                assert bool(attention(images).signed.isfinite().all())
        with torch.inference_mode():
            assert float((attention(images.clone()).signed - plain).abs().max()) < 1e-4 * scale
