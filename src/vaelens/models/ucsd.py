"""The network for the UCSD pedestrian videos, supplementary Table 2."""

from __future__ import annotations

from torch import nn

from vaelens.models.base import ConvVAE, check_input_shape, conv_encoder, he_init


class UcsdVAE(ConvVAE):
    """Supplementary Table 2: 77,243,073 parameters at 1x100x100 with 32 latents.

    =============================  ==========    ================================  ==========
    Encoder                        output        Decoder                           output
    =============================  ==========    ================================  ==========
    input                          1x100x100     latent                            32
    conv 4x4, 64, stride 2, ReLU   64x50x50      linear 1024, ReLU                 1024
    conv 4x4, 128, stride 2, ReLU  128x25x25     linear 36864, ReLU, unflatten     256x12x12
    conv 4x4, 256, stride 2, ReLU  256x12x12     transposed conv 5x5, 128, ReLU    128x25x25
    flatten, linear 1024, ReLU     1024          transposed conv 4x4, 64, ReLU     64x50x50
    linear 32 (mean, log var)      32, 32        transposed conv 4x4, 1, sigmoid   1x100x100
    =============================  ==========    ================================  ==========

    All convolutions have padding 1, all transposed ones stride 2. The 5x5 kernel is what leads from 12 back to 25; along a
    side whose quarter is even, a kernel of 4 does.

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 4 from 8.
        latent_dim: number of latents D.

    Raises:
        UsageError: the strides do not allow the size.
    """

    def __init__(self, input_shape: tuple[int, int, int] = (1, 100, 100), latent_dim: int = 32) -> None:
        channels, height, width = check_input_shape("ucsd", input_shape, multiple=4, least=8)
        super().__init__((channels, height, width), latent_dim)
        quarter = (height // 4, width // 4)
        side = (256, quarter[0] // 2, quarter[1] // 2)
        flat = side[0] * side[1] * side[2]
        self.encoder = conv_encoder([channels, 64, 128, 256], flat, 1024)
        self.mean = nn.Linear(1024, latent_dim)
        self.logvar = nn.Linear(1024, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 1024),
            nn.ReLU(),
            nn.Linear(1024, flat),
            nn.ReLU(),
            nn.Unflatten(1, side),
            nn.ConvTranspose2d(256, 128, (4 + quarter[0] % 2, 4 + quarter[1] % 2), stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, channels, 4, stride=2, padding=1),
        )
        he_init(self)
