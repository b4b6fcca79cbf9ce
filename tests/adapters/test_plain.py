"""Models of one's own: what their encoders return, which part encodes, and what is asked for instead of guessed."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from vaelens import LatentAttention, adapt
from vaelens.errors import UsageError

D = 3
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Encoder(nn.Module):
    """conv, ReLU, then mean and log variance, given back as `form` has them."""

    def __init__(self, form: Any = None) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU()
        self.fc_mu, self.fc_var = nn.Linear(64, D), nn.Linear(64, D)
        nn.init.constant_(self.fc_var.bias, -1.0)  # as of a trained model
        self.form = form

    def features(self, images: Tensor) -> Tensor:
        return self.relu(self.conv(images)).flatten(1)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.features(images)
        return self.fc_mu(hidden), self.fc_var(hidden)

    def forward(self, images: Tensor) -> Any:
        hidden = self.features(images)
        return self.form(self.fc_mu(hidden), self.fc_var(hidden), hidden)


class Whole(nn.Module):
    """A VAE with an encoder that is a module, and a decoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(nn.Linear(D, 64), nn.Unflatten(1, (1, 8, 8)))


@dataclass
class Output:
    z_mu: Tensor
    z_log_var: Tensor
    hidden: Tensor | None = None


@dataclass
class Around:
    features: Tensor
    posterior: Any


class Bag:
    def __init__(self, **things: Any) -> None:
        self.__dict__.update(things)


Named = namedtuple("Named", ["hidden", "mean", "std"])

# What an encoder may return, and what has to be said of it besides; m, v and h are mean, log variance and hidden units.
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pair": (lambda m, v, h: (m, v), {}),
    "list": (lambda m, v, h: [m, v], {}),
    "dict": (lambda m, v, h: {"mu": m, "logvar": v, "hidden": h}, {}),
    "dict of standard deviations": (lambda m, v, h: {"loc": m, "scale": (v / 2).exp()}, {}),
    "dict of variances": (lambda m, v, h: {"mean_z": m, "var_z": v.exp()}, {}),
    "dict of logarithms": (lambda m, v, h: {"latent_mean": m, "log_sigma": v / 2}, {}),
    "dict of both": (lambda m, v, h: {"mu": m, "std": (v / 2).exp(), "log_var": v}, {}),
    "dataclass": (lambda m, v, h: Output(m, v, h), {}),
    "named tuple": (lambda m, v, h: Named(h, m, (v / 2).exp()), {}),
    "object": (lambda m, v, h: Bag(mean=m, logvar=v), {}),
    "dataclass around": (lambda m, v, h: Around(h, Bag(mean=m, logvar=v)), {}),
    "distribution": (lambda m, v, h: Normal(m, (v / 2).exp()), {}),
    "independent": (lambda m, v, h: Independent(Normal(m, (v / 2).exp()), 1), {}),
    "distribution in a tuple": (lambda m, v, h: (h, Normal(m, (v / 2).exp())), {}),
    "distribution in a dict": (lambda m, v, h: {"hidden": h, "q": Normal(m, (v / 2).exp())}, {}),
    "distribution by name": (lambda m, v, h: Normal(m, (v / 2).exp()), {"mean": "loc", "variance": "variance"}),
    "mean of a distribution by name": (lambda m, v, h: Independent(Normal(m, (v / 2).exp()), 1), {"mean": "mean"}),
    "distribution of many variables": (
        lambda m, v, h: MultivariateNormal(m, scale_tril=torch.diag_embed((v / 2).exp())),
        {"mean": "mean", "variance": "variance"},
    ),
    "Laplace": (lambda m, v, h: Laplace(m, (v / 2).exp() / 2**0.5), {"mean": "loc", "std": "stddev"}),
    "list of distributions": (
        lambda m, v, h: [Normal(h[:, :2], 1.0), Normal(m, (v / 2).exp())],
        {"mean": (1, "mean"), "std": (1, "stddev")},
    ),
    "ladder": (lambda m, v, h: [(h, h), (m, v)], {"mean": (1, 0), "logvar": (1, 1)}),
    "sample, mean and log variance": (lambda m, v, h: (m + torch.randn_like(m), m, v), {"mean": 1, "logvar": 2}),
    "capitals within": (lambda m, v, h: {"zMean": m, "zLogVar": v}, {}),
    "named among distributions": (
        lambda m, v, h: {"posterior": Normal(m, (v / 2).exp()), "prior": Normal(0 * m, 1.0)},
        {"mean": "posterior.mean", "std": "posterior.stddev"},
    ),
    "tuple with more in it": (lambda m, v, h: (h, m, v), {"mean": 1, "logvar": 2}),
    "nested": (lambda m, v, h: (h, {"a": (m, v)}), {"mean": (1, "a", 0), "logvar": (1, "a", 1)}),
    "by path": (lambda m, v, h: Bag(q=Bag(one=m, two=v.exp())), {"mean": "q.one", "variance": "q.two"}),
    "other names": (lambda m, v, h: {"code": m, "noise": (v / 2).exp()}, {"mean": "code", "std": "noise"}),
    "one name": (lambda m, v, h: {"code": m, "logvar": v}, {"mean": "code"}),
    "one tensor": (lambda m, v, h: torch.cat([m, v], 1), {"mean": slice(0, D), "logvar": slice(D, None)}),
    "interleaved": (
        lambda m, v, h: torch.stack([m, v], 2).flatten(1),
        {"mean": slice(0, None, 2), "logvar": slice(1, None, 2)},
    ),
    "pair of mean and deviation": (lambda m, v, h: (m, (v / 2).exp()), {"mean": 0, "std": 1}),
    "a place of one pixel": (lambda m, v, h: (m[..., None, None], v[..., None, None]), {}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["module", "method", "itself"])
