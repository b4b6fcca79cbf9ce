"""The network for MVTec AD, supplementary Table 3: a ResNet-18 encoder."""

from __future__ import annotations

import itertools
from collections import OrderedDict

from torch import nn

from vaelens.models.base import ConvVAE, check_input_shape, he_init


class MvtecVAE(ConvVAE):
    """Supplementary Table 3: 72,803,363 parameters at 3x256x256 with 32 latents.

    ==============================  ===========    =============================================  ===========
    Encoder                         output         Decoder                                        output
    ==============================  ===========    =============================================  ===========
    input                           3x256x256      latent                                         32
    ResNet-18 without its pooling   512x8x8        linear 1024, ReLU                              1024
    flatten, linear 1024, ReLU      1024           linear 16384, ReLU, unflatten                  1024x4x4
    linear 32 (mean, log var)       32, 32         transposed conv 4x4, 512, batch norm, ReLU     512x8x8
    ..                              ..             the same to 256, 128, 64, 32 channels          32x128x128
    ..                              ..             transposed conv 4x4, 3, sigmoid                3x256x256
    ==============================  ===========    =============================================  ===========

    The transposed convolutions have stride 2 and padding 1. The table lacks the flatten after ResNet-18 and the linear
    layer to 16384 before the decoder's unflatten; both are needed, and with them the parameters add up. The ResNet is
    MONAI's, with the key names of torchvision's weights.

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 64.
        latent_dim: number of latents D.

    Raises:
        UsageError: the strides do not allow the size.
    """

    def __init__(self, input_shape: tuple[int, int, int] = (3, 256, 256), latent_dim: int = 32) -> None:
        from monai.networks.nets import resnet18  # heavy to import, and only this network needs it

        channels, height, width = check_input_shape("mvtec", input_shape, multiple=64)
        super().__init__((channels, height, width), latent_dim)
        resnet = resnet18(
            spatial_dims=2,
            n_input_channels=channels,
            conv1_t_stride=2,
            feed_forward=False,
            shortcut_type="B",
            bias_downsample=False,
        )
        resnet.avgpool = nn.Flatten()  # the whole 512 x H/32 x W/32 map goes on, in any memory format
        side = (1024, height // 64, width // 64)
        self.encoder = nn.Sequential(
            OrderedDict(
                [
                    ("resnet", resnet),
                    ("linear", nn.Linear(512 * (height // 32) * (width // 32), 1024)),
                    ("relu", nn.ReLU()),
                ]
            )
        )
        self.mean = nn.Linear(1024, latent_dim)
        self.logvar = nn.Linear(1024, latent_dim)
        decoder: list[nn.Module] = [
            nn.Linear(latent_dim, 1024),
            nn.ReLU(),
            nn.Linear(1024, side[0] * side[1] * side[2]),
            nn.ReLU(),
            nn.Unflatten(1, side),
        ]
        widths = [1024, 512, 256, 128, 64, 32]
        for before, after in itertools.pairwise(widths):
            decoder += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        decoder.append(nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1))
        self.decoder = nn.Sequential(*decoder)
        he_init(self)
