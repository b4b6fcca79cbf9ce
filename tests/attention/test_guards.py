"""What a model does behind the modules' backs: on the way back of a gradient, after the plan was made, in another thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.adapters import adapt
from vaelens.attention import VARIANTS, Deviation, LatentAttention, MeanSum, NormalDifference
from vaelens.errors import UsageError
from vaelens.models import build

Agree = Callable[..., None]


class Base(nn.Module):
    """The layer is `relu`, (3, 4, 4). `extra` comes between two layers of the head; with `changed` set there is a trick."""

    changed = False

    def __init__(self, extra: Callable[[Tensor], Tensor] | None = None, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU()
        self.fc1, self.act1, self.extra = nn.Linear(48, 8), act(), extra or nn.Identity()
        self.fc2, self.act2 = nn.Linear(8, 8), act()
        self.mean, self.logvar = nn.Linear(8, 4), nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))

    def hidden(self, a: Tensor) -> Tensor:
        return self.act2(self.fc2(self.extra(self.act1(self.fc1(a.flatten(1))))))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(self.features(x))
        return self.mean(h), self.logvar(h)


def planned(model: nn.Module, images: Tensor, **how: Any) -> list[LatentAttention]:
    """One attention of each variant, its plan made."""
    attentions = [LatentAttention(model, "relu", variant=variant, **how) for variant in VARIANTS]
    for attention in attentions:
        attention(images)
    return attentions


@pytest.fixture
def agree(images: Tensor, reference: Any, relative_error: Any) -> Agree:
    """Maps equal those of one backward pass per latent through `truth`, the model itself where None, from the same seed."""

    def check(attentions: list[LatentAttention], truth: nn.Module | None = None) -> None:
        for attention in attentions:
            torch.manual_seed(3)
            maps = attention(images)
            torch.manual_seed(3)
            expected = reference(truth or attention.model, images, "relu").per_latent("relu", attention.variant)
            assert bool(expected.any())
            assert relative_error(maps.per_latent, expected) < 1e-5, (attention.variant, maps.method)

    return check


def says(call: Callable[[], Any], match: str | None = None) -> str:
    """The one line of a UsageError."""
    with pytest.raises(UsageError, match=match) as caught:
        call()
    message = str(caught.value)
    assert message == message.strip() != ""
    assert "\n" not in message
    return message


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -0.5 * grad


class ReversingContainer(nn.Sequential):
    def forward(self, h: Tensor) -> Tensor:
        return Reversal.apply(super().forward(h))


def container(hooked: bool = True) -> nn.Module:
    both = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    if hooked:
        both.register_full_backward_hook(lambda module, inputs, outputs: tuple(0.1 * grad for grad in inputs))
    return both


def clamped(h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda grad: grad.clamp(-0.02, 0.02))
    return h


BACKWARD = {
    "function": lambda: Reversal.apply,
    "function in a container": lambda: ReversingContainer(nn.Linear(8, 8), nn.ReLU()),
    "hook on a container": container,
    "hook on a tensor": lambda: clamped,
}


@pytest.mark.parametrize("name", BACKWARD)
def test_what_changes_a_gradient_on_its_way_back_is_followed(name: str, images: Tensor, agree: Agree) -> None:
    model = Base(BACKWARD[name]()).eval()
    agree(planned(model, images))
    strict = LatentAttention(model, "relu", method="closed_form")
    message = says(lambda: strict(images))
    assert message.startswith("no closed form at layer 'relu': autograd gives another gradient")


class Detached(Base):
    output = ""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(self.features(x))
        mean, logvar = (h.detach() if self.output == name else h for name in ("mean", "logvar"))
        return self.mean(mean), self.logvar(logvar)


@pytest.mark.parametrize("grad", [True, False])
def test_a_log_variance_cut_off_adds_nothing(grad: bool, images: Tensor, agree: Agree) -> None:
    model = Detached().eval()
    model.output = "logvar"
    attention = LatentAttention(model, "relu")
    with torch.set_grad_enabled(grad):
        assert attention(images).method == "closed_form"
        agree(planned(model, images))
        for tried in (attention, LatentAttention(model, "relu", method="vjp")):
            posterior = tried.posterior(images)
            assert not posterior.slope.any()
            torch.testing.assert_close(posterior.mean, attention(images).signed)


@pytest.mark.parametrize("method", ["auto", "closed_form", "vjp"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_mean_cut_off_cannot_be_explained(grad: bool, method: str, images: Tensor) -> None:
    model = Detached().eval()
    model.output = "mean"
    with torch.set_grad_enabled(grad):
        says(lambda: LatentAttention(model, "relu", method=method)(images))


class PoolsAView(nn.Module):
    """To the pooling, channels are pixels; it averages over others than the map's. A bias hides what the map changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(1, 4, 4, 4), nn.ReLU(), nn.AvgPool2d(2)
        self.fc, self.act = nn.Linear(4, 8), nn.ReLU()
        self.mean, self.logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        nn.init.constant_(self.mean.bias, 5.0)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.fc(self.pool(self.relu(self.conv(x)).view(-1, 1, 4, 4)).flatten(1)))
        return self.mean(h), self.logvar(h)