def test_what_an_encoder_returns(form: str, way: str, agrees: Any) -> None:
    returned, said = FORMS[form]
    encoder = Encoder(returned).eval()
    model: nn.Module = encoder
    prefix = ""
    if way == "module":
        model, prefix = Whole(encoder).eval(), "encoder."
    elif way == "method":
        encoder.encode = encoder.forward
    attention = agrees(adapt(model, **said), encoder.posterior, IMAGES)
    assert attention.layer == f"{prefix}relu"


def test_a_pair_is_asked_about_until_it_is_settled() -> None:
    kept = [torch.full((2, D), 0.1)]
    vae = adapt(returns(lambda m, v, h: (m, kept[0])))
    with pytest.raises(UsageError, match="above 0 throughout"):
        vae.encode(IMAGES)
    kept[0] = torch.tensor([[0.1, 0.2, -0.1]]).expand(2, -1)
    vae.encode(IMAGES)
    kept[0] = torch.full((2, D), 0.1)  # of one image or another it may be
    assert torch.equal(vae.encode(IMAGES)[1], kept[0])
    said = adapt(returns(lambda m, v, h: (m, kept[0])), mean=0, logvar=1)
    assert torch.equal(said.encode(IMAGES)[1], kept[0])


def test_random_numbers_in_training_say_nothing_of_a_pair() -> None:
    encoder = Encoder(lambda m, v, h: (nn.functional.dropout(m, training=encoder.training), v))
    vae = adapt(encoder.train())
    vae.encode(IMAGES)
    encoder.form = lambda m, v, h: (torch.randn_like(m), v)
    vae.encode(IMAGES)  # not settled, and not refused
    with pytest.raises(UsageError, match="draws random numbers"):
        vae.eval().encode(IMAGES)
    said = adapt(encoder, mean=0, logvar=1)
    said.encode(IMAGES)
    encoder.form = lambda m, v, h: (m, v)
    vae.encode(IMAGES)
    encoder.form = lambda m, v, h: (torch.randn_like(m), v)
    vae.encode(IMAGES)  # it is settled by now, and costs no look at the generator


def test_a_pair_keeps_the_closed_form() -> None:
    for form in ("pair", "dict", "dataclass", "nested", "a place of one pixel"):
        returned, said = FORMS[form]
        assert LatentAttention(adapt(Encoder(returned).eval(), **said))(IMAGES).method == "closed_form"


