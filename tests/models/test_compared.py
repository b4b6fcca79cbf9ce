"""The networks of the compared methods: their tables, their sizes, and first weights that let a signal through."""

from __future__ import annotations

import itertools

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.models import DCGAN, ConvAE, build
from vaelens.objectives import reparameterize


def convolutions(*layers: tuple[int, int, int], bias: bool = True) -> int:
    """Parameters of convolutions given as (before, after, taps)."""
    return sum(before * after * taps + bias * after for before, after, taps in layers)


def test_the_autoencoder_is_the_papers() -> None:
    down = [(1, 32, 16), (32, 32, 16), (32, 32, 9), (32, 64, 16), (64, 64, 9), (64, 128, 16), (128, 64, 9), (64, 32, 9)]
    up = [(32, 64, 9), (64, 128, 9), (128, 64, 16), (64, 64, 9), (64, 32, 16), (32, 32, 9), (32, 32, 16), (32, 1, 16)]
    expected = convolutions(*down, (32, 100, 64), (100, 32, 64), *up)
    with torch.device("meta"):
        model = ConvAE()
    assert expected == 1_048_549
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_generator_and_the_discriminator_are_dcgans() -> None:
    widths = [512, 256, 128, 64]
    inner = convolutions(*((a, b, 16) for a, b in itertools.pairwise(widths)), bias=False)
    generator = convolutions((100, 512, 16), bias=False) + inner + 2 * sum(widths) + convolutions((64, 1, 16))
    discriminator = convolutions((1, 64, 16)) + inner + 2 * sum(widths[:3]) + convolutions((512, 1, 16))
    with torch.device("meta"):
        model = DCGAN()
    assert sum(p.numel() for p in model.decoder.parameters()) == generator
    assert sum(p.numel() for net in (model.features, model.judge) for p in net.parameters()) == discriminator


@pytest.mark.parametrize("size", [(32, 48), (64, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_go_in_and_come_out_at_one_size(size: tuple[int, int], channels: int) -> None:
    images = torch.rand(2, channels, *size)
    with torch.no_grad():
        reconstruction, code, logvar = build("ae", 7, (channels, *size))(images)
        gan = build("dcgan", 7, (channels, *size))
        assert isinstance(gan, DCGAN)
        made = gan.decode(gan.noise(2, torch.Generator()))
        logits, features = gan.discriminate(images)
    assert reconstruction.shape == made.shape == images.shape
    assert code.shape == logvar.shape == (2, 7)
    assert logits.shape == (2,)
    assert features.shape == (2, 512, size[0] // 16, size[1] // 16)
    for found in (reconstruction, made):
        assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("network", ["ae", "dcgan"])
@pytest.mark.parametrize("side", [16, 40, 100])
def test_another_size_is_refused(network: str, side: int) -> None:
    with pytest.raises(UsageError, match=rf"'{network}' takes .* multiples of 16, from 32 on"), torch.device("meta"):
        build(network, input_shape=(1, side, side))


def test_a_sample_of_the_code_is_the_code() -> None:
    model = build("ae", 5, (1, 32, 32))
    code, logvar = model.encode(torch.rand(3, 1, 32, 32))
    assert torch.allclose(reparameterize(code, logvar), code, atol=1e-3)
    assert not torch.equal(code[0], code[1])


@pytest.mark.parametrize("side", [32, 128])
def test_the_first_weights_let_the_image_through(side: int) -> None:
    model = build("ae", 100, (1, side, side))
    with torch.no_grad():
        code = model.encode(torch.rand(8, 1, side, side))[0]
        logits = model.decode_logits(torch.randn(8, 100))
    assert 0.05 < float(code.std()) < 1
    assert 0.1 < float(logits.std(0).mean()) < 2  # differs from code to code, and does not saturate the sigmoid


def test_the_noise_is_uniform_and_comes_from_its_generator() -> None:
    model = DCGAN(input_shape=(1, 32, 32), latent_dim=50)
    noise = model.noise(2000, torch.Generator().manual_seed(3))
    assert torch.equal(noise, model.noise(2000, torch.Generator().manual_seed(3)))
    assert noise.shape == (2000, 50)
    assert -1 <= float(noise.min()) < -0.99
    assert 0.99 < float(noise.max()) <= 1
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.var()) == pytest.approx(1 / 3, abs=0.01)


def test_a_generator_has_no_encoder() -> None:
    with pytest.raises(UsageError, match="no encoder: only localizer 'anogan'"):
        build("dcgan", 4, (1, 32, 32)).encode(torch.rand(1, 1, 32, 32))