def test_pooling_of_a_view(images: Tensor, agree: Agree) -> None:
    agree(planned(PoolsAView().eval(), images))


class DropsLater(Base):
    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.5))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.extra.training = self.changed
        result = super().encode(x)
        self.extra.training = False
        return result


class OtherWeightsByCall(Base):
    """`functional_call` puts other tensors in the place of the weights, and takes them away again."""

    def __init__(self) -> None:
        super().__init__()
        self.other = {name: torch.randn_like(p) for name, p in self.named_parameters()}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode(x)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(self, self.other if self.changed else {}, (x,))


class OtherWeightsByData(OtherWeightsByCall):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        own = {name: p.data for name, p in self.named_parameters()}
        for name, p in self.named_parameters():
            p.data = self.other[name] if self.changed else own[name]
        try:
            return self(x)
        finally:
            for name, p in self.named_parameters():
                p.data = own[name]


class ByKeywordLater(Base):
    def hidden(self, a: Tensor) -> Tensor:
        h = self.act1(self.fc1(a.flatten(1)))
        return self.act2(self.fc2(input=h) if self.changed else self.fc2(h))


class CalledInALoop(Base):
    """Once less in training mode."""

    changed: int = 2

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(3, 3, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        a = super().features(x)
        for _ in range(self.changed - self.training):
            a = self.relu(self.again(a))
        return a


@pytest.mark.parametrize("kind", [DropsLater, OtherWeightsByCall, OtherWeightsByData, ByKeywordLater])
def test_what_encode_does_in_another_way_after_the_plan(kind: type[Base], images: Tensor, agree: Agree) -> None:
    model = kind().eval()
    attentions = planned(model, images)
    assert {a.method for a in attentions} == {"closed_form"}
    for model.changed in (True, False, True):
        agree(attentions)
        agree(planned(model, images))


@pytest.mark.parametrize("method", ["auto", "vjp"])
def test_a_layer_called_another_number_of_times_later(method: str, images: Tensor, agree: Agree) -> None:
    model = CalledInALoop().eval()
    attentions = planned(model, images, method=method)
    for model.changed in (3, 0, 1, 2):
        agree(attentions)


def test_a_number_of_calls_that_depends_on_the_mode(images: Tensor) -> None:
    model = CalledInALoop().eval()
    attention = LatentAttention(model, "relu")
    attention(images)
    for tried in (attention, LatentAttention(model.train(), "relu")):
        says(lambda tried=tried: tried(images), "called 2 times, and 3 times at a first look")


def test_batch_norm_without_running_statistics_after_the_plan(images: Tensor, agree: Agree) -> None:
    model = Base(nn.BatchNorm1d(8)).eval()
    attentions = planned(model, images)
    assert {a.method for a in attentions} == {"closed_form"}
    model.extra.running_mean = model.extra.running_var = None
    agree(attentions)
    assert {a.method for a in attentions} == {"vjp"}


class Normalises(Base):
    """Writes into its input; with `frozen` the trunk has no graph."""

    in_place, frozen = True, False

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            a = self.features(x.sub_(0.5).div_(0.5) if self.in_place else (x - 0.5) / 0.5)
        h = self.hidden(a)
        return self.mean(h), self.logvar(h)


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [True, False])
def test_an_input_normalised_in_place(grad: bool, frozen: bool, act: type[nn.Module], images: Tensor, agree: Agree) -> None:
    model = Normalises(act=act).eval()
    truth = copy.deepcopy(model)
    truth.in_place, model.frozen = False, frozen
    before = images.clone()
    with torch.set_grad_enabled(grad):
        agree(planned(model, images), truth)
    assert torch.equal(images, before)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_second_run_starts_where_the_first_did(frozen: bool, images: Tensor, agree: Agree) -> None:
    """Only a first run shows that the head drops by function in training mode, or that `encode` turned gradients off."""
    model = Normalises(lambda h: F.dropout(h, 0.5, model.training))
    model.conv = nn.Sequential(model.conv, nn.BatchNorm2d(3))
    model.in_place = False
    plain = copy.deepcopy(model)
    model.frozen = frozen
    attention = LatentAttention(model, "relu")
    with torch.set_grad_enabled(not frozen):
        torch.manual_seed(0)
        attention(images)
        after = torch.rand(3)
        torch.manual_seed(0)
        plain.encode(images)
        assert torch.equal(torch.rand(3), after)
        for name, buffer in plain.named_buffers():
            assert torch.equal(model.get_buffer(name), buffer), name
        for count, explain in enumerate((attention, attention.posterior, LatentAttention(model, "relu")), 2):
            explain(images)
            assert int(model.conv[1].num_batches_tracked) == count
        agree(planned(model, images), plain)