@pytest.mark.parametrize("shape", [(), (1, D), (2, 1), (1, 1)])
def test_one_spread_for_all_images_or_latents(shape: tuple[int, ...]) -> None:
    """As of a model whose spread is a parameter of its own."""
    spread = torch.full(shape, 0.5)
    for said in ({"mean": "mu", "std": "noise"}, {"mean": 0, "std": 1}):
        named = "mu" in said.values()
        encoder = returns(lambda m, v, h, named=named: {"mu": m, "noise": spread} if named else (m, spread))
        vae = adapt(encoder, **said)
        torch.testing.assert_close(vae.encode(IMAGES)[1], torch.full((2, D), 0.25).log())
        posterior = LatentAttention(vae).posterior(IMAGES) if shape != (2, 1) else None
        assert posterior is None or not posterior.slope.any()  # which does not depend on the image
    with pytest.raises(UsageError, match=r"tuple of 2.*say which is what"):  # and is asked for where it has no name
        adapt(returns(lambda m, v, h: (m, v[:1]))).encode(IMAGES)


def test_heads_behind_an_encoder_of_features(agrees: Any) -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU())
            self.fc_mu, self.fc_var = nn.Linear(64, D), nn.Linear(64, D)

        def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.encoder(images).flatten(1)
            return self.fc_mu(hidden), self.fc_var(hidden)

    model = Split().eval()
    with pytest.raises(UsageError, match=r"Split.encoder returns one tensor \(2, 4, 4, 4\).*heads="):
        adapt(model).encode(IMAGES)
    vae = adapt(model, heads=("fc_mu", "fc_var"))
    agrees(vae, model.posterior, IMAGES, layer="encoder", method="closed_form")
    with pytest.raises(UsageError, match="no module 'fc_sigma'; there are: encoder, fc_mu, fc_var"):
        adapt(model, heads=("fc_mu", "fc_sigma"))


class Diagonal:
    """The posterior of latent diffusion's autoencoders: an object, with places, of one convolution's output."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, 1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std, self.var = (self.logvar / 2).exp(), self.logvar.exp()


class Latent(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.SiLU())
        self.quant_conv = nn.Conv2d(4, 2 * D, 1)
        self.own = own

    def encode(self, images: Tensor) -> Any:
        parameters = self.quant_conv(self.encoder(images))
        return Diagonal(parameters) if self.own else parameters.split(D, 1)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("choice", [{"pooled": True}, {"channel": 1}, {"channel": 1, "pooled": True}, {"flatten": True}])
def test_a_posterior_with_places_is_explained_before_its_own_convolution(
    own: bool, choice: dict[str, Any], agrees: Any
) -> None:
    """A pooled channel's map at the channel itself would be that channel."""
    model = Latent(own).eval()
    nn.init.constant_(model.quant_conv.bias[D:].detach(), -3.0)
    with pytest.raises(UsageError, match=r"posterior with places, \(B, 3, 4, 4\); say what a latent is"):
        adapt(model).encode(IMAGES)
    vae = adapt(model, **choice)
    agrees(vae, vae.encode, IMAGES, layer=None)
    attention = LatentAttention(vae)
    attention(IMAGES)
    assert attention.layer == "encoder"


def test_a_lightning_module_whose_part_encodes(agrees: Any) -> None:
    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vae = Whole(Encoder(lambda m, v, h: {"mu": m, "logvar": v}))
            self.loss = nn.MSELoss()

    model = Lit().eval()
    vae = adapt(model)
    attention = agrees(vae, model.vae.encoder.posterior, IMAGES, method="closed_form")
    assert attention.layer == "vae.encoder.relu"
    latents = vae.encode(IMAGES)[0]
    assert torch.equal(vae.decode(latents), model.vae.decoder(latents))


def test_a_lightning_module_with_encode(agrees: Any) -> None:
    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Encoder(lambda m, v, h: (m, v))

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = self.net(images)
            return mean, logvar

    model = Lit().eval()
    agrees(adapt(model), model.net.posterior, IMAGES)
    agrees(model, model.net.posterior, IMAGES)  # which needs no adapter


