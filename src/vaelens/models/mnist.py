"""The network for MNIST, supplementary Table 1."""

from __future__ import annotations

from torch import nn

from vaelens.models.base import ConvVAE, check_input_shape, conv_encoder, he_init


class MnistVAE(ConvVAE):
    """Supplementary Table 1: 13,216,193 parameters at 1x28x28 with 32 latents.

    ============================  ==========    ================================  ==========
    Encoder                       output        Decoder                           output
    ============================  ==========    ================================  ==========
    input                         1x28x28       latent                            32
    conv 4x4, 64, stride 2, ReLU  64x14x14      linear 1024, ReLU                 1024
    conv 4x4, 128, stride 2, ReLU 128x7x7       linear 6272, ReLU, unflatten      128x7x7
    flatten, linear 1024, ReLU    1024          transposed conv 4x4, 64, ReLU     64x14x14
    linear 32 (mean, log var)     32, 32        transposed conv 4x4, 1, sigmoid   1x28x28
    ============================  ==========    ================================  ==========

    All convolutions have padding 1. The table prints one head of 32 units; mean and log variance need one each.

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 4.
        latent_dim: number of latents D.

    Raises:
        UsageError: the strides do not allow the size.
    """

    def __init__(self, input_shape: tuple[int, int, int] = (1, 28, 28), latent_dim: int = 32) -> None:
        channels, height, width = check_input_shape("mnist", input_shape, multiple=4)
        super().__init__((channels, height, width), latent_dim)
        side = (128, height // 4, width // 4)
        flat = side[0] * side[1] * side[2]
        self.encoder = conv_encoder([channels, 64, 128], flat, 1024)
        self.mean = nn.Linear(1024, latent_dim)
        self.logvar = nn.Linear(1024, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 1024),
            nn.ReLU(),
            nn.Linear(1024, flat),
            nn.ReLU(),
            nn.Unflatten(1, side),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, channels, 4, stride=2, padding=1),
        )
        he_init(self)
