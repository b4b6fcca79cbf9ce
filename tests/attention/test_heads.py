"""Which heads have a closed form, that it is right there, and that it is never taken where it would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.attention import VARIANTS, LatentAttention
from vaelens.errors import UsageError

D = 3
CONV = (4, 3, 5)  # what the toys' convolution makes of (1, 6, 10): n, h, w
FLAT = 60


def conv() -> nn.Conv2d:
    return nn.Conv2d(1, 4, 4, 2, 1)


def batches(seed: int = 0) -> list[Tensor]:
    """Images of several scales and signs, so that what a trick changes shows in some of them."""
    noise = torch.randn(4, 1, 6, 10, generator=torch.Generator().manual_seed(seed))
    return [noise.abs().clamp(max=1), noise, 30 * noise, noise[:1]]


def used(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics and weights unlike those it starts with."""
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if tensor is not None:
            nn.init.uniform_(tensor, 0.5, 2.0)
    return norm


def check(model: nn.Module, layer: str, reference: Callable[..., Any], error: Callable[..., float], **how: Any) -> None:
    """Maps of every variant equal autograd's, for images that the plan was not made with."""
    for variant in VARIANTS:
        attention = LatentAttention(model, layer, variant=variant, **how)
        for images in batches():
            truth = reference(model, images, layer)
            maps = attention(images)
            assert error(maps.per_latent, truth.per_latent(layer, variant)) < 1e-5, (variant, maps.method)
            torch.testing.assert_close(maps.mean, truth.mean)


def refuses(model: nn.Module, layer: str, images: Tensor) -> str:
    """The one line with which the closed form is refused."""
    with pytest.raises(UsageError) as caught:
        LatentAttention(model, layer, method="closed_form")(images)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no closed form at layer '{layer}': ")
    assert message.endswith("use method='auto' or 'vjp'")
    return message


# Trunks behind which the mean is one linear layer; the number is how many units the trunk gives out.
CLOSED: dict[str, Callable[[], tuple[list[nn.Module], nn.Module]]] = {
    "depth 1": lambda: ([nn.Flatten()], nn.Linear(FLAT, D)),
    "depth 2": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU()], nn.Linear(8, D)),
    "depth 2 without activation": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8)], nn.Linear(8, D)),
    "depth 3": lambda: (
        [nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU()],
        nn.Linear(7, D),
    ),
    "depth 4": lambda: (
        [nn.Flatten(), nn.Linear(FLAT, 9), nn.ReLU(), nn.Linear(9, 8, bias=False), nn.ReLU(), nn.Linear(8, 7), nn.ReLU()],
        nn.Linear(7, D),
    ),
    "in place": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU(inplace=True)], nn.Linear(8, D)),
    "leaky": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.LeakyReLU(0.2)], nn.Linear(8, D)),
    "leaky negative": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.LeakyReLU(-0.3)], nn.Linear(8, D)),
    "leaky zero": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.LeakyReLU(0.0)], nn.Linear(8, D)),
    "prelu": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.PReLU()], nn.Linear(8, D)),
    "prelu per unit": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.PReLU(8, -0.1)], nn.Linear(8, D)),
    "relu6": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU6()], nn.Linear(8, D)),
    "hardtanh": lambda: ([nn.Flatten(), nn.Linear(FLAT, 8), nn.Hardtanh(-0.2, 0.7)], nn.Linear(8, D)),
    "dropout": lambda: (
        [nn.Dropout2d(0.5), nn.Flatten(), nn.Dropout(0.5), nn.Linear(FLAT, 8), nn.ReLU(), nn.Dropout(0.5)],
        nn.Linear(8, D),
    ),
    "batch norm": lambda: (
        [nn.Flatten(), nn.Linear(FLAT, 8), used(nn.BatchNorm1d(8)), nn.ReLU()],
        nn.Linear(8, D),
    ),
    "batch norm without weights": lambda: (
        [nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU(), used(nn.BatchNorm1d(8, affine=False))],
        nn.Linear(8, D),
    ),
    "global average": lambda: ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], nn.Linear(4, D)),
    "global average and layers": lambda: (
        [nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(4, 8), nn.ReLU()],
        nn.Linear(8, D),
    ),
    "average of the whole map": lambda: ([nn.AvgPool2d((3, 5)), nn.Flatten(), nn.Linear(4, 8), nn.ReLU()], nn.Linear(8, D)),
    "full-size convolution": lambda: ([nn.Conv2d(4, 8, (3, 5)), nn.ReLU()], nn.Conv2d(8, D, 1)),
    "full-size convolution as head": lambda: ([nn.Identity()], nn.Conv2d(4, D, (3, 5))),
    "1x1 convolutions": lambda: (
        [nn.Conv2d(4, 8, (3, 5)), used(nn.BatchNorm2d(8)), nn.PReLU(8, 0.3), nn.Conv2d(8, 6, 1), nn.ReLU()],
        nn.Conv2d(6, D, 1),
    ),
    "global average and 1x1 convolution": lambda: ([nn.AdaptiveAvgPool2d(1)], nn.Conv2d(4, D, 1)),
}


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU()], ids=["relu", "in place", "silu"])
@pytest.mark.parametrize("name", CLOSED)
def test_closed_form(name: str, activation: nn.Module, Toy: Any, reference: Any, relative_error: Any) -> None:
    trunk, head = CLOSED[name]()
    model = Toy([conv(), activation, *trunk], head, nn.Linear(1, 1)).eval()
    model.logvar = type(head)(*_sizes(head))
    attention = LatentAttention(model, "trunk.1", method="closed_form")
    attention(batches()[0])
    assert attention.method == LatentAttention.method.fget(_auto(model)) == "closed_form"
    check(model, "trunk.1", reference, relative_error)
    for images in batches()[:2]:  # the log variance shares all the layers, so a sampled z has the closed form too
        noise = torch.randn(len(images), D, generator=torch.Generator().manual_seed(1))
        truth = reference(model, images, "trunk.1", lambda m, v, e=noise: m + e * (v / 2).exp())
        maps = attention(images, sample=True, generator=torch.Generator().manual_seed(1))
        assert maps.method == "closed_form"
        assert relative_error(maps.signed, truth.signed("trunk.1")) < 1e-5


