"""Models of other packages, built by these and none of them changed, against one backward pass per latent."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens import LatentAttention, adapt
from vaelens.attention import survey
from vaelens.errors import UsageError

DIGITS = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
SCANS = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
PHOTOS = 2 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) - 1


def line_of(call: Any, match: str) -> str:
    with pytest.raises(UsageError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- pythae -------------------------------------------------------------------------------------------------------


def pythae_model(kind: str, encoder: str | None = "mnist.Encoder_Conv_VAE_MNIST") -> nn.Module:
    """A model of pythae with an encoder of its own benchmarks, or with its default one."""
    from importlib import import_module

    from pythae import models

    config = getattr(models, f"{kind}Config")(input_dim=(1, 28, 28), latent_dim=5)
    if encoder is None:
        return getattr(models, kind)(config).eval()
    package, name = encoder.split(".")
    made = getattr(import_module(f"pythae.models.nn.benchmarks.{package}"), name)(config)
    return getattr(models, kind)(config, encoder=made).eval()


@pytest.mark.parametrize("kind", ["VAE", "BetaVAE", "FactorVAE", "BetaTCVAE"])
def test_pythae_with_its_convolutional_encoder(kind: str, agrees: Any) -> None:
    model = pythae_model(kind)
    before = copy.deepcopy(model.state_dict())

    def posterior(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(images)
        return output.embedding, output.log_covariance

    attention = agrees(adapt(model), posterior, DIGITS, method="closed_form")
    assert attention.layer == "encoder.layers.2"  # the names are the model's own
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_pythae_with_a_residual_encoder(agrees: Any) -> None:
    model = pythae_model("VAE", "mnist.Encoder_ResNet_VAE_MNIST")

    def posterior(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(images)
        return output.embedding, output.log_covariance

    agrees(adapt(model), posterior, DIGITS)
    agrees(adapt(model), posterior, DIGITS, layer="encoder.layers.1")


def test_pythae_with_its_default_encoder_has_a_posterior_and_no_places() -> None:
    model = pythae_model("VAE", None)
    vae = adapt(model)
    mean, logvar = vae.encode(DIGITS)
    output = model.encoder(DIGITS)
    assert torch.equal(mean, output.embedding)
    assert torch.equal(logvar, output.log_covariance)
    line_of(
        lambda: LatentAttention(vae), "no feature map of more than one pixel in VAE.encoder.*linear layers alone keep no places"
    )


@pytest.mark.parametrize("kind", ["VAE", "BetaVAE", "FactorVAE", "BetaTCVAE"])
def test_pythae_with_its_default_encoder_by_pixels(kind: str) -> None:
    model = pythae_model(kind, None)
    attention = LatentAttention(adapt(model), variant="hirescam")
    maps = attention(DIGITS)
    assert (attention.layer, attention.method) == ("images", "closed_form")
    images = DIGITS.clone().requires_grad_()
    mean = model.encoder(images).embedding
    for i in range(mean.shape[1]):
        (gradient,) = torch.autograd.grad(mean[:, i].sum(), images, retain_graph=True)
        expected = (gradient * DIGITS).sum(1)
        assert float((maps.signed[:, i] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_pythae_decodes_what_it_encodes() -> None:
    model = pythae_model("VAE")
    vae = adapt(model)
    assert vae.input_shape == (1, 28, 28)
    latents = vae.encode(DIGITS)[0]
    assert torch.equal(vae.decode(latents), model.decoder(latents)["reconstruction"])


def test_pythae_without_a_posterior() -> None:
    line_of(lambda: adapt(pythae_model("VQVAE", None)), "VQVAE quantises its latents.*codebook")
    autoencoder = pythae_model("AE", "mnist.Encoder_Conv_AE_MNIST")
    line_of(lambda: adapt(autoencoder).encode(DIGITS), "returns a mean and no log variance.*deterministic=True")
    line_of(lambda: adapt(pythae_model("SVAE", None)).encode(DIGITS), "no log variance: .*'log_concentration'")
    vae = adapt(autoencoder, deterministic=True)
    mean, logvar = vae.encode(DIGITS)
    assert torch.equal(mean, autoencoder.encoder(DIGITS).embedding)
    assert (logvar == -math.inf).all()
    posterior = LatentAttention(vae).posterior(DIGITS)
    assert posterior.mean.any()
    assert not posterior.std.any()


# --- diffusers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kl() -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(4)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    ).eval()


CHOICES: dict[str, tuple[dict[str, Any], Any]] = {
    "pooled": ({"pooled": True}, lambda t: t.mean((2, 3))),
    "pooled channel": ({"pooled": True, "channel": 3}, lambda t: t[:, 3:].mean((2, 3))),
    "channel": ({"channel": 2}, lambda t: t[:, 2].flatten(1)),
    "position": ({"position": (5, 3)}, lambda t: t[:, :, 5, 3]),
    "one": ({"channel": 1, "position": [0, 15]}, lambda t: t[:, 1:2, 0, 15]),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_diffusers(choice: str, kl: Any, agrees: Any) -> None:
    arguments, chosen = CHOICES[choice]

    def posterior(images: Tensor) -> tuple[Tensor, Tensor]:
        given = kl.encode(images).latent_dist
        if "pooled" in choice:  # the mean of independent Gaussians
            places = given.mean[0, 0].numel()
            return chosen(given.mean), (chosen(given.logvar.exp()) / places).log()
        return chosen(given.mean), chosen(given.logvar)

    attention = agrees(adapt(kl, **arguments), posterior, PHOTOS)
    assert attention.layer == "encoder.conv_act"


def test_a_pooled_latent_is_as_gaussian_as_samples_say(kl: Any) -> None:
    with torch.no_grad():
        mean, logvar = adapt(kl, pooled=True).encode(PHOTOS)
        given = kl.encode(PHOTOS).latent_dist
        draw = torch.Generator().manual_seed(0)
        drawn = torch.stack([given.sample(draw).mean((2, 3)) for _ in range(4000)])
    std = (logvar / 2).exp()
    assert ((drawn.mean(0) - mean).abs() < 5 * std / math.sqrt(4000)).all()
    torch.testing.assert_close(drawn.std(0), std, rtol=0.06, atol=0)


def test_diffusers_at_every_number_and_at_another_layer(kl: Any, agrees: Any) -> None:
    def posterior(images: Tensor) -> tuple[Tensor, Tensor]:
        given = kl.encode(images).latent_dist
        return given.mean[:, :1].flatten(1)[:, :3], given.logvar[:, :1].flatten(1)[:, :3]

    vae = adapt(kl, flatten=True)
    maps = LatentAttention(vae, latents=[0, 1, 2])(PHOTOS)
    assert maps.mean.shape == (2, 4 * 16 * 16)
    direct = adapt(kl, encode=lambda images: posterior(images))
    whole = LatentAttention(direct, "encoder.conv_act")(PHOTOS)
    torch.testing.assert_close(maps.signed, whole.signed)
    agrees(direct, posterior, PHOTOS, layer="encoder.down_blocks.0")


def test_diffusers_asks_what_a_latent_is(kl: Any) -> None:
    said = line_of(lambda: LatentAttention(adapt(kl))(PHOTOS), "posterior with places")
    assert said.startswith("AutoencoderKL.encode gives")
    assert all(word in said for word in ("(B, 4, 16, 16)", "pooled=True", "channel=", "position=", "flatten=True"))
    line_of(lambda: adapt(kl, channel=4).encode(PHOTOS), "channel 4 does not exist; the posterior has 4: 0 to 3")
    line_of(lambda: adapt(kl, position=(3, 16)).encode(PHOTOS), r"position \(3, 16\) does not exist; the posterior has 16 x 16")
    line_of(lambda: adapt(kl, pooled=True).decode(torch.zeros(1, 4)), "cannot be decoded by themselves")


def test_diffusers_in_tiles_or_slices(kl: Any) -> None:
    model = copy.deepcopy(kl)
    model.enable_tiling()
    model.tile_sample_min_size = 16
    line_of(lambda: LatentAttention(adapt(model, pooled=True))(PHOTOS), "in tiles.*disable_tiling")
    model.disable_tiling()
    model.enable_slicing()
    line_of(lambda: LatentAttention(adapt(model, pooled=True))(PHOTOS), "image by image; call its disable_slicing")


def test_diffusers_of_quantised_or_bare_latents() -> None:
    from diffusers import AutoencoderTiny, VQModel

    line_of(lambda: adapt(VQModel()), "VQModel quantises its latents")
    tiny = AutoencoderTiny(encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
                           num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()  # fmt: skip
    line_of(lambda: adapt(tiny, pooled=True).encode(PHOTOS), "'latents' is .*say which is what")
    mean, _ = adapt(tiny, mean="latents", deterministic=True, pooled=True).encode(PHOTOS)
    torch.testing.assert_close(mean, tiny.encode(PHOTOS).latents.mean((2, 3)))


def test_inputs_are_scaled_for_a_model_that_takes_them_so(kl: Any) -> None:
    plain, scaled = adapt(kl, pooled=True), adapt(kl, pooled=True, input_range=(-1, 1))
    torch.testing.assert_close(scaled.encode((PHOTOS + 1) / 2)[0], plain.encode(PHOTOS)[0])
    means, stds = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    standard = adapt(kl, pooled=True, normalize=(means, stds))
    images = (PHOTOS + 1) / 2
    by_hand = torch.stack([(images[:, c] - means[c]) / stds[c] for c in range(3)], 1)
    torch.testing.assert_close(standard.encode(images)[0], plain.encode(by_hand)[0])
    with torch.no_grad():
        found = LatentAttention(scaled)(images).signed
        expected = LatentAttention(plain)(2 * images - 1).signed
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    line_of(lambda: standard.encode(images[:, :1]), "normalize has numbers for 3 channels")


# --- MONAI --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [{}, {"num_res_units": 2, "norm": "batch"}, {"act": "LeakyReLU", "dropout": 0.1}])
def test_monai_var_autoencoder(style: dict[str, Any], agrees: Any) -> None:
    """Its `encode` is a part of the encoder, not the way to the posterior."""
    from monai.networks.nets import VarAutoEncoder

    model = VarAutoEncoder(
        spatial_dims=2, in_shape=(1, 32, 32), out_channels=1, latent_size=4, channels=(4, 8), strides=(2, 2), **style
    ).eval()
    vae = adapt(model)
    agrees(vae, model.encode_forward, SCANS, method="closed_form")
    assert vae.input_shape == (1, 32, 32)
    latents = vae.encode(SCANS)[0]
    torch.testing.assert_close(vae.decode(latents), model.decode_forward(latents))


def test_monai_autoencoder_kl_gives_a_standard_deviation(agrees: Any) -> None:
    from monai.networks.nets import AutoencoderKL

    model = AutoencoderKL(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 8), attention_levels=(False, False), num_res_blocks=1,
        latent_channels=3, norm_num_groups=4, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    ).eval()  # fmt: skip

    def posterior(images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = model.encode(images)
        return mean[:, :, 2, 1], 2 * std[:, :, 2, 1].log()

    agrees(adapt(model, position=(2, 1)), posterior, SCANS, layer="encoder.blocks.1")
    vae = adapt(model, pooled=True)
    attention = agrees(vae, vae.encode, SCANS)
    assert attention.layer == f"encoder.blocks.{len(model.encoder.blocks) - 2}"  # and not the mean's own convolution


def test_monai_autoencoder_kl_with_attention(agrees: Any) -> None:
    """Tokens split over heads are no map, though they have four axes."""
    from monai.networks.nets import AutoencoderKL

    model = AutoencoderKL(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 8), attention_levels=(False, True), num_res_blocks=1,
        latent_channels=3, norm_num_groups=4,
    ).eval()  # fmt: skip
    vae = adapt(model, pooled=True)
    attention = agrees(vae, vae.encode, SCANS)
    assert attention.layers["encoder.blocks.4"] == (8, 16, 16)
    assert not [layer for layer in attention.layers if "attn" in layer]


@pytest.mark.parametrize("class_token", [True, False])
def test_monai_vision_transformer(class_token: bool) -> None:
    from monai.networks.nets import ViT

    class Of(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = ViT(1, (32, 32), (8, 8), 24, 48, 3, 4, spatial_dims=2, classification=class_token)
            self.head = nn.Linear(24, 6)

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            _, hidden = self.vit(images)
            tokens = self.vit.norm(hidden[-1])
            mean, logvar = self.head(tokens[:, 0] if class_token else tokens.mean(1)).chunk(2, 1)
            return mean, logvar

    model = Of().eval()
    attention = LatentAttention(model, grid=(4, 4))
    maps = attention(SCANS)
    assert attention.layer == ("vit.blocks.2.norm1" if class_token else "vit.norm")
    kept: list[Tensor] = []
    model.get_submodule(attention.layer).register_forward_hook(lambda module, args, output: kept.append(output))
    mean = model.encode(SCANS.clone().requires_grad_())[0]
    for latent in range(3):
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), kept[-1], retain_graph=True)
        placed, weights = kept[-1][:, -16:], gradient[:, -16:].mean(1)
        expected = (placed * weights[:, None]).sum(-1).view(-1, 4, 4).detach()
        torch.testing.assert_close(maps.signed[:, latent], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_monai_quantised() -> None:
    from monai.networks.nets import VQVAE

    line_of(lambda: adapt(VQVAE(spatial_dims=2, in_channels=1, out_channels=1)), "VQVAE quantises its latents")


# --- vision transformers ------------------------------------------------------------------------------------------


class TransformerVAE(nn.Module):
    """Patches of 4 x 4, a class token, two blocks; the posterior comes of the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        layer = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu") for _ in range(2)]
        self.blocks = nn.Sequential(*layer)
        self.head = nn.Linear(16, 6)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.token.expand(len(images), -1, -1), tokens], 1))
        mean, logvar = self.head(tokens[:, 0]).chunk(2, 1)
        return mean, logvar


