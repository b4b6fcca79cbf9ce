"""Moving latents of any model that decodes: each frame is the decoder's image of a code that the test moves by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens import LatentAttention, adapt
from vaelens.attention import traverse
from vaelens.errors import UsageError
from vaelens.models import build

IMAGE = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(3))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 4, 2, 1), nn.Linear(64, 10)
        self.decoder = nn.Sequential(nn.Linear(5, 64), nn.Unflatten(1, (1, 8, 8)), nn.Sigmoid())

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.head(self.conv(images).relu().flatten(1)).chunk(2, 1)
        return mean, logvar

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [False, True])
def test_frames_are_the_decoders(batch: bool) -> None:
    model = Small().eval()
    moving = traverse(LatentAttention(model), IMAGE[None] if batch else IMAGE, latents=[3, 0], span=(-1.0, 2.0), steps=4)
    assert moving.values == pytest.approx((-1.0, 0.0, 1.0, 2.0))
    assert moving.latents == (3, 0)
    mean = model.encode(IMAGE[None])[0].detach()
    for k, latent in enumerate((3, 0)):
        for v, value in enumerate(moving.values):
            code = mean.clone()
            code[0, latent] = value
            torch.testing.assert_close(moving.images[k, v], model.decode(code).detach()[0])
    torch.testing.assert_close(moving.decoded, model.decode(mean).detach()[0])
    torch.testing.assert_close(moving.maps.signed, LatentAttention(model, latents=[3, 0])(IMAGE[None]).signed.detach())
    assert moving.active.all()


def test_the_latents_that_tell_most_come_first() -> None:
    model = Small().eval()
    mean, logvar = (part.detach()[0] for part in model.encode(IMAGE[None]))
    nats = [float(m**2 + v.exp() - 1 - v) for m, v in zip(mean, logvar, strict=True)]
    moving = traverse(LatentAttention(model), IMAGE)
    assert list(moving.latents) == sorted(range(5), key=lambda i: -nats[i])
    many = build("compact", latent_dim=12, input_shape=(1, 32, 32)).eval()
    assert len(traverse(LatentAttention(many), torch.rand(1, 32, 32)).latents) == 8


def test_of_an_adapted_model_that_takes_other_images() -> None:
    """Given and shown in [0, 1], though the model works in [-1, 1]."""

    class Wide(Small):
        def encode(self, images: Tensor) -> Any:
            return dict(zip(("mu", "logvar"), super().encode(images), strict=True))

        def decode(self, latents: Tensor) -> Tensor:
            return 2 * super().decode(latents) - 1

    model = Wide().eval()
    moving = traverse(LatentAttention(adapt(model, input_range=(-1, 1))), IMAGE, latents=1, span=1.0, steps=3)
    code = model.encode(2 * IMAGE[None] - 1)["mu"].detach()
    code[0, 1] = 1.0
    torch.testing.assert_close(moving.images[0, 2], (model.decode(code).detach()[0] + 1) / 2)
    assert "data:image/png" in moving._repr_html_()
    figure = moving.plot()
    assert figure.axes


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize(
    ("decode", "match"),
    [
        (lambda z: {"image": z}, "returns a dict|got a dict"),
        (lambda z: z.new_zeros(len(z), 64), r"Small\.decode must return images \(B, C, H, W\) of latents .*, got \(\d+, 64\)"),
        (lambda z: z.new_zeros(1, 1, 8, 8), r"got \(1, 1, 8, 8\)"),
        (lambda z, label: z, r"Small\.decode does not take latents \(\d+, 5\) and nothing else .*'label'"),
        (nn.ConvTranspose2d(5, 1, 8), r"does not take latents \(\d+, 5\) and nothing else"),
    ],
)
def test_a_decoder_that_gives_no_images(decode: Any, match: str, adapted: bool) -> None:
    model = Small().eval()
    del model.decoder
    object.__setattr__(model, "decode", decode)
    attention = LatentAttention(adapt(model, mean=0, logvar=1) if adapted else model)
    with pytest.raises(UsageError, match=match) as caught:
        traverse(attention, IMAGE)
    assert "\n" not in str(caught.value)


def test_misuse() -> None:
    attention = LatentAttention(Small().eval())
    encoder = Small().eval()
    encoder.decode = None  # type: ignore[assignment,method-assign]
    for call, match in (
        (lambda: traverse(LatentAttention(encoder), IMAGE), "Small has no method decode"),
        (lambda: traverse(attention, IMAGE - 0.5), r"in \[0, 1\]"),
        (lambda: traverse(attention, IMAGE * torch.nan), r"in \[0, 1\]"),
        (lambda: traverse(attention, torch.rand(2, 1, 8, 8)), "of one image"),
        (lambda: traverse(attention, "image"), "of one image"),  # type: ignore[arg-type]
        (lambda: traverse(attention, IMAGE, span=-1.0), "span is a number above 0"),
        (lambda: traverse(attention, IMAGE, steps=1), "steps must be a whole number from 2 on"),
        (lambda: traverse(attention, IMAGE, latents=[9]), "latent 9 does not exist"),
    ):
        with pytest.raises(UsageError, match=match):
            call()