def _sizes(head: nn.Module) -> tuple[Any, ...]:
    if isinstance(head, nn.Linear):
        return head.in_features, head.out_features
    assert isinstance(head, nn.Conv2d)
    return head.in_channels, head.out_channels, head.kernel_size


def _auto(model: nn.Module) -> LatentAttention:
    attention = LatentAttention(model, "trunk.1")
    attention(batches()[0])
    return attention


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_in_float64_to_its_last_digits(name: str, Toy: Any, reference: Any, relative_error: Any) -> None:
    trunk, head = CLOSED[name]()
    model = Toy([conv(), nn.ReLU(), *trunk], head, type(head)(*_sizes(head))).double().eval()
    for variant in VARIANTS:
        attention = LatentAttention(model, "trunk.1", variant=variant, method="closed_form")
        for images in batches():
            truth = reference(model, images.double(), "trunk.1").per_latent("trunk.1", variant)
            assert relative_error(attention(images.double()).per_latent, truth) < 1e-12


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    widths=st.lists(st.integers(1, 9), max_size=3),
    kinds=st.lists(
        st.sampled_from(
            [
                nn.ReLU,
                lambda: nn.ReLU(inplace=True),
                lambda: nn.LeakyReLU(0.1),
                lambda: nn.LeakyReLU(-0.4),
                nn.PReLU,
                nn.ReLU6,
                lambda: nn.Hardtanh(-0.3, 0.5),
                nn.Dropout,
                nn.Identity,
                lambda: nn.AlphaDropout(0.2),
            ]
        ),
        max_size=6,
    ),
    entry=st.sampled_from(["linear", "conv", "pool"]),
    chunked=st.booleans(),
    latents=st.integers(1, 5),
    variant=st.sampled_from(VARIANTS),
)
def test_any_head_of_these_parts(
    seed: int,
    shape: tuple[int, int, int],
    widths: list[int],
    kinds: list[Callable[[], nn.Module]],
    entry: str,
    chunked: bool,
    latents: int,
    variant: str,
    reference: Any,
    relative_error: Any,
    Toy: Any,
) -> None:
    """Random piecewise-linear heads: closed form, products and one backward per latent agree."""
    torch.manual_seed(seed)
    n, h, w = shape
    size = n * h * w
    trunk: list[nn.Module] = [nn.Conv2d(2, n, 1)]
    makers = iter(kinds)
    if entry == "pool":
        trunk += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        size = n
    elif entry == "conv" and widths:
        trunk += [nn.Conv2d(n, widths[0], (h, w)), nn.Flatten()]
        size = widths[0]
    else:
        trunk.append(nn.Flatten())
    for width in widths:
        trunk += [nn.Linear(size, width), *(make() for make in (next(makers, None), next(makers, None)) if make)]
        if isinstance(trunk[-1], nn.ReLU) and not isinstance(trunk[-2], nn.Linear):
            trunk[-1].inplace = False  # autograd itself refuses to overwrite what another activation gave out
        size = width
    heads = Chunked(nn.Sequential(*trunk), size, latents) if chunked else None
    model = heads or Toy(trunk, nn.Linear(size, latents), nn.Linear(size, latents))
    model = model.double().eval()
    images = torch.randn(3, 2, h, w, dtype=torch.float64)
    truth = reference(model, images, "trunk.0").per_latent("trunk.0", variant)
    for method in ("closed_form", "vjp"):
        maps = LatentAttention(model, "trunk.0", method=method, variant=variant)(images)
        assert maps.method == method
        assert relative_error(maps.per_latent, truth) < 1e-10