@pytest.mark.parametrize("grad", [True, False])
def test_tokens_on_a_grid(grad: bool) -> None:
    model = TransformerVAE().eval()
    images = torch.rand(2, 1, 16, 24)
    with torch.set_grad_enabled(grad):
        attention = LatentAttention(model, grid=(4, 6))
        maps = attention(images)
    assert (attention.layer, attention.method) == ("blocks.0", "vjp")  # behind it the class token is alone
    assert maps.signed.requires_grad is grad
    kept: list[Tensor] = []
    handle = model.blocks[0].register_forward_hook(lambda module, args, output: kept.append(output))
    mean = model.encode(images.requires_grad_())[0]
    handle.remove()
    for latent in range(3):
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), kept[0], retain_graph=True)
        weights = gradient[:, 1:].mean(1)  # over the patches, the class token left out
        expected = (kept[0][:, 1:] * weights[:, None]).sum(-1).view(2, 4, 6).detach()
        torch.testing.assert_close(maps.signed[:, latent], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_tokens_without_a_place() -> None:
    model = TransformerVAE().eval()
    images = torch.rand(2, 1, 16, 24)
    line_of(lambda: LatentAttention(model, "blocks.1")(images), r"gives \(25, 16\) per image.*grid=\(height, width\)")
    line_of(lambda: LatentAttention(model, "blocks.1", grid=(6, 6))(images), "no feature map")
    line_of(lambda: LatentAttention(model, "blocks.1", grid=(4, 6))(images), "no latent depends on layer 'blocks.1'")
    ways = {way.layer: way for way in survey(model, images, grid=(4, 6))}
    assert ways["blocks.1"].way == "none"
    assert ways["blocks.0"].default


@pytest.mark.parametrize("grid", [3, (3,), (0, 4), (2.5, 2), "44", (1, 2, 3)])
def test_a_grid_that_is_none(grid: Any) -> None:
    line_of(lambda: LatentAttention(TransformerVAE(), grid=grid), "grid")