class Merging(nn.Linear):
    """A low-rank addition that its own `train` merges into the weight, as some libraries do."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.merged = False
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (self.up @ self.down) * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if self.merged else x @ self.down.T @ self.up.T)


class Freezing(Base):
    input_shape = (1, 8, 8)

    def train(self, mode: bool = True) -> Freezing:
        super().train(mode)
        self.conv.requires_grad_(False)
        return self


def test_a_train_method_that_does_more(images: Tensor, agree: Agree) -> None:
    model = Freezing()
    model.fc2 = Merging()
    weight = model.fc2.weight.detach().clone()
    agree(planned(model, images))
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not model.fc2.merged
    assert torch.equal(model.fc2.weight, weight)


class Shared(Base):
    """Another thread encodes other images while one encoding is at its start, and while it is between two layers."""

    other: Tensor | None = None

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__(self.meet, act)
        self.mine, self.seen = threading.get_ident(), []

    def meet(self, h: Tensor) -> Tensor:
        def encode() -> None:
            mean, _ = self.encode(self.other)
            self.seen.append((mean.detach(), torch.autograd.grad(mean.sum(), self.conv.weight, allow_unused=True)[0]))

        if self.other is not None and threading.get_ident() == self.mine:
            thread = threading.Thread(target=encode)
            thread.start()
            thread.join()
        return h

    def features(self, x: Tensor) -> Tensor:
        return super().features(self.meet(x))


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("met", ["from the start", "after the plan"])
def test_another_thread_keeps_its_graph(met: str, grad: bool, act: type[nn.Module], images: Tensor, agree: Agree) -> None:
    model, truth = Shared(act).eval(), Base(act=act).eval()
    truth.load_state_dict(model.state_dict())
    mean = truth.encode(images.flip(0))[0]
    expected = torch.autograd.grad(mean.sum(), truth.conv.weight)[0]
    with torch.set_grad_enabled(grad):
        attentions = planned(model, images) if met == "after the plan" else [LatentAttention(model, "relu")]
        model.other = images.flip(0)
        agree(attentions, truth)
    assert len(model.seen) >= 2 * len(attentions)
    for found, gradient in model.seen:
        torch.testing.assert_close(found, mean)
        assert gradient is not None
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("method", ["closed_form", "vjp"])
def test_tiny_gradients_in_half_precision(method: str, images: Tensor, relative_error: Any) -> None:
    model = Base().eval()
    with torch.no_grad():
        model.mean.weight.mul_(1e-3)
    expected = LatentAttention(model, "relu", variant="expvae", method=method)(images).per_latent
    found = LatentAttention(model.half(), "relu", variant="expvae", method=method)(images.half()).per_latent
    assert found.dtype == torch.float16
    assert relative_error(found.float(), expected.float()) < 2e-2


class MixedPrecision(Base):
    where = ""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.where == "whole"):
            a = self.features(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(self.where)):
            h = self.hidden(a)
            return self.mean(h), self.logvar(h)


@pytest.mark.parametrize("where", ["whole", "head"])
@pytest.mark.parametrize("method", ["auto", "vjp"])
@pytest.mark.parametrize("grad", [True, False])
def test_autocast_inside(grad: bool, method: str, where: str, images: Tensor, reference: Any, relative_error: Any) -> None:
    model = MixedPrecision().eval()
    truth = reference(model, images, "relu")
    model.where = where
    with torch.set_grad_enabled(grad):
        for attention in planned(model, images, method=method):
            expected = truth.per_latent("relu", attention.variant)
            assert relative_error(attention(images).per_latent, expected) < 5e-2, attention.variant
        assert bool(LatentAttention(model, "relu", method=method).posterior(images).slope.any())


def test_inference_mode_leaves_no_gradient(images: Tensor) -> None:
    with torch.inference_mode():
        made_inside = Base(act=nn.SiLU).eval()
    piecewise, smooth = Base().eval(), Base(act=nn.SiLU).eval()
    for model in (piecewise, smooth):
        model.encode = torch.inference_mode()(model.encode)
    for model in (piecewise, smooth, made_inside):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                says(lambda model=model: LatentAttention(model, "relu", method="vjp")(images), "inference_mode")
    for model in (smooth, made_inside):
        says(lambda model=model: LatentAttention(model, "relu")(images), "inference_mode")


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    try:
        torch.compile(lambda x: x, backend="eager")(torch.ones(1))
    except RuntimeError as reason:
        pytest.skip(f"no torch.compile here: {reason}")
    torch._dynamo.reset()
    yield lambda what: torch.compile(what, backend="eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("part", ["extra", "relu", "encode", "several"])
@pytest.mark.parametrize("grad", [True, False])
def test_compiled_parts(grad: bool, part: str, compiled: Callable[..., Any], images: Tensor, agree: Agree) -> None:
    truth = Base(container(hooked=False)).eval()
    model = copy.deepcopy(truth)
    for name in ("fc1", "act2", "mean") if part == "several" else (part,):
        setattr(model, name, compiled(getattr(model, name)))
    model.encode(images)
    with torch.set_grad_enabled(grad):
        agree(planned(model, images), truth)
    mean, _ = model.encode(images)
    torch.testing.assert_close(mean, truth.encode(images)[0])
    assert torch.autograd.grad(mean.sum(), model.conv.weight)[0].any()


@pytest.mark.parametrize("method", ["auto", "vjp"])
def test_a_transform_of_torch_func_is_refused(method: str, images: Tensor) -> None:
    attention = LatentAttention(Base().eval(), "relu", method=method)
    for _ in range(2):
        says(lambda: torch.func.grad(lambda x: attention(x).signed.sum())(images), r"torch\.func")
        says(lambda: torch.func.vmap(lambda x: attention(x[None]).signed[0])(images), r"torch\.func")
        attention(images)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("part", ["act1", "fc1", "mean"])
def test_a_scripted_part(part: str, images: Tensor, agree: Agree) -> None:
    model = Base().eval()
    setattr(model, part, torch.jit.script(getattr(model, part)))
    attentions = planned(model, images)
    assert {a.method for a in attentions} == {"vjp"}
    agree(attentions)


class Trunk(nn.Module):
    """A trunk that is one module, to be scripted as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU())
        self.mean, self.logvar = nn.Linear(48, 4), nn.Linear(48, 4)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(images).flatten(1)
        return self.mean(hidden), self.logvar(hidden)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(images)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_what_torch_jit_made_cannot_be_seen(images: Tensor, reference: Any, relative_error: Any) -> None:
    """Of a traced trunk the output can, as a layer; of a scripted one nothing, and the message says so."""
    model = Trunk().eval()
    expected = reference(model, images, "trunk").signed("trunk")
    model.trunk = torch.jit.trace(model.trunk, images)
    for layer in (None, "trunk"):
        maps = LatentAttention(model, layer)(images)
        assert (maps.layer, maps.method) == ("trunk", "closed_form")
        assert relative_error(maps.signed, expected) < 1e-5
    model = Trunk().eval()
    model.trunk = torch.jit.script(model.trunk)
    said = r"layers within 'trunk', which torch\.jit made, cannot be seen: explain the model as it was written.*load_state_dict"
    with pytest.raises(UsageError, match=said):
        LatentAttention(model)(images)
    for layer in ("trunk", "trunk.1"):
        with pytest.raises(UsageError, match=rf"no call of layer '{layer}' is seen; {said}"):
            LatentAttention(model, layer)(images)
    traced = torch.jit.trace(Trunk().eval(), images)
    for whole in (traced, torch.jit.freeze(traced)):
        with pytest.raises(UsageError, match=r"layers within .*, which torch\.jit made"):
            LatentAttention(adapt(whole, mean=0, logvar=1))(images)


