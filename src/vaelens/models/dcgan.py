"""The generator and discriminator that AnoGAN searches, those of DCGAN."""

from __future__ import annotations

import itertools
from typing import NoReturn

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.models.base import ConvVAE, check_input_shape

_WIDTHS = (512, 256, 128, 64)
_SPREAD = 0.02


class DCGAN(ConvVAE):
    """The networks of Radford et al. 2016 as Schlegl et al. 2017 (AnoGAN) use them; its `decode` is the generator.

    ===========================================  =========    ===========================================  =========
    Generator                                    output       Discriminator                                output
    ===========================================  =========    ===========================================  =========
    noise                                        100          input                                        1x64x64
    transposed conv 4x4, 512, batch norm, ReLU   512x4x4      conv 4x4, 64, leaky ReLU                     64x32x32
    transposed conv 4x4, 256, batch norm, ReLU   256x8x8      conv 4x4, 128, batch norm, leaky ReLU        128x16x16
    transposed conv 4x4, 128, batch norm, ReLU   128x16x16    conv 4x4, 256, batch norm, leaky ReLU        256x8x8
    transposed conv 4x4, 64, batch norm, ReLU    64x32x32     conv 4x4, 512, batch norm, leaky ReLU        512x4x4
    transposed conv 4x4, 1, sigmoid              1x64x64      conv 4x4, 1                                  1
    ===========================================  =========    ===========================================  =========

    All but the layers next to noise and logit have stride 2 and padding 1; those two cover the whole H/16 x W/16 map, at
    other sizes as well. The slope of the leaky ReLU is 0.2. DCGAN's tanh and images in [-1, 1] are here a sigmoid and images
    in [0, 1], which is the same but for a factor of the logits. Noise is uniform in [-1, 1]. Weights start normal with a
    spread of 0.02, as DCGAN has them.

    A generative adversarial network has no encoder: `encode` raises UsageError.

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 16 from 32.
        latent_dim: length D of the noise.

    Raises:
        UsageError: the strides do not allow the size.
    """

    def __init__(self, input_shape: tuple[int, int, int] = (1, 64, 64), latent_dim: int = 100) -> None:
        channels, height, width = check_input_shape("dcgan", input_shape, multiple=16, least=32)
        super().__init__((channels, height, width), latent_dim)
        kernel = (height // 16, width // 16)
        generator: list[nn.Module] = [
            nn.Unflatten(1, (latent_dim, 1, 1)),
            nn.ConvTranspose2d(latent_dim, _WIDTHS[0], kernel, bias=False),
        ]
        for before, after in itertools.pairwise(_WIDTHS):
            up = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            generator += [nn.BatchNorm2d(before), nn.ReLU(), up]
        generator += [nn.BatchNorm2d(_WIDTHS[-1]), nn.ReLU()]
        generator.append(nn.ConvTranspose2d(_WIDTHS[-1], channels, 4, stride=2, padding=1))
        self.decoder = nn.Sequential(*generator)
        features: list[nn.Module] = [nn.Conv2d(channels, _WIDTHS[-1], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, after in itertools.pairwise(reversed(_WIDTHS)):
            down = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            features += [down, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*features)
        self.judge = nn.Conv2d(_WIDTHS[0], 1, kernel)
        self._draw()

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise (count, D), uniform in [-1, 1], drawn on the generator's device."""
        drawn = torch.rand(count, self.latent_dim, generator=generator, device=generator.device)
        return drawn * 2 - 1

    def discriminate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), values in [0, 1] -> logits (B,), high for real, and the last features (B, 512, h, w)."""
        features = self.features(images * 2 - 1)
        return self.judge(features).flatten(), features

    def encode(self, images: Tensor) -> NoReturn:
        """A generative adversarial network has no encoder.

        Raises:
            UsageError: always.
        """
        raise UsageError("network 'dcgan' has no encoder: only localizer 'anogan' works with it, and no latent is explained")

    def _draw(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=_SPREAD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, mean=1.0, std=_SPREAD)