def test_an_encoder_of_a_name_of_its_own(agrees: Any) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Whole(Encoder(lambda m, v, h: (m, v)))

        def to_posterior(self, images: Tensor) -> Any:
            return self.body.encoder(2 * images)

    model = Mine().eval()
    doubled = lambda images: model.body.encoder.posterior(2 * images)  # noqa: E731
    agrees(adapt(model, encode="to_posterior"), doubled, IMAGES)
    agrees(adapt(model, encode="body.encoder"), model.body.encoder.posterior, IMAGES)
    agrees(
        adapt(model, encode=lambda images: model.body.encoder(3 * images)),
        lambda x: model.body.encoder.posterior(3 * x),
        IMAGES,
    )


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Whole(Encoder()), Whole(Encoder())


class Decoder(nn.Module):
    def decode(self, latents: Tensor) -> Tensor:
        return latents


def returns(form: Any) -> nn.Module:
    return Encoder(form).eval()


# What is refused, how, and what the one line says.
REFUSED: dict[str, tuple[Any, str]] = {
    "three tensors": (
        lambda: adapt(returns(lambda m, v, h: (h, m, v))).encode(IMAGES),
        r"Encoder returns a tuple of 3 \(0 is \(2, 64\), 1 is \(2, 3\), 2 is \(2, 3\)\); say which is what: mean=",
    ),
    "two of other shapes": (lambda: adapt(returns(lambda m, v, h: (h, v))).encode(IMAGES), "tuple of 2.*say which is what"),
    "one tensor": (lambda: adapt(returns(lambda m, v, h: m)).encode(IMAGES), r"one tensor \(2, 3\); say which columns"),
    "nothing known": (lambda: adapt(returns(lambda m, v, h: {"a": m, "b": v})).encode(IMAGES), "'a' is .*say which is what"),
    "two means": (
        lambda: adapt(returns(lambda m, v, h: {"mu": m, "mean": m, "logvar": v})).encode(IMAGES),
        "several means: mu, mean; say which: mean='mu'",
    ),
    "two log variances": (
        lambda: adapt(returns(lambda m, v, h: {"mu": m, "logvar": v, "log_var": v})).encode(IMAGES),
        "several of logvar: logvar, log_var; say which: logvar=",
    ),
    "no spread": (lambda: adapt(returns(lambda m, v, h: {"mu": m})).encode(IMAGES), "a mean and no log variance"),
    "nothing": (lambda: adapt(returns(lambda m, v, h: None)).encode(IMAGES), "returns a NoneType"),
    "another distribution": (
        lambda: adapt(returns(lambda m, v, h: LogNormal(m, v.exp()))).encode(IMAGES),
        "returns a LogNormal.*diagonal Normal; mean='mean', variance='variance' takes its moments",
    ),
    "a distribution without moments": (
        lambda: adapt(
            returns(lambda m, v, h: TransformedDistribution(Normal(m, 1.0), [TanhTransform()])), mean="mean", std="std"
        ).encode(IMAGES),
        "returns no 'mean': a distribution TransformedDistribution",
    ),
    "a sample and a mean": (
        lambda: LatentAttention(adapt(returns(lambda m, v, h: (m + torch.randn_like(m) * (v / 2).exp(), m))))(IMAGES),
        "draws random numbers and returns two tensors, of which one may be a sample; say which is what: mean=0, logvar=1",
    ),
    "named distributions": (
        lambda: adapt(returns(lambda m, v, h: {"p": Normal(m, 1.0), "q": Normal(m, 1.0)})).encode(IMAGES),
        r"'p' is a Normal.*such as mean='p.mean', std='p.stddev'",
    ),
    "a distribution for a mean": (
        lambda: adapt(returns(lambda m, v, h: {"p": Normal(m, 1.0), "q": Normal(m, 1.0)}), mean="p").encode(IMAGES),
        "the mean that Encoder returns is a distribution Normal, which has 'mean', 'variance' and 'stddev', and no tensor",
    ),
    "a spread of one axis": (
        lambda: adapt(returns(lambda m, v, h: {"mu": m, "logvar": v[0]})).encode(IMAGES),
        r"a mean \(2, 3\) and a logvar \(3,\)",
    ),
    "a ladder": (lambda: adapt(returns(lambda m, v, h: [(m, v), (m, v)])).encode(IMAGES), r"list of 2.*such as mean=\(0, 0\)"),
    "two distributions": (
        lambda: adapt(returns(lambda m, v, h: (Normal(m, v.exp()), Normal(m, v.exp())))).encode(IMAGES),
        r"tuple of 2.*say which is what.*such as mean=\(0, 'mean'\), std=\(0, 'stddev'\)",
    ),
    "shapes apart": (lambda: adapt(returns(lambda m, v, h: (m, v, h)), mean=0, logvar=2).encode(IMAGES), "of one shape"),
    "an index too far": (lambda: adapt(returns(lambda m, v, h: (m, v)), mean=0, logvar=2).encode(IMAGES), "nothing at index 2"),
    "a name that is not there": (
        lambda: adapt(returns(lambda m, v, h: {"m": m, "v": v}), mean="m", logvar="w").encode(IMAGES),
        "returns no 'w': a dict .*'m' is",
    ),
    "a pair that may be mean and deviation": (
        lambda: adapt(returns(lambda m, v, h: (m, v.exp()))).encode(IMAGES),
        "the second is above 0 throughout, as a standard deviation is.*mean=0 with logvar=1, std=1 or variance=1",
    ),
    "a deviation below 0": (
        lambda: adapt(returns(lambda m, v, h: (m, m)), mean=0, std=1).encode(IMAGES),
        "the std that Encoder returns has numbers below 0; is it a log variance",
    ),
    "no columns": (
        lambda: LatentAttention(adapt(returns(lambda m, v, h: m), mean=slice(0, 0), logvar=slice(0, 0)))(IMAGES),
        "a posterior of no latents",
    ),
    "integers": (lambda: adapt(returns(lambda m, v, h: (m.long(), v.long()))).encode(IMAGES), "no tensor of numbers"),
    "several parts": (lambda: adapt(TwoParts()), "several parts that encode.*encode='left.encoder' or encode='right.encoder'"),
    "a decoder alone": (lambda: adapt(Decoder()), "Decoder has a decoder and no encoder"),
    "no module": (lambda: adapt("vae"), "must be a torch.nn.Module, got str"),  # type: ignore[arg-type]
    "twice": (lambda: adapt(adapt(returns(None))), "adapted already"),
    "no such encoder": (lambda: adapt(TwoParts(), encode="middle"), "TwoParts has no 'middle'; its parts are: left, right"),
    "an encoder that is none": (lambda: adapt(returns(None), encode="form"), "no 'form'|NoneType and cannot be called"),
    "encode that is none": (lambda: adapt(returns(None), encode=3), "encode is the dotted name"),  # type: ignore[arg-type]
    "two spreads": (lambda: adapt(returns(None), mean=0, logvar=1, std=2), "in one way, not in 2: logvar, std"),
    "a spread and none": (lambda: adapt(returns(None), logvar=1, deterministic=True), "in one way"),
    "a spread without a mean": (lambda: adapt(returns(None), std=1), "say where the mean is, too"),
    "a mean without a spread": (lambda: adapt(returns(None), mean=0), "say where the log variance is, too"),
    "a key that is none": (lambda: adapt(returns(None), mean=0.5, logvar=1), "a name, an index, a slice"),  # type: ignore[arg-type]
    "heads and a mean": (lambda: adapt(returns(None), heads=("fc_mu", "fc_var"), mean=0), "leave out mean and the spread"),
    "one head": (lambda: adapt(returns(None), heads=("fc_mu",)), "heads are the names of two modules"),  # type: ignore[arg-type]
    "pooled without places": (lambda: adapt(returns(lambda m, v, h: (m, v)), pooled=True).encode(IMAGES), "without places"),
    "pooled and a position": (lambda: adapt(returns(None), pooled=True, position=(0, 0)), "leave out position, or pooled"),
    "flatten and a channel": (lambda: adapt(returns(None), flatten=True, channel=0), "leave out pooled, channel and position"),
    "a position that is none": (lambda: adapt(returns(None), position=3), "position is .row, column."),  # type: ignore[arg-type]
    "a range that is none": (lambda: adapt(returns(None), input_range=(1, 0)), "input_range is .low, high."),
    "two ways of scaling": (lambda: adapt(returns(None), input_range=(0, 1), normalize=((0,), (1,))), "not both"),
    "no deviation": (lambda: adapt(returns(None), normalize=((0.5,), (0,))), "standard deviations above 0"),
    "other images": (
        lambda: LatentAttention(adapt(returns(lambda m, v, h: (m, v))))(torch.rand(2, 3, 8, 8)),
        r"Encoder does not take images \(2, 3, 8, 8\); check their channels and size",
    ),
    "other numbers": (
        lambda: LatentAttention(adapt(returns(lambda m, v, h: (m, v))))(IMAGES.double()),
        r"they are torch.float64 and the model's weights torch.float32: images.to\(torch.float32\)",
    ),
    "another device": (
        lambda: LatentAttention(adapt(returns(lambda m, v, h: (m, v))).to("meta"))(IMAGES),
        r"they are on cpu and the model is on meta: images.to\('meta'\)",
    ),
    "latents that are not there": (
        lambda: LatentAttention(adapt(returns(lambda m, v, h: (m, v))), latents=[3])(IMAGES),
        "latent 3 does not exist; the model has 3: 0 to 2",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_told_apart_is_asked_for(what: str) -> None:
    call, match = REFUSED[what]
    with pytest.raises(UsageError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_encoder_that_takes_more_than_images() -> None:
    class Conditional(Encoder):
        def encode(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return self.posterior(images * labels)

    class Mistaken(Encoder):
        def encode(self, images: Tensor) -> Any:
            return self.posterior(images + "one")  # type: ignore[operator]

    model = Conditional().eval()
    with pytest.raises(UsageError, match=r"Conditional.encode takes more than images .*'labels'.*adapt\(model, encode=lambda"):
        adapt(model).encode(IMAGES)
    with pytest.raises(TypeError, match="str"):
        adapt(Mistaken()).encode(IMAGES)  # its own mistake, with its own traceback
    with pytest.raises(UsageError, match=r"Conditional.encode takes more than images .*'labels'"):
        LatentAttention(model)(IMAGES)
    with pytest.raises(TypeError, match="str"):
        LatentAttention(Mistaken().eval())(IMAGES)
    maps = LatentAttention(adapt(model, encode=lambda images: model.encode(images, torch.tensor(2.0))))(IMAGES)
    torch.testing.assert_close(maps.mean, model.posterior(2 * IMAGES)[0])
    labels = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)  # of these two images, and not of those on which the way is tried
    with pytest.raises(
        UsageError, match=r"the function given as encode does not take images .*that it takes any number of them"
    ):
        LatentAttention(adapt(model, encode=lambda images: model.encode(images, labels)))(IMAGES)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: torch.compile(nn.DataParallel(model))])
def test_compiled_and_parallel_models_are_explained_as_they_were_written(wrap: Any) -> None:
    model = Whole(Encoder(lambda m, v, h: (m, v))).eval()
    attention = LatentAttention(adapt(wrap(model)))
    assert attention(IMAGES).method == "closed_form"
    assert attention.layer == "encoder.relu"


@pytest.mark.parametrize(
    "kind", ["VectorQuantizer", "VectorQuantizerEMA", "Quantize", "VQEmbedding", "GumbelQuantize", "ResidualVQ", "FSQ"]
)
def test_a_codebook_in_a_model_of_ones_own(kind: str) -> None:
    model = Whole(Encoder(lambda m, v, h: (m, v)))
    model.codes = type(kind, (nn.Module,), {})()
    with pytest.raises(UsageError, match=rf"quantises its latents .'codes', {kind}."):
        adapt(model)
    model.codes = torch.ao.quantization.FakeQuantize()  # of weights and activations, and no codebook
    adapt(model).encode(IMAGES)


def test_a_model_without_an_encoder_says_where_to_look() -> None:
    with pytest.raises(UsageError, match=r"Conv2d has no method encode.*adapt"):
        LatentAttention(nn.Conv2d(1, 1, 3))(IMAGES)
    with pytest.raises(UsageError, match=r"Conv2d returns one tensor \(2, 1, 6, 6\)"):
        LatentAttention(adapt(nn.Conv2d(1, 1, 3)))(IMAGES)


def test_a_model_that_encodes_deep_within_says_where() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleDict({"vae": Whole(Encoder(lambda m, v, h: (m, v)))})

    model = Outer().eval()
    with pytest.raises(UsageError, match=r"Outer has no encode, no encoder and no forward.*encode='nets.vae.encoder'\)$"):
        adapt(model)
    assert adapt(model, encode="nets.vae.encoder").encode(IMAGES)[0].shape == (2, D)
    with pytest.raises(UsageError, match=r"say what encodes: adapt\(model, encode=... \(a function of the images\)\)"):
        adapt(nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1)}))