def test_an_exported_model_calls_nothing_that_is_known(images: Tensor) -> None:
    attention = LatentAttention(adapt(torch.export.export(Trunk().eval(), (images[:2],)).module(), mean=0, logvar=1))
    with pytest.raises(UsageError, match="no call of a layer is seen, as of a model that was exported"):
        attention(images[:2])
    with pytest.raises(UsageError, match=r"does not take images \(1, 1, 8, 8\); .*Guard failed"):
        attention(images[:1])


def test_an_alias_of_a_layer(images: Tensor) -> None:
    model = Base().eval()
    model.alias = model.relu
    by_alias, by_name = (LatentAttention(model, name)(images) for name in ("alias", "relu"))
    assert by_alias.layer == by_name.layer == "relu"
    assert torch.equal(by_alias.signed, by_name.signed)


@pytest.mark.parametrize("ridge", [None, 0.1])
def test_deviation_in_bfloat16_of_images_as_bytes(ridge: float | None, images: Tensor) -> None:
    attention = LatentAttention(Base().eval().bfloat16(), "relu")
    normal = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    deviation = Deviation.fit(attention, normal, 3, ridge=ridge)
    maps = deviation.maps(attention, images.bfloat16())
    small = maps.resize((2, 2))
    for values in (deviation.codes, deviation.features, maps.per_latent, maps.signed, small.per_latent, small.signed):
        assert values.dtype == torch.bfloat16
        assert bool(values.isfinite().all())
    assert small.per_latent.shape == (3, 4, 2, 2)


