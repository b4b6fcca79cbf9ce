"""The autoencoder of Bergmann et al. 2018, which the paper compares with."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from vaelens.models.base import ConvVAE, check_input_shape, he_init

_SLOPE = 0.2
_POINT = -20.0


class ConvAE(ConvVAE):
    """Table 1 of Bergmann et al., "Improving Unsupervised Defect Segmentation by Applying Structural Similarity to
    Autoencoders" (2018): 1,048,549 parameters at 1x128x128 with a code of 100.

    ==========================  ==========    ===================================  ==========
    Encoder                     output        Decoder                              output
    ==========================  ==========    ===================================  ==========
    input                       1x128x128     code                                 100
    conv 4x4, 32, stride 2      32x64x64      transposed conv 8x8, 32              32x8x8
    conv 4x4, 32, stride 2      32x32x32      conv 3x3, 64                         64x8x8
    conv 3x3, 32                32x32x32      conv 3x3, 128                        128x8x8
    conv 4x4, 64, stride 2      64x16x16      transposed conv 4x4, 64, stride 2    64x16x16
    conv 3x3, 64                64x16x16      conv 3x3, 64                         64x16x16
    conv 4x4, 128, stride 2     128x8x8       transposed conv 4x4, 32, stride 2    32x32x32
    conv 3x3, 64                64x8x8        conv 3x3, 32                         32x32x32
    conv 3x3, 32                32x8x8        transposed conv 4x4, 32, stride 2    32x64x64
    conv 8x8, 100, linear       100           transposed conv 4x4, 1, stride 2     1x128x128
    ==========================  ==========    ===================================  ==========

    All layers but the two last have a leaky ReLU of slope 0.2; all but the two 8x8 ones have padding 1. At other sizes the
    8x8 kernels cover the whole H/16 x W/16 map. The paper's output is linear; here a sigmoid keeps it in [0, 1], as in the
    other networks. The authors' later work on MVTec AD takes a code of 500 for objects.

    The code stands as the mean of the posterior. Nothing is sampled: the log variance is a constant, -20, that of a normal
    distribution so narrow (a spread of 5e-5) that a sample of it is the code.

    Args:
        input_shape: (C, H, W), one or three channels, sides in multiples of 16 from 32.
        latent_dim: length D of the code.

    Raises:
        UsageError: the strides do not allow the size.
    """

    mean: nn.Conv2d
    decoder: nn.Sequential

    def __init__(self, input_shape: tuple[int, int, int] = (1, 128, 128), latent_dim: int = 100) -> None:
        channels, height, width = check_input_shape("ae", input_shape, multiple=16, least=32)
        super().__init__((channels, height, width), latent_dim)
        kernel = (height // 16, width // 16)
        # (channels after, kernel); a kernel of 4 halves the side, one of 3 keeps it.
        plan = ((32, 4), (32, 4), (32, 3), (64, 4), (64, 3), (128, 4), (64, 3), (32, 3))
        layers: list[tuple[str, nn.Module]] = []
        before = channels
        for number, (after, size) in enumerate(plan, start=1):
            layers.append((f"conv{number}", nn.Conv2d(before, after, size, stride=size - 2 if size == 4 else 1, padding=1)))
            layers.append((f"relu{number}", nn.LeakyReLU(_SLOPE)))
            before = after
        self.encoder = nn.Sequential(OrderedDict(layers))
        self.mean = nn.Conv2d(32, latent_dim, kernel)
        self.logvar = PointMass(latent_dim)
        decoder: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1)), nn.ConvTranspose2d(latent_dim, 32, kernel)]
        before = 32
        for after, size in ((64, 3), (128, 3), (64, 4), (64, 3), (32, 4), (32, 3), (32, 4)):
            decoder += [nn.LeakyReLU(_SLOPE), _same(before, after) if size == 3 else _double(before, after)]
            before = after
        self.decoder = nn.Sequential(*decoder, nn.LeakyReLU(_SLOPE), _double(32, channels))
        self._draw(kernel[0] * kernel[1])

    def _draw(self, taps: int) -> None:
        """He initialisation, with the gain of a leaky ReLU where one follows and none where nothing does."""
        he_init(self)
        leaky = 1 / math.sqrt(1 + _SLOPE**2)
        with torch.no_grad():
            for weight in (p for p in self.parameters() if p.ndim > 1):
                weight.mul_(leaky)
            for layer in (self.mean, self.decoder[-1]):
                next(layer.parameters()).mul_(math.sqrt(0.5) / leaky)
            # The code is a map of one pixel: a single tap of its kernel reaches each pixel of the next.
            next(self.decoder[1].parameters()).mul_(math.sqrt(taps))


class PointMass(nn.Module):
    """The log variance of a code without spread: hidden (B, ...) -> (B, D), a constant."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, hidden: Tensor) -> Tensor:
        """The constant log variance (B, D)."""
        return hidden.new_full((hidden.shape[0], self.latent_dim), _POINT)


def _same(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 3, padding=1)


def _double(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
