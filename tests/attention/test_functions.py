"""Functions between modules, `F.relu` in `encode`, are followed as modules are: as layers, and in the closed form."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.attention import LatentAttention, survey
from vaelens.attention.functions import calls
from vaelens.errors import UsageError

D = 3


class Functional(nn.Module):
    """conv -> `act` -> flatten -> fc -> `act` -> mean and logvar, with no module for what has no weights."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu, side: int = 4) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 4, 4, 2, 1)
        self.fc = nn.Linear(4 * side * side, 8)
        self.mean, self.logvar = nn.Linear(8, D), nn.Linear(8, D)
        self.act = act
        self.kept: Tensor | None = None

    def features(self, images: Tensor) -> Tensor:
        return self.act(self.conv(images))

    def vectors(self, a: Tensor) -> Tensor:
        return a.flatten(1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.kept = self.features(images)
        hidden = self.act(self.fc(self.vectors(self.kept)))
        return self.mean(hidden), self.logvar(hidden)


def images(batch: int = 3, side: int = 8) -> Tensor:
    return torch.randn(batch, 1, side, side, generator=torch.Generator().manual_seed(batch))


def truth(model: Any, given: Tensor) -> Tensor:
    """The signed maps at what `features` gives, one backward pass per latent."""
    with torch.enable_grad():
        mean, _ = model.encode(given.clone().requires_grad_())
        features = model.kept
        maps = []
        for i in range(D):
            (gradient,) = torch.autograd.grad(mean[:, i].sum(), features, retain_graph=True)
            maps.append((gradient.mean((2, 3), keepdim=True) * features).sum(1))
    return torch.stack(maps, 1).detach()


def close(found: Tensor, expected: Tensor) -> None:
    assert float(expected.abs().max()) > 0
    assert float((found.detach() - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "relu in place": lambda x: F.relu(x, inplace=True),
    "relu_": lambda x: x.relu_(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "leaky_relu by keyword": lambda x: F.leaky_relu(input=x, negative_slope=0.4, inplace=True),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.2, 0.6),
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0),
    "clamp on both sides": lambda x: x.clamp(-0.2, max=0.6),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "clamp_max in place": lambda x: torch.clamp_max_(x, 0.3),
    "clamp by clip": lambda x: torch.clip(input=x, min=-0.1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("grad", [True, False])
def test_activations(name: str, grad: bool) -> None:
    model = Functional(ACTIVATIONS[name]).eval()
    with torch.set_grad_enabled(grad):
        attention = LatentAttention(model)
        for batch in (3, 1, 5):
            maps = attention(images(batch))
            assert maps.method == "closed_form"
            close(maps.signed, truth(model, images(batch)))
            by_products = LatentAttention(model, attention.layer, method="vjp")(images(batch))
            close(by_products.signed, truth(model, images(batch)))
    assert attention.layer.split("_")[0] in name.replace("torch.", "").replace("Tensor.", "")


def test_a_clamp_has_a_slope_at_its_bounds() -> None:
    """Units that lie on a bound: autograd lets the gradient of a clamp through there, and not that of ReLU or Hardtanh."""
    for act in (lambda x: x.clamp(min=0), lambda x: x.clamp(0, 0.5), F.relu):
        model = Functional(act).eval()
        for layer in (model.conv, model.fc):
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            model.fc.weight[0] = 0  # a unit at 0 for every image
            model.fc.weight[1] = 0
            model.fc.bias[1] = 0.5
        maps = LatentAttention(model)(images())
        assert maps.method == "closed_form"
        close(maps.signed, truth(model, images()))


@pytest.mark.parametrize(
    ("name", "act"),
    {
        "maximum": lambda x: torch.maximum(x, torch.zeros(())),
        "times its sign": lambda x: x * (x > 0),
        "where": lambda x: torch.where(x > 0, x, 0.1 * x),
        "halves": lambda x: (x + x.abs()) / 2,
        "clamp by a tensor": lambda x: x.clamp(min=torch.full_like(x, -0.1)),
        "threshold": lambda x: F.threshold(x, 0.1, 0.0),
        "rrelu": lambda x: F.rrelu(x, 0.1, 0.3),
    }.items(),
)
def test_piecewise_linear_ways_without_a_form(
    name: str, act: Callable[[Tensor], Tensor], reference: Any, relative_error: Any
) -> None:
    """Their maps come from products; those that are one function are layers of their own."""
    model = Functional(act).eval()
    attention = LatentAttention(model)
    maps = attention(images())
    assert maps.method == "vjp"
    assert (attention.layer == "conv") is (name in ("times its sign", "where", "halves"))
    if attention.layer != "conv":
        close(maps.signed, truth(model, images()))
    of_conv = LatentAttention(model, "conv")(images())
    assert relative_error(of_conv.signed, reference(model, images(), "conv").signed("conv")) < 1e-5


def test_the_log_variance_and_its_own_flatten(relative_error: Any) -> None:
    """Each head makes vectors by a call of its own; both share the form, and so does the posterior of maps."""

    class Twice(Functional):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.kept = a = F.relu(self.conv(x))
            return self.mean(a.reshape(len(a), -1)), self.logvar(torch.flatten(a, 1))

        def __init__(self) -> None:
            super().__init__()
            self.mean, self.logvar = nn.Linear(64, D), nn.Linear(64, D)

    model = Twice().eval()
    posterior = LatentAttention(model).posterior(images())
    assert posterior.maps.method == "closed_form"
    assert relative_error(posterior.slope, LatentAttention(model, method="vjp").posterior(images()).slope) < 1e-5
    close(posterior.mean, truth(model, images()))


@pytest.mark.parametrize(
    "vectors",
    [
        lambda a: a.view(a.size(0), -1),
        lambda a: a.reshape(a.shape[0], -1),
        lambda a: torch.flatten(a, start_dim=1),
        lambda a: torch.reshape(a, (len(a), 64)),
        nn.Flatten(),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ways_to_make_vectors(vectors: Any, layout: torch.memory_format) -> None:
    model = Functional().eval().to(memory_format=layout)  # type: ignore[call-overload]
    model.vectors = vectors
    given = images().to(memory_format=layout)
    try:
        model.encode(given)
    except RuntimeError:
        pytest.skip("a view of this layout is refused by torch")
    maps = LatentAttention(model)(given)
    close(maps.signed, truth(model, given))
    assert maps.method == "closed_form"


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "adaptive": lambda a: F.adaptive_avg_pool2d(a, 1).flatten(1),
    "adaptive pair": lambda a: F.adaptive_avg_pool2d(a, (1, 1)).flatten(1),
    "average": lambda a: F.avg_pool2d(a, 4).flatten(1),
    "mean": lambda a: a.mean([2, 3]),
    "mean from behind": lambda a: torch.mean(a, dim=(-1, -2)),
    "mean that keeps": lambda a: a.mean((2, 3), keepdim=True).flatten(1),
}


@pytest.mark.parametrize("name", POOLS)
def test_global_pooling(name: str) -> None:
    model = Functional().eval()
    model.fc = nn.Linear(4, 8)
    model.vectors = POOLS[name]
    maps = LatentAttention(model)(images())
    close(maps.signed, truth(model, images()))
    assert maps.method == "closed_form"


NOT_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "over channels": lambda a: a.mean((1, 2)),
    "over rows": lambda a: a.mean(2).mean(2),
    "in another type": lambda a: a.mean((2, 3), dtype=torch.float64).float(),
    "to four": lambda a: F.adaptive_avg_pool2d(a, (2, 2)).mean((2, 3)),
    "largest": lambda a: F.adaptive_max_pool2d(a, 1).flatten(1),
    "in pieces": lambda a: F.avg_pool2d(a, 2).flatten(1)[:, ::4],
}


@pytest.mark.parametrize("name", NOT_POOLS)
def test_what_is_no_global_pooling(name: str) -> None:
    model = Functional().eval()
    model.fc = nn.Linear(4, 8)
    model.vectors = NOT_POOLS[name]
    maps = LatentAttention(model, "relu")(images())
    close(maps.signed, truth(model, images()))


@pytest.mark.parametrize("act", [F.silu, F.gelu, F.elu, torch.tanh, F.softplus])
def test_what_is_not_piecewise_linear(act: Callable[[Tensor], Tensor]) -> None:
    model = Functional(act).eval()
    attention = LatentAttention(model)
    close(attention(images()).signed, truth(model, images()))
    assert attention.method == "vjp"
    assert "(function) is not piecewise linear" in attention.why_not


def test_names_of_layers() -> None:
    """Where the function was called, then its name; a number where that is taken."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.Conv2d(1, 2, 1)
            self.block = Functional()
            self.conv2 = nn.Conv2d(4, 4, 3, 1, 1)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a = F.max_pool2d(F.relu(self.relu(x))[:, :1], 1)
            a = self.block.act(self.block.conv(a))
            a = F.relu(self.conv2(a))
            hidden = F.relu(self.block.fc(a.flatten(1)))
            return self.block.mean(hidden), self.block.logvar(hidden)

    attention = LatentAttention(Deep().eval())
    attention(images())
    assert list(attention.layers) == ["relu", "relu_1", "max_pool2d", "block.conv", "relu_2", "conv2", "relu_3"]
    assert attention.layer == "relu_3"
    with pytest.raises(UsageError, match="unknown layer 'relu_9'; there are: relu, relu_1"):
        LatentAttention(Deep().eval(), "relu_9")(images())


def test_functions_within_a_module_of_ones_own() -> None:
    """A module without parts of its own that does nothing but call a known function is seen through."""

    class Act(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    model = Functional(Act()).eval()
    maps = LatentAttention(model)(images())
    assert maps.method == "closed_form"
    close(maps.signed, truth(model, images()))

    class More(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x).square()

    model = Functional(More()).eval()
    attention = LatentAttention(model)
    close(attention(images()).signed, truth(model, images()))
    assert attention.method == "vjp"


class Changes(Functional):
    """Does another thing after the plan was made."""

    changed: Any = 0

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.kept = a = F.relu(self.conv(x))
        h = self.fc(a.flatten(1))
        if self.what == "slope":
            h = F.leaky_relu(h, 0.1 + 0.5 * self.changed)
        elif self.what == "another":
            h = torch.tanh(h) if self.changed else F.relu(h)
        elif self.what == "between":
            h = F.relu(h * (1 + self.changed))
        elif self.what == "one more":
            h = F.relu(h)
            h = F.relu(h - 0.1) if self.changed else h
        elif self.what == "dropout":
            h = F.dropout(F.relu(h), 0.5, training=False) + (h if self.changed else 0)
        return self.mean(h), self.logvar(h)


@pytest.mark.parametrize("what", ["slope", "another", "between", "one more", "dropout"])
def test_what_changes_after_the_plan(what: str) -> None:
    model = Changes(what).eval()
    attention = LatentAttention(model, "relu")
    for model.changed in (0, 1, 0, 1):
        close(attention(images()).signed, truth(model, images()))


def test_a_layer_called_another_number_of_times_later() -> None:
    class Loop(Functional):
        times = 1

        def features(self, x: Tensor) -> Tensor:
            a = F.relu(self.conv(x))
            for _ in range(self.times):
                a = F.relu(a - 0.01)
            return a

    model = Loop().eval()
    attention = LatentAttention(model)
    for model.times in (1, 3, 0, 2):
        maps = attention(images())
        assert maps.signed.shape == (3, D, 4, 4)
        if maps.layer == {0: "relu", 1: "relu_1", 2: "relu_2", 3: "relu_3"}[model.times]:
            close(maps.signed, truth(model, images()))


def test_gradients_through_functions(relative_error: Any) -> None:
    """The maps' gradient by the weights is double backward's."""
    model = Functional().eval()
    given = images()

    def gradients(signed: Tensor) -> list[Tensor]:
        model.zero_grad()
        signed.square().sum().backward()
        return [p.grad.clone() for p in (model.conv.weight, model.fc.weight, model.mean.weight)]  # type: ignore[union-attr]

    mean, _ = model.encode(given)
    features = model.kept
    rows = []
    for i in range(D):
        (gradient,) = torch.autograd.grad(mean[:, i].sum(), features, create_graph=True)
        rows.append((gradient.mean((2, 3), keepdim=True) * features).sum(1))
    expected = gradients(torch.stack(rows, 1))
    for method in ("closed_form", "vjp"):
        found = gradients(LatentAttention(model, method=method)(given).signed)
        for ours, theirs in zip(found, expected, strict=True):
            assert relative_error(ours, theirs) < 1e-5


def test_another_thread_is_not_heard() -> None:
    heard: list[str] = []

    class Ear:
        def before(self, function: Any, module: nn.Module, argument: Tensor) -> None:
            heard.append(function.name)

        def after(self, function: Any, module: nn.Module, output: Tensor) -> None:
            return None

    with calls(Ear()):
        thread = threading.Thread(target=lambda: F.relu(torch.zeros(1)))
        thread.start()
        thread.join()
        torch.tanh(torch.zeros(1))
    F.relu(torch.zeros(1))
    assert heard == ["tanh"]


# --- a convolution that covers the map though it has a border ---------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [(3, 4, 2, 1), (4, 4, 2, 0), (2, 4, 2, 1), (3, 5, 1, 1), (4, 7, 3, 2), ((2, 4), (4, 6), 2, 1)],
)
def test_a_convolution_with_a_border_that_covers_the_map(
    side: Any, kernel: Any, stride: int, padding: int, reference: Any, relative_error: Any
) -> None:
    class Covers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu = nn.Conv2d(1, 5, 1), nn.ReLU()
            self.whole = nn.Conv2d(5, 6, kernel, stride, padding)
            self.norm = nn.BatchNorm2d(6)
            self.mean, self.logvar = nn.Linear(6, D), nn.Linear(6, D)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = F.relu(self.norm(self.whole(self.relu(self.first(x))))).flatten(1)
            return self.mean(h), self.logvar(h)

    model = Covers().eval()
    given = torch.randn(4, 1, *(side if isinstance(side, tuple) else (side, side)))
    for variant in ("cvpr", "arxiv_v1", "expvae"):
        maps = LatentAttention(model, "relu", variant=variant)(given)
        assert maps.method == "closed_form"
        assert relative_error(maps.per_latent, reference(model, given, "relu").per_latent("relu", variant)) < 1e-5


def test_a_border_that_makes_two_positions_has_no_closed_form(reference: Any, relative_error: Any, Toy: Any) -> None:
    for conv in (
        nn.Conv2d(2, 3, 3, 1, 1, padding_mode="circular"),
        nn.Conv2d(2, 3, 2, 1, 1),
        nn.Conv2d(2, 2, 3, 3, 1, groups=2),
    ):
        size = len(conv(torch.zeros(1, 2, 2, 2)).flatten())
        heads = nn.Linear(size, D), nn.Linear(size, D)
        model = Toy([nn.Conv2d(1, 2, 1), nn.ReLU(), conv, nn.Flatten()], *heads).eval()
        given = torch.randn(3, 1, 2, 2)
        maps = LatentAttention(model, "trunk.1")(given)
        assert maps.method == "vjp"
        assert relative_error(maps.signed, reference(model, given, "trunk.1").signed("trunk.1")) < 1e-5


# --- layers that a latent does not depend on ---------------------------------------------------------------------------


class Branches(nn.Module):
    """Latents 0 and 1 come from one branch, 2 from the other; a third goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(1, 2, 3) for _ in range(3))
        self.to_a, self.to_b = nn.Linear(72, 2), nn.Linear(72, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.c(x)
        mean = torch.cat([self.to_a(self.a(x).flatten(1)), self.to_b(self.b(x).flatten(1))], 1)
        return mean, torch.zeros_like(mean)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("method", ["auto", "vjp"])
@pytest.mark.parametrize("variant", ["cvpr", "arxiv_v1", "expvae"])
def test_a_latent_that_does_not_depend_on_a_layer_is_an_error(grad: bool, method: str, variant: str) -> None:
    model, given = Branches().eval(), images()
    with torch.set_grad_enabled(grad):
        said = r"^z2 does not depend on layer 'a': the gradient is 0 there.*latents=\[0, 1\]$"
        with pytest.raises(UsageError, match=said):
            LatentAttention(model, "a", method=method, variant=variant)(given)
        with pytest.raises(UsageError, match=r"^z0, z1 do not depend on layer 'b'"):
            LatentAttention(model, "b", method=method, variant=variant)(given)
        with pytest.raises(UsageError, match=r"^no latent depends on layer 'c'|does not depend on this layer"):
            LatentAttention(model, "c", method=method, variant=variant)(given)
        assert LatentAttention(model, "a", [0, 1], variant=variant)(given).signed.shape == (3, 2, 6, 6)
        if variant == "cvpr":
            with pytest.raises(UsageError, match="z2 does not depend"):
                LatentAttention(model, "a").posterior(given)


def test_dead_units_and_dead_latents_are_no_error() -> None:
    """An image may leave every unit asleep; and a latent that is the same for all images depends on no layer at all."""
    model = Functional().eval()
    with torch.no_grad():
        model.conv.bias.fill_(-0.2)
        model.fc.bias.fill_(0.0)
    assert not LatentAttention(model)(torch.zeros(2, 1, 8, 8)).signed.any()
    with torch.no_grad():
        model.mean.weight[1] = 0
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            signed = LatentAttention(model)(images()).signed
        assert [bool(signed[:, latent].any()) for latent in range(D)] == [True, False, True]
    nn.init.zeros_(model.mean.weight)
    maps = LatentAttention(model)(images())
    assert not maps.signed.any()
    maps.signed.sum().backward()
    assert model.mean.weight.grad is not None


def test_saturated_units_are_no_error(Toy: Any) -> None:
    """The latent moves between images by the layer, though the gradient is 0 wherever one looks."""
    model = Toy([nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(16, 3), nn.Hardtanh(-0.3, 0.5)], nn.Linear(3, 2), nn.Linear(3, 2))
    with torch.no_grad():
        for layer, weight in ((model.trunk[0], 1.0), (model.trunk[2], 1e4)):
            layer.weight.fill_(weight)
            layer.bias.zero_()
    model.eval()
    given = torch.ones(4, 1, 4, 4) * torch.tensor([1.0, -1.0, 2.0, -2.0]).view(4, 1, 1, 1)  # units on either side
    mean, _ = model.encode(given)
    assert (mean != mean[:1]).any(0).all()
    for method in ("closed_form", "vjp"):
        assert not LatentAttention(model, "trunk.0", method=method)(given).signed.any()


# --- which way each layer takes ----------------------------------------------------------------------------------------


class NoVmap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.tensor(grad.detach().numpy() * 2)


def test_the_survey_says_which_way_each_layer_takes(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(4, 4, 3, 1, 1)

        def features(self, x: Tensor) -> Tensor:
            return F.relu(self.second(NoVmap.apply(F.relu(self.conv(x)))))

    model = Odd().eval()
    ways = {way.layer: way for way in survey(model, images())}
    assert {layer: way.way for layer, way in ways.items()} == {
        "images": "loop",
        "conv": "loop",
        "relu": "loop",
        "second": "vjp",
        "relu_1": "closed_form",
    }
    assert [layer for layer, way in ways.items() if way.default] == ["relu_1"]
    assert ways["relu_1"].why == ""
    assert "acts on each pixel" in ways["second"].why
    assert ways["conv"].shape == (4, 4, 4)
    with caplog.at_level(logging.INFO, "vaelens.attention"):
        attention = LatentAttention(model, "relu", memory=1)  # a chunk for each latent, or nearly
        caplog.clear()
        expected = LatentAttention(model, "relu")(images())
    lines = [record.getMessage() for record in caplog.records if "batched products are not possible" in record.getMessage()]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    maps = attention(images())
    torch.testing.assert_close(maps.signed, expected.signed)
