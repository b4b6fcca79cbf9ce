"""The model, gradients, random numbers and torch's switches are afterwards what they were before, also after an exception."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention, MeanSum, NormalDifference
from vaelens.errors import UsageError
from vaelens.models import build


def state(model: nn.Module) -> dict[str, Any]:
    """All that could be left behind. Every dict of hooks by its keys and values, whatever this version of torch calls it."""
    found: dict[str, Any] = {"grad mode": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled()}
    found["autocast"] = (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled())
    found["random"] = torch.random.get_rng_state().tolist()
    for name, module in model.named_modules():
        found[f"{name} mode"] = module.training
        found[f"{name} attributes"] = sorted(vars(module))
        found[f"{name} children"] = [id(child) for child in module.children()]
        for attribute, value in vars(module).items():
            if "hook" in attribute and isinstance(value, dict):
                found[f"{name} {attribute}"] = list(value.items())
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        found[f"{name} tensor"] = (id(parameter), parameter.requires_grad, parameter.dtype, parameter._version)
        found[f"{name} grad"] = None if grad is None else (id(grad), grad.tolist())
        found[f"{name} tensor hooks"] = parameter._backward_hooks
    for name, buffer in model.named_buffers():
        found[f"{name} buffer"] = (id(buffer), buffer.tolist())
    return found


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


class Bomb(nn.Module):
    """Gives its input on, until the n-th call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise ArithmeticError("the n-th call")
        return x + 0