@pytest.mark.parametrize("leave_out_self", [False, True])
def test_a_reference_of_all_normal_images(leave_out_self: bool, images: Tensor) -> None:
    attention = LatentAttention(Base().eval(), "relu")
    deviation = Deviation.fit(attention, images, None)
    found = deviation.reference(deviation.codes, leave_out_self)
    for i in range(3):
        others = [j for j in range(3) if j != i or not leave_out_self]
        torch.testing.assert_close(found[i], deviation.features[others].mean(0))


@pytest.mark.parametrize("std", [0.0, 1.0])
@pytest.mark.parametrize("logvar", [100.0, -100.0])
def test_normal_difference_of_extreme_variances(logvar: float, std: float, images: Tensor) -> None:
    model = Base().eval()
    nn.init.constant_(model.logvar.bias, logvar)
    maps = NormalDifference(torch.zeros(4), torch.full((4,), std)).maps(LatentAttention(model, "relu"), images)
    for values in (maps.slope, maps.mean, maps.std, maps.rectified_mean, maps.probability(), maps.sample().signed):
        assert bool(values.isfinite().all())


def test_a_counter_in_encode_is_left_alone(images: Tensor) -> None:
    class Counting(Base):
        input_shape = (1, 8, 8)

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=torch.long))

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.count += 1
            return super().encode(x)

    for mode, method in ((True, "auto"), (False, "auto"), (False, "vjp")):
        model = Counting().train(mode)
        attention = LatentAttention(model, "relu", method=method)
        assert int(model.count) == 0
        attention(images)
        assert int(model.count) == 1


@pytest.mark.parametrize("shape", [(28, 28, None), ("1", "8", "8"), "abc", (1, 8.0, 8), (0, -1, 8)])
def test_an_input_shape_that_is_none_is_passed_over(shape: object, images: Tensor) -> None:
    model = Base().eval()
    model.input_shape = shape
    assert len(LatentAttention(model, "relu")(images)) == 3


class ThreeTensors(Base):
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (*super().encode(x), x)


