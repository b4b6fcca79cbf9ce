"""A network of our own for processors without an accelerator: an eighth of the parameters of the paper's UCSD network."""

from __future__ import annotations

from torch import nn

from vaelens.models.base import ConvVAE, check_input_shape, conv_encoder, he_init


class CompactVAE(ConvVAE):
    """Four convolutions and a small head: 9,808,129 parameters at 1x128x128 with 32 latents.

    =============================  ==========    ================================  ==========
    Encoder                        output        Decoder                           output
    =============================  ==========    ================================  ==========
    input                          1x128x128     latent                            32
    conv 4x4, 32, stride 2, ReLU   32x64x64      linear 256, ReLU                  256
    conv 4x4, 64, stride 2, ReLU   64x32x32      linear 16384, ReLU, unflatten     256x8x8
    conv 4x4, 128, stride 2, ReLU  128x16x16     transposed conv 4x4, 128, ReLU    128x16x16
    conv 4x4, 256, stride 2, ReLU  256x8x8       transposed conv 4x4, 64, ReLU     64x32x32
    flatten, linear 256, ReLU      256           transposed conv 4x4, 32, ReLU     32x64x64
    linear 32 (mean, log var)      32, 32        transposed conv 4x4, 1            1x128x128
    =============================  ==========    ================================  ==========

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 16 from 32.
        latent_dim: number of latents D.

    Raises:
        UsageError: the strides do not allow the size.
    """

    def __init__(self, input_shape: tuple[int, int, int] = (1, 128, 128), latent_dim: int = 32) -> None:
        channels, height, width = check_input_shape("compact", input_shape, multiple=16, least=32)
        super().__init__((channels, height, width), latent_dim)
        side = (256, height // 16, width // 16)
        flat = side[0] * side[1] * side[2]
        self.encoder = conv_encoder([channels, 32, 64, 128, 256], flat, 256)
        self.mean = nn.Linear(256, latent_dim)
        self.logvar = nn.Linear(256, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 256),
            nn.ReLU(),
            nn.Linear(256, flat),
            nn.ReLU(),
            nn.Unflatten(1, side),
            nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1),
        )
        he_init(self)