class Chunked(nn.Module):
    """Mean and log variance are the halves of one linear layer."""

    def __init__(self, trunk: nn.Module, size: int, latents: int, split: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.both = nn.Linear(size, 2 * latents)
        self.split = split or (lambda t: t.chunk(2, 1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.split(self.both(self.trunk(images)))
        return mean, logvar


@pytest.mark.parametrize(
    "split",
    [
        lambda t: t.chunk(2, 1),
        lambda t: t.chunk(2, 1)[::-1],
        lambda t: (t[:, ::2], t[:, 1::2]),
        lambda t: (t[:, 1::2], t[:, ::2]),
        lambda t: t.view(-1, D, 2).unbind(-1),
        lambda t: t.view(-1, 2, D).unbind(1),
        lambda t: (t[:, :D], t[:, 1 : D + 1]),
        lambda t: (t[:, 1:2].expand(-1, 2 * D), t),
    ],
    ids=["halves", "second half first", "even", "odd", "pairs", "rows", "overlapping", "one unit for all latents"],
)
def test_mean_as_a_slice(split: Callable[[Tensor], Any], reference: Any, relative_error: Any) -> None:
    model = Chunked(nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU()), 8, D, split).eval()
    check(model, "trunk.1", reference, relative_error, method="closed_form")
    attention = LatentAttention(model, "trunk.1", method="closed_form")
    posterior = attention.posterior(batches()[1])
    truth = reference(model, batches()[1], "trunk.1", lambda m, v: v)
    assert (
        relative_error(posterior.slope / (posterior.maps.logvar / 2).exp()[..., None, None] * 2, truth.signed("trunk.1")) < 1e-5
    )


# --- What is not a closed form, or looks like one -----------------------------------------------------------------


class Trick(nn.Module):
    """conv, ReLU -> fc1 -> act -> fc2 -> act -> mean and logvar, with something in between that modules do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = conv(), nn.ReLU()
        self.fc1, self.fc2 = nn.Linear(FLAT, 8), nn.Linear(8, 8)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.mean, self.logvar = nn.Linear(8, D), nn.Linear(8, D)

    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.fc1(a.flatten(1)))))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(self.features(x))
        return self.mean(h), self.logvar(h)


def test_the_plain_one_has_a_closed_form(reference: Any, relative_error: Any) -> None:
    check(Trick().eval(), "relu", reference, relative_error, method="closed_form")


class FunctionalRelu(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(a.flatten(1)))))


class FunctionalReluInPlace(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        return F.relu_(self.fc2(F.relu_(self.fc1(a.flatten(1)))))


class FunctionalReluOnTheMap(Trick):
    def features(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.relu(self.conv(x)) - 0.1)


class ReluInPlaceOnTheMap(Trick):
    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).sub_(0.2).relu_()


class ScaledMean(Trick):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = super().encode(x)
        return 2 * mean, logvar


class ScaledMeanInPlace(Trick):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = super().encode(x)
        return mean.mul_(2), logvar


class ScaledMeanBehindAutograd(Trick):
    """`.data` has a version counter of its own; autograd does not see it either, so its maps are those of the mean before."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act1(self.fc1(self.features(x).flatten(1)))
        h.data.mul_(2)
        h = self.act2(self.fc2(h))
        return self.mean(h), self.logvar(h)


class TanhModuleOnMean(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(8, D), nn.Tanh())


class TanhOnMean(Trick):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = super().encode(x)
        return torch.tanh(mean), logvar


class ReluOnMean(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(8, D), nn.ReLU())


class SkipInHead(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        h = self.act1(self.fc1(a.flatten(1)))
        return self.act2(self.fc2(h) + h)


class SkipInPlace(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        h = self.act1(self.fc1(a.flatten(1)))
        out = self.fc2(h)
        out += h
        return self.act2(out)


class SkipFromTheMap(Trick):
    """Part of the map goes around the linear layers."""

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.fc1(a.flatten(1)))) + a.mean((2, 3)).repeat(1, 2))


class SkipToMean(Trick):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.features(x)
        h = self.trunk(a)
        mean = self.mean(h)
        mean += a.mean((2, 3))[:, :D]
        return mean, self.logvar(h)


class TwoBranches(Trick):
    """Two ways from the map to one concatenation."""

    def trunk(self, a: Tensor) -> Tensor:
        h = self.fc1(a.flatten(1))
        return torch.cat([self.act1(h)[:, :4], torch.sigmoid(h)[:, 4:]], dim=1)


class GatedMean(Trick):
    """The mean of each image by a gate that depends on it."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(self.features(x))
        return self.mean(h * torch.sigmoid(h.sum(1, keepdim=True))), self.logvar(h)


class Transposed(Trick):
    """The map is turned before it is flattened, so the linear layer's weights belong to other pixels."""

    def trunk(self, a: Tensor) -> Tensor:
        return super().trunk(a.transpose(2, 3))


class Permuted(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        return super().trunk(a.permute(0, 2, 3, 1))


class Flipped(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        return super().trunk(a.flip(3))


class UnitsReordered(Trick):
    """A view of eight units as 2 x 4, turned: the same memory in another order."""

    def trunk(self, a: Tensor) -> Tensor:
        h = self.act1(self.fc1(a.flatten(1)))
        return self.act2(self.fc2(h.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)))


class LinearOnPieces(Trick):
    """A view of eight units as 2 x 4 and a linear layer on each four."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(4, 4)

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.fc1(a.flatten(1))).view(-1, 2, 4)).flatten(1))


class NormOnPieces(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.norm = used(nn.BatchNorm1d(2))

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.norm(self.fc1(a.flatten(1)).view(-1, 2, 4)).flatten(1))


class PreluOnPieces(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.act1 = nn.PReLU(2)
        nn.init.uniform_(self.act1.weight, 0.1, 0.9)

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.fc1(a.flatten(1)).view(-1, 2, 4)).flatten(1)))


class LatentsReversed(Trick):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = super().encode(x)
        return mean.flip(1), logvar


class OwnForward(nn.Linear):
    """A linear layer by inheritance only."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(super().forward(input))


class LinearSubclass(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.fc2 = OwnForward(8, 8)


class MeanSubclass(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.mean = OwnForward(8, D)


class ReluSubclass(Trick):
    def __init__(self) -> None:
        super().__init__()

        class Squared(nn.ReLU):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input).square()

        self.act1 = Squared()


class ForwardReplaced(Trick):
    """The instance's own `forward`, set from outside as libraries that patch models do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2.forward = lambda x: torch.sin(F.linear(x, self.fc2.weight))  # type: ignore[method-assign]


class HookOnLinear(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.fc2.register_forward_hook(lambda module, args, output: 2 * output)


class HookOnMean(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.mean.register_forward_hook(lambda module, args, output: 2 * output)


class HookOnActivation(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.act1.register_forward_hook(lambda module, args, output: output.square())


class HookInPlace(Trick):
    def __init__(self) -> None:
        super().__init__()

        def double(module: nn.Module, args: Any, output: Tensor) -> None:
            output.mul_(2)

        self.fc2.register_forward_hook(double)


class HookThatClampsWhatIsLarge(Trick):
    """Changes nothing about the images that a plan is made with, if those are small."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2.register_forward_hook(lambda module, args, output: output.clamp(max=3.0))


class PreHook(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.fc2.register_forward_pre_hook(lambda module, args: (args[0].square(),))


class Silu(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.act1 = nn.SiLU()


class Gelu(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.act2 = nn.GELU()


class Rectified(Trick):
    """A second activation between the map and the first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.LeakyReLU(0.5)

    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)) - 0.2

    def trunk(self, a: Tensor) -> Tensor:
        return super().trunk(self.late(a))


class AveragedWithDivisor(Trick):
    """A pooling of the whole map that sums instead of averaging."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d((3, 5), divisor_override=2)
        self.fc1 = nn.Linear(4, 8)

    def trunk(self, a: Tensor) -> Tensor:
        return super().trunk(self.pool(a))


class AveragedWithBorder(Trick):
    """One pixel pooled together with eight of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(4, 8, (3, 5))
        self.pool = nn.AvgPool2d(3, padding=1)

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.pool(self.whole(a)).flatten(1)))


class Pooled(Trick):
    """Average pooling that leaves more than one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((2, 1))

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.pool(a).flatten(1))))


class GroupedConvolution(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(4, 8, (3, 5), groups=2)

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.whole(a)).flatten(1)))


class Padded(Trick):
    """A convolution as large as the map, but with a border, so that it slides."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(4, 1, (3, 5), padding=1)
        self.fc2 = nn.Linear(9, 8)

    def trunk(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.act1(self.whole(a)).flatten(1)))


class WeightNorm(Trick):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.fc2)
        nn.utils.parametrizations.weight_norm(self.mean)


class Checkpointed(Trick):
    def trunk(self, a: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(super().trunk, a, use_reentrant=False)


class Softmaxed(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.act2 = nn.Softmax(dim=1)


class LayerNormed(Trick):
    def __init__(self) -> None:
        super().__init__()
        self.act2 = nn.LayerNorm(8)


TRICKS = [
    c
    for c in list(globals().values())
    if isinstance(c, type)
    and issubclass(c, Trick)
    and c not in (Trick, ScaledMeanBehindAutograd, Checkpointed, FunctionalRelu, FunctionalReluInPlace)
]


@pytest.mark.parametrize("trick", TRICKS, ids=lambda c: c.__name__)
def test_no_closed_form_where_it_would_be_wrong(trick: type[Trick], reference: Any, relative_error: Any) -> None:
    torch.manual_seed(3)
    model = trick().eval()
    check(model, "relu", reference, relative_error)
    attention = LatentAttention(model, "relu")
    attention(batches()[1])
    assert attention.method == "vjp"
    refuses(model, "relu", batches()[1])


@pytest.mark.parametrize("trick", TRICKS, ids=lambda c: c.__name__)
def test_plan_made_with_dull_images(trick: type[Trick], reference: Any, relative_error: Any) -> None:
    """The plan must not hang on the images that it was made with: here all zeros, then very small ones, one alone."""
    torch.manual_seed(3)
    model = trick().eval()
    for dull in (torch.zeros(2, 1, 6, 10), 1e-4 * batches()[0], torch.ones(1, 1, 6, 10)):
        attention = LatentAttention(model, "relu")
        attention(dull)
        for images in batches():
            truth = reference(model, images, "relu").signed("relu")
            assert relative_error(attention(images).signed, truth) < 1e-5


@pytest.mark.parametrize("trick", [FunctionalRelu, FunctionalReluInPlace])
def test_functions_between_the_linear_layers(trick: type[Trick], reference: Any, relative_error: Any) -> None:
    torch.manual_seed(3)
    check(trick().eval(), "relu", reference, relative_error, method="closed_form")


@pytest.mark.parametrize("trick", [ScaledMeanBehindAutograd, Checkpointed])
def test_other_oddities_are_right(trick: type[Trick], reference: Any, relative_error: Any) -> None:
    check(trick().eval(), "relu", reference, relative_error)


def test_old_weight_norm_and_pruning_are_right(reference: Any, relative_error: Any) -> None:
    """Both compute the weight in a hook before the call."""
    from torch.nn.utils import prune

    model = Trick().eval()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.fc2)
    prune.random_unstructured(model.fc1, "weight", amount=0.4)
    check(model, "relu", reference, relative_error)
    with torch.no_grad():
        model.fc2.weight_g.mul_(3)
    check(model, "relu", reference, relative_error)


def test_weights_of_unusual_memory_layout(reference: Any, relative_error: Any) -> None:
    model = Trick().eval()
    model.fc1.weight = nn.Parameter(torch.randn(FLAT, 8).t())  # tied, transposed weights look like this
    assert not model.fc1.weight.is_contiguous()
    check(model, "relu", reference, relative_error, method="closed_form")


def test_shared_modules(reference: Any, relative_error: Any) -> None:
    """One ReLU everywhere and one linear layer twice; each call has its own slopes."""

    class Shared(Trick):
        def trunk(self, a: Tensor) -> Tensor:
            h = self.act1(self.fc1(a.flatten(1)))
            return self.act1(self.fc2(self.act1(self.fc2(h))))

    check(Shared().eval(), "relu", reference, relative_error, method="closed_form")
    check(Shared().eval(), "relu", reference, relative_error, method="vjp")


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
@pytest.mark.parametrize("grad", [True, False])
def test_one_relu_for_map_and_head(method: str, grad: bool, reference: Any, relative_error: Any) -> None:
    """The layer itself is called again behind the map: the default layer is its first call."""

    class Single(Trick):
        def trunk(self, a: Tensor) -> Tensor:
            return self.relu(self.fc2(self.relu(self.fc1(a.flatten(1)))))

    model = Single().eval()
    with torch.set_grad_enabled(grad):
        attention = LatentAttention(model, method=method)
        for images in batches():
            maps = attention(images)
            assert (maps.layer, maps.method) == ("relu", method)
            assert relative_error(maps.signed, reference(model, images, "relu", nth=0).signed("relu")) < 1e-5


def test_heads_with_trunks_of_their_own(reference: Any, relative_error: Any) -> None:
    """The mean has a closed form; what needs the log variance takes products, and is right."""

    class Apart(Trick):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 5), nn.Tanh())
            self.logvar = nn.Linear(5, D)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a = self.features(x)
            return self.mean(self.trunk(a)), self.logvar(self.other(a))

    model = Apart().eval()
    check(model, "relu", reference, relative_error, method="closed_form")
    attention = LatentAttention(model, "relu")
    images = batches()[1]
    noise = torch.randn(4, D, generator=torch.Generator().manual_seed(1))
    maps = attention(images, sample=True, generator=torch.Generator().manual_seed(1))
    assert maps.method == "vjp"
    assert attention(images).method == "closed_form"
    truth = reference(model, images, "relu", lambda m, v: m + noise * (v / 2).exp())
    assert relative_error(maps.signed, truth.signed("relu")) < 1e-5
    with pytest.raises(UsageError, match="log variance does not share"):
        LatentAttention(model, "relu", method="closed_form").posterior(images)


def test_log_variance_that_does_not_depend_on_the_image(reference: Any, relative_error: Any) -> None:
    class Constant(Trick):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, _ = super().encode(x)
            return mean, torch.zeros_like(mean)

    model = Constant().eval()
    for method in ("auto", "vjp"):
        posterior = LatentAttention(model, "relu", method=method).posterior(batches()[1])
        assert relative_error(posterior.mean, reference(model, batches()[1], "relu").signed("relu")) < 1e-5
        assert not posterior.std.any()


@pytest.mark.parametrize("seed", range(3))
def test_activations_at_their_kinks(seed: int, Toy: Any, reference: Any, relative_error: Any) -> None:
    """Units at exactly 0, 6 and the bounds of Hardtanh take autograd's derivative there."""
    for act in (nn.ReLU(), nn.LeakyReLU(0.3), nn.PReLU(), nn.ReLU6(), nn.Hardtanh(0.0, 6.0), nn.Hardtanh(-6.0, 0.0)):
        first = nn.Linear(4, 5)
        nn.init.zeros_(first.weight)
        with torch.no_grad():
            first.bias.copy_(torch.tensor([0.0, 6.0, -6.0, 1.0, -1.0]))
        model = Toy([nn.Conv2d(1, 1, 1), nn.Flatten(), first, act], nn.Linear(5, 2), nn.Linear(5, 2)).eval()
        torch.manual_seed(seed)
        second = Toy([model.trunk[0], nn.Flatten(), nn.Linear(4, 4), first, act], model.mean, model.logvar).eval()
        images = torch.randn(2, 1, 2, 2)
        for m in (model, second):
            nn.init.normal_(first.weight) if m is model else None
            with torch.no_grad():
                first.weight.zero_() if m is second else None
            truth = reference(m, images, "trunk.0").signed("trunk.0")
            assert relative_error(LatentAttention(m, "trunk.0", method="closed_form")(images).signed, truth) < 1e-5