NAN = float("nan")
NORMAL = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
CODES = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
SIZES = (28, (3.5, 4), (True, 2), (0, 3), (4, 4, 4), "ab", None)
SHAPES = (28, "abc", (1, 28.9, 28), (True, 28, 28), (1, None, 28), (1, 28))
# What to call with each of the values, and what the line says.
MISUSES: dict[str, tuple[Callable[[LatentAttention, Any], Any], tuple[Any, ...], str]] = {
    "memory": (lambda a, v: LatentAttention(a.model, memory=v), ("1", 0, None, 1.5, True), "memory must be a whole number"),
    "layer": (lambda a, v: LatentAttention(a.model, v), (["x"], 3, b"relu"), "layer is the dotted name"),
    "tensors": (lambda a, v: LatentAttention(v(), "relu")(NORMAL), (ThreeTensors,), "a tuple of 3"),
    "neighbours": (lambda a, v: Deviation.fit(a, NORMAL, v), (2.5, "3", 0, True, 5, NAN), "neighbours must be"),
    "batch size": (lambda a, v: Deviation.fit(a, NORMAL, 2, v), (0, -1, 1.5, "a", None), "batch_size must be"),
    "ridge": (lambda a, v: Deviation.fit(a, NORMAL, 2, ridge=v), ("a", 0, -1, float("inf"), NAN, [1]), "ridge must be"),
    "images": (lambda a, v: Deviation.fit(a, v, None), (list(NORMAL), NORMAL[:, 0], NORMAL[:0]), "normal images are a"),
    "no numbers": (lambda a, v: Deviation.fit(a, v, 2), (NORMAL * NAN,), "no finite number"),
    "codes": (lambda a, v: Deviation.fit(a, NORMAL, 2).reference(v), (CODES, CODES[0]), r"codes are \(B, 4\)"),
    "logvars": (lambda a, v: NormalDifference.fit(CODES, v), (CODES[:, :1], CODES[:2]), "of one shape"),
    "posterior": (lambda a, v: NormalDifference.fit(CODES, v), (CODES * NAN,), "no finite number"),
    "sum": (lambda a, v: MeanSum.fit(v), (CODES * NAN, CODES.tolist(), CODES[:1]), "no finite number|at least two"),
    "size": (lambda a, v: a(NORMAL).resize(v), SIZES, "resized to|(height|width) must be a whole number"),
    "latent_dim": (lambda a, v: build("mnist", v, (1, 8, 8)), (2.5, "32", None, True, 0, [3], NAN), "latent_dim must be"),
    "input_shape": (lambda a, v: build("mnist", 3, v), SHAPES, "input_shape of network|must be a whole number"),
    "network": (lambda a, v: build(v), ([], {}, None, 3), "unknown network"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_gets_one_line(misuse: str) -> None:
    call, values, match = MISUSES[misuse]
    attention = LatentAttention(Base().eval(), "relu")
    for value in values:
        says(lambda value=value: call(attention, value), match)


@pytest.mark.parametrize("made_in_training", [False, True])
def test_a_gradient_that_is_changed_in_training_alone(made_in_training: bool, images: Tensor, agree: Agree) -> None:
    model = Base()

    def reverse(h: Tensor) -> Tensor:  # no module, which would be refused by its kind
        return Reversal.apply(h) if model.training else h

    del model.extra
    model.extra = reverse
    model.train(made_in_training)
    attentions = planned(model, images)
    for training in (True, False, True):
        model.train(training)
        agree(attentions)


def test_a_backward_hook_that_comes_after_the_plan(images: Tensor, agree: Agree) -> None:
    model = Base(container(hooked=False)).eval()
    attentions = planned(model, images)
    handle = model.extra.register_full_backward_hook(lambda module, inputs, outputs: tuple(0.1 * grad for grad in inputs))
    agree(attentions)
    assert {attention.method for attention in attentions} == {"vjp"}
    handle.remove()
    agree(attentions)


def test_images_that_wake_no_unit_prove_nothing(agree: Agree) -> None:
    model = Base(Reversal.apply).eval()
    for layer in (model.conv, model.fc1, model.fc2, model.mean):
        nn.init.zeros_(layer.bias)
    attentions = planned(model, torch.zeros(2, 1, 8, 8))
    agree(attentions)


def test_a_graph_of_the_callers_goes_on_working(images: Tensor) -> None:
    model = Base(lambda h: F.dropout(h, 0.5, model.training)).train()
    model.conv = nn.Sequential(model.conv, nn.BatchNorm2d(3))
    mean, _ = model.encode(images)
    LatentAttention(model, "relu")(images)
    mean.sum().backward()
    assert model.fc1.weight.grad is not None


def test_lazy_modules_and_buffers_that_come_late(images: Tensor) -> None:
    model = Base().eval()
    model.conv = nn.Sequential(model.conv, nn.LazyBatchNorm2d())
    model.register_buffer("mask", None)
    assert LatentAttention(model, "relu")(images).method == "closed_form"
    assert model.mask is None
