"""The network for dSprites, supplementary Table 4."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from vaelens.models.base import ConvVAE, check_input_shape, conv_relu, he_init
from vaelens.models.transposed import ConvTranspose2d


class DspritesVAE(ConvVAE):
    """Supplementary Table 4, the convolutional network of FactorVAE; its two heads are 1x1 convolutions.

    =============================  ==========    ================================  ==========
    Encoder                        output        Decoder                           output
    =============================  ==========    ================================  ==========
    input                          1x64x64       latent                            32
    conv 4x4, 32, stride 2, ReLU   32x32x32      conv 1x1, 128, ReLU               128x1x1
    conv 4x4, 32, stride 2, ReLU   32x16x16      transposed conv 4x4, 64, ReLU     64x4x4
    conv 4x4, 64, stride 2, ReLU   64x8x8        transposed conv 4x4, 64, ReLU     64x8x8
    conv 4x4, 64, stride 2, ReLU   64x4x4        transposed conv 4x4, 32, ReLU     32x16x16
    conv 4x4, 128, ReLU            128x1x1       transposed conv 4x4, 32, ReLU     32x32x32
    conv 1x1, 32 (mean, log var)   32, 32        transposed conv 4x4, 1, sigmoid   1x64x64
    =============================  ==========    ================================  ==========

    The strided layers have padding 1. The table prints padding 1 also for the convolution from 4x4 to 1x1, which takes 0.
    At other sizes that convolution and its mirror cover the whole H/16 x W/16 map. The last feature map is the 64x4x4 one:
    the next is 1x1 and has nothing to show.

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 16.
        latent_dim: number of latents D.

    Raises:
        UsageError: the strides do not allow the size.
    """

    def __init__(self, input_shape: tuple[int, int, int] = (1, 64, 64), latent_dim: int = 32) -> None:
        channels, height, width = check_input_shape("dsprites", input_shape, multiple=16)
        super().__init__((channels, height, width), latent_dim)
        kernel = (height // 16, width // 16)
        self.encoder = nn.Sequential(
            OrderedDict(
                [
                    *conv_relu([channels, 32, 32, 64, 64]),
                    ("conv5", nn.Conv2d(64, 128, kernel)),
                    ("relu5", nn.ReLU()),
                ]
            )
        )
        self.mean = nn.Conv2d(128, latent_dim, 1)
        self.logvar = nn.Conv2d(128, latent_dim, 1)
        decoder: list[nn.Module] = [
            nn.Unflatten(1, (latent_dim, 1, 1)),
            nn.Conv2d(latent_dim, 128, 1),
            nn.ReLU(),
            ConvTranspose2d(128, 64, kernel),
            nn.ReLU(),
        ]
        for before, after in ((64, 64), (64, 32), (32, 32)):
            decoder += [ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        decoder.append(ConvTranspose2d(32, channels, 4, stride=2, padding=1))
        self.decoder = nn.Sequential(*decoder)
        he_init(self)