@pytest.fixture
def model(Toy: Any) -> nn.Module:
    """Dropout and batch norm on both sides of the layer, modes mixed, some gradients there and some parameters frozen."""
    trunk = [
        nn.Conv2d(1, 3, 4, 2, 1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(48, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
    ]
    model = Toy(trunk, nn.Linear(6, 4), nn.Linear(6, 4))
    model.input_shape = (1, 8, 8)
    model.eval()
    model.trunk[0].train()
    model.mean.train()
    model.trunk[0].weight.requires_grad_(False)
    model.trunk[4].weight.grad = torch.randn_like(model.trunk[4].weight)
    model.mean.bias.grad = torch.ones_like(model.mean.bias)
    # Hooks of the user's own that change nothing, of each kind.
    model.trunk[0].register_forward_hook(lambda *a: None)
    model.trunk[2].register_forward_pre_hook(lambda *a: None)
    model.trunk[0].register_full_backward_hook(lambda *a: None)
    model.register_state_dict_pre_hook(lambda *a: None)
    return model


@contextlib.contextmanager
def no_switch() -> Iterator[None]:
    yield


SWITCHES: dict[str, Callable[[], Any]] = {
    "grad": no_switch,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def everything(attention: LatentAttention, images: Tensor) -> None:
    attention(images)
    attention(images, sample=True, generator=torch.Generator().manual_seed(0))
    attention.posterior(images).sample(torch.Generator().manual_seed(0))
    MeanSum(0.0, 1.0).maps(attention, images)
    NormalDifference(torch.zeros(4), torch.ones(4)).maps(attention, images)
    Deviation.fit(attention, images, 1).maps(attention, images)
    repr(attention), attention.method, attention.layers


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("method", ["auto", "vjp"])
@pytest.mark.parametrize("layer", [None, "trunk.0", "trunk.1", "trunk.2"])
def test_after_every_use(layer: str | None, method: str, switch: str, model: nn.Module, images: Tensor) -> None:
    with SWITCHES[switch]():
        before = state(model)
        everything(LatentAttention(model, layer, method=method), images)
        assert difference(before, state(model)) == []


@pytest.mark.parametrize("network", ["mnist", "mvtec", "dsprites"])
def test_the_networks_with_mixed_modes(network: str) -> None:
    shape = {"mnist": (1, 8, 8), "mvtec": (1, 64, 64), "dsprites": (1, 16, 32)}[network]
    model = build(network, 3, shape)
    for number, module in enumerate(model.encoder.modules()):
        module.training = number % 3 == 0
    images = torch.rand(2, *shape)
    with torch.no_grad():  # what training batch norms there are change their statistics by an encoding, as they should
        running = {name: b.clone() for name, b in model.named_buffers()}
        before = state(model)
        attention = LatentAttention(model)
        assert difference(before, state(model)) == []  # but not by the look at the model
        attention(images)
        model.encode(images)
        assert all("buffer" in key for key in difference(before, state(model)))
    for name, module in model.encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            counted = int(module.num_batches_tracked - running[f"encoder.{name}.num_batches_tracked"])
            assert counted == (2 if module.training else 0)  # one for the maps, one for `encode`


def test_training_mode_is_explained_as_it_is(model: nn.Module, images: Tensor) -> None:
    """A model in training mode gets its batch statistics updated once by an encoding, and never by the look at it."""
    model.train()
    before = state(model)
    attention = LatentAttention(model)
    assert difference(before, state(model)) == []
    attention(images)
    assert int(model.trunk[1].num_batches_tracked) == int(model.trunk[5].num_batches_tracked) == 1
    attention.posterior(images)
    assert int(model.trunk[1].num_batches_tracked) == 2
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("switch", ["grad", "no_grad", "inference_mode"])
@pytest.mark.parametrize("method", ["auto", "closed_form", "vjp"])
@pytest.mark.parametrize("calls", range(4))
@pytest.mark.parametrize("where", [0, 3, 5, 9])
def test_after_an_exception_in_encode(
    where: int, calls: int, method: str, switch: str, model: nn.Module, images: Tensor
) -> None:
    """A module raises on the n-th call: in the look at the model, in the forward pass, in the one after it."""
    model.trunk.insert(where if where < 9 else len(model.trunk), Bomb(calls))
    layer = "trunk.3" if where < 3 else "trunk.2"
    with SWITCHES[switch]():
        before = state(model)
        raised = 0
        attention = None
        for _ in range(4):
            try:
                attention = attention or LatentAttention(model, layer, method=method)
                attention(images)
            except (ArithmeticError, UsageError):  # with a bomb behind the layer there is no closed form
                raised += 1
            assert difference(before, state(model)) == []
        assert raised > 0


def test_after_an_exception_in_the_backward_pass(toy: nn.Module, images: Tensor) -> None:
    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise ArithmeticError("in backward")

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Explodes.apply(x)

    toy.trunk.append(Late())
    before = state(toy)
    with pytest.raises(ArithmeticError):
        LatentAttention(toy, "trunk.1")(images)
    assert difference(before, state(toy)) == []


def test_sampling_without_a_generator_uses_torchs(toy: nn.Module, images: Tensor) -> None:
    attention = LatentAttention(toy, "trunk.1")
    torch.manual_seed(4)
    first = attention(images, sample=True).signed
    second = attention(images, sample=True).signed
    torch.manual_seed(4)
    again = attention(images, sample=True).signed
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    before = torch.random.get_rng_state()
    seeded = attention(images, sample=True, generator=torch.Generator().manual_seed(4)).signed
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(seeded, first)


def test_an_encode_that_draws_random_numbers(toy: nn.Module, images: Tensor) -> None:
    """The look at the model does not use up the caller's random numbers, whatever `encode` does."""
    whole = type(toy).encode

    class Drawing(type(toy)):  # type: ignore[misc]
        input_shape = (1, 8, 8)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = whole(self, x)
            return mean, logvar + torch.randn_like(logvar)

    model = Drawing(toy.trunk, toy.mean, toy.logvar).eval()
    before = torch.random.get_rng_state()
    attention = LatentAttention(model, "trunk.1")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    maps = attention(images)
    torch.manual_seed(1)
    assert torch.equal(maps.logvar, model.encode(images)[1])


def test_copies_and_pickles_afterwards(toy: nn.Module, images: Tensor) -> None:
    attention = LatentAttention(toy, "trunk.1")
    maps = attention(images)
    with torch.no_grad():
        LatentAttention(toy, "trunk.0")(images)
    for other in (copy.deepcopy(toy), pickle.loads(pickle.dumps(toy))):
        torch.testing.assert_close(LatentAttention(other, "trunk.1")(images).signed, maps.signed)
    file = io.BytesIO()
    torch.save(toy.state_dict(), file)
    # The attention itself, with its plan: the copy explains the copied model.
    other = copy.deepcopy(attention)
    assert other.model is not toy
    with torch.no_grad():
        other.model.mean.weight.mul_(3)
    torch.testing.assert_close(other(images).signed, 3 * maps.signed)
    torch.testing.assert_close(attention(images).signed, maps.signed)
    back = pickle.loads(pickle.dumps(maps.detach()))
    assert torch.equal(back.signed, maps.signed)
