"""A transposed convolution whose gradients are taken one by one gives what torch's gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vaelens.models import build
from vaelens.models.transposed import ConvTranspose2d


def pair(**options: int) -> tuple[nn.ConvTranspose2d, ConvTranspose2d]:
    theirs = nn.ConvTranspose2d(6, 4, 4, **options).double()
    ours = ConvTranspose2d(6, 4, 4, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"stride": 3, "output_padding": 2}, {"dilation": 2}])
def test_values_and_gradients_are_torchs(options: dict[str, int]) -> None:
    theirs, ours = pair(**options)
    images = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    found = []
    for module in (theirs, ours):
        source = images.clone().requires_grad_()
        out = module(source)
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        found.append((out, *torch.autograd.grad((out * weights).square().sum(), (source, *module.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_can_be_differentiated_again() -> None:
    _, ours = pair(stride=2, padding=1)
    source = torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ours, (source,))


@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    _, ours = pair(stride=2, padding=1)
    source = torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=frozen != "input")
    if frozen != "input":
        getattr(ours, frozen).requires_grad_(False)
    ours(source).sum().backward()
    grads = {"input": source.grad, "weight": ours.weight.grad, "bias": ours.bias.grad if ours.bias is not None else None}
    assert [name for name, grad in grads.items() if grad is None] == [frozen]


def test_autocast_computes_in_half_precision_and_leaves_float32_gradients() -> None:
    module = ConvTranspose2d(6, 4, 4)
    twin = nn.ConvTranspose2d(6, 4, 4)
    twin.load_state_dict(module.state_dict())
    source = torch.randn(3, 6, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out, other = module(source), twin(source)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, other)
    out.float().square().sum().backward()
    other.float().square().sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.dtype == torch.float32
    torch.testing.assert_close(module.weight.grad, twin.weight.grad, rtol=2e-2, atol=2e-2)


def test_it_is_torchs_where_no_gradient_is_wanted_or_another_size_is_asked_for() -> None:
    theirs, ours = pair(stride=2)
    source = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(theirs(source), ours(source))
    assert torch.equal(theirs(source, output_size=[9, 9]), ours(source, output_size=[9, 9]))


def test_the_dsprites_network_has_the_weights_and_gradients_that_it_had() -> None:
    ours = build("dsprites", latent_dim=3)
    theirs = copy.deepcopy(ours)
    for module in theirs.modules():
        if isinstance(module, ConvTranspose2d):
            module.__class__ = nn.ConvTranspose2d
    codes = torch.randn(4, 3)
    for model in (ours, theirs):
        model.decode_logits(codes).square().mean().backward()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for one, other in zip(ours.decoder.parameters(), theirs.decoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)