def test_layers_without_weights_yet_draw_them_and_no_sample() -> None:
    encoder = Encoder(lambda m, v, h: (m, v - 9))
    encoder.fc_mu = nn.LazyLinear(D)
    vae = adapt(encoder.eval())
    vae.encode(IMAGES)
    encoder.form = lambda m, v, h: (torch.randn_like(m), v - 9)
    with pytest.raises(UsageError, match="draws random numbers"):
        vae.encode(IMAGES)


def test_modes_devices_and_weights_are_the_models_own() -> None:
    model = Whole(Encoder(lambda m, v, h: (m, v)))
    vae = adapt(model.train())
    assert vae.training
    assert model.training
    vae.eval()
    assert not model.training
    assert [name for name, _ in vae.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert vae.state_dict().keys() == model.state_dict().keys()
    vae.load_state_dict({key: torch.zeros_like(value) for key, value in model.state_dict().items()})
    assert not model.encoder.fc_mu.weight.any()
    vae.double()
    assert model.encoder.conv.weight.dtype == torch.float64
    assert "AdaptedVAE(Whole.encoder)" in repr(vae)


@pytest.mark.parametrize("form", ["pair", "dict", "tuple with more in it"])
def test_a_copy_is_of_the_model_too(form: str) -> None:
    """As whoever randomizes a copy's weights relies on."""
    returned, said = FORMS[form]
    vae = adapt(Whole(Encoder(returned)).eval(), **said)
    mean, latents = vae.encode(IMAGES)[0], torch.ones(1, D)
    image = vae.decode(latents)
    other = copy.deepcopy(vae)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert not other.encode(IMAGES)[0].any()
    assert not other.decode(latents).any()
    assert torch.equal(vae.encode(IMAGES)[0], mean)
    assert torch.equal(vae.decode(latents), image)


def test_training_through_an_adapter_reaches_the_model() -> None:
    model = Whole(Encoder(lambda m, v, h: {"mu": m, "logvar": v}))
    maps = LatentAttention(adapt(model))(IMAGES)
    assert maps.method == "closed_form"
    maps.per_latent.sum().backward()
    assert model.encoder.conv.weight.grad is not None
    assert model.encoder.fc_mu.weight.grad is not None


@settings(deadline=None, max_examples=40)
@given(
    st.permutations(["mean", "logvar", "hidden", "skip"]),
    st.sampled_from([("mu", "logvar"), ("z_mean", "z_log_var"), ("loc_q", "log_variance"), ("Mean", "LogVar")]),
)
def test_order_and_company_do_not_matter_where_there_are_names(order: list[str], names: tuple[str, str]) -> None:
    called = {"mean": names[0], "logvar": names[1], "hidden": "hidden", "skip": "skip_connection"}
    m, v = torch.randn(2, D), torch.randn(2, D)
    values = {"mean": m, "logvar": v, "hidden": torch.randn(2, D), "skip": torch.randn(2, 9)}
    vae = adapt(returns(lambda *_: {called[key]: values[key] for key in order}))
    mean, logvar = vae.encode(IMAGES)
    assert torch.equal(mean, m)
    assert torch.equal(logvar, v)
