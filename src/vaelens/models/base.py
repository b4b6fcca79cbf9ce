"""What the four networks share: an encoder that ends in two linear heads, a decoder, and the sizes that fit through them."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError, whole
from vaelens.models.pretrained import PretrainedNetwork

ImageShape = tuple[int, int, int]


class ConvVAE(PretrainedNetwork, nn.Module):
    """A convolutional variational autoencoder.

    Subclasses set `encoder` (images (B, C, H, W) -> hidden (B, J)), the heads `mean` and `logvar` (hidden -> (B, D)) and
    `decoder` (latents (B, D) -> logits (B, C, H, W)).

    Attributes:
        input_shape: (C, H, W) that the network was built for.
        latent_dim: D, the number of latents.
    """

    encoder: nn.Module
    mean: nn.Module
    logvar: nn.Module
    decoder: nn.Module

    def __init__(self, input_shape: ImageShape, latent_dim: int) -> None:
        super().__init__()
        self.input_shape: ImageShape = input_shape
        self.latent_dim = whole("latent_dim", latent_dim)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of `images` (B, C, H, W), values in [0, 1]: mean and log variance, each (B, D).

        Raises:
            UsageError: the images are not of the shape that the network was built for.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape:
            raise UsageError(
                f"this network takes images (B, {', '.join(map(str, self.input_shape))}), got {tuple(images.shape)}"
            )
        hidden = self.encoder(images)
        return self.mean(hidden).flatten(1), self.logvar(hidden).flatten(1)

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Latents (B, D) -> the decoder's output before the sigmoid (B, C, H, W): what a Bernoulli loss takes."""
        return self.decoder(latents)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, D) -> images (B, C, H, W), values in [0, 1]."""
        return torch.sigmoid(self.decode_logits(latents))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) -> reconstruction of the posterior mean (B, C, H, W), mean and log variance (B, D)."""
        mean, logvar = self.encode(images)
        return self.decode(mean), mean, logvar


def check_input_shape(network: str, input_shape: Sequence[int], multiple: int, least: int = 0) -> ImageShape:
    """Return `input_shape` as (C, H, W) if the network's strides allow it.

    Raises:
        UsageError: other than one or three channels, or a side that is not a multiple of `multiple` or below
            `least`; the message names the nearest sizes that work.
    """
    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3:
        raise UsageError(f"input_shape of network '{network}' is (channels, height, width), got {input_shape!r}")
    names = ("channels", "height", "width")
    channels, height, width = (whole(name, n, least=0) for name, n in zip(names, input_shape, strict=True))
    if channels not in (1, 3):
        raise UsageError(f"network '{network}' takes one or three channels, got {channels}")
    least = max(least, multiple)
    for side, size in (("height", height), ("width", width)):
        if size < least or size % multiple:
            below = max(size // multiple * multiple, least)
            near = (below, below + multiple)
            raise UsageError(
                f"network '{network}' takes a height and width that are multiples of {multiple}, from {least} on "
                f"(for instance {' or '.join(map(str, near))}), got {side} {size}"
            )
    return channels, height, width


def he_init(module: nn.Module) -> None:
    """He initialisation (fan in, ReLU) of every linear and convolution weight below `module`, zero biases.

    PyTorch's default shrinks the signal in networks of more than three strided convolutions, and the posterior collapses:
    on UCSD Ped2 none of 32 latents stayed active with it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            fan_in: float = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                # Weight is (in, out, kh, kw), and with stride s only k/s taps of the kernel reach any one output.
                taps = math.prod(k / s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
                fan_in = layer.in_channels * max(taps, 1.0)
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def conv_encoder(channels: Sequence[int], flat: int, hidden: int) -> nn.Sequential:
    """Convolutions as `conv_relu` has them, then flatten, linear (`flat` to `hidden`) and ReLU, by those names."""
    head = [("flatten", nn.Flatten()), ("linear", nn.Linear(flat, hidden)), ("relu", nn.ReLU())]
    return nn.Sequential(OrderedDict([*conv_relu(channels), *head]))


def conv_relu(channels: Sequence[int]) -> list[tuple[str, nn.Module]]:
    """Named pairs (conv1, relu1), ... of 4x4 convolutions with stride 2 and padding 1; each halves the side, rounding down."""
    layers: list[tuple[str, nn.Module]] = []
    for number, (before, after) in enumerate(itertools.pairwise(channels), start=1):
        layers.append((f"conv{number}", nn.Conv2d(before, after, 4, stride=2, padding=1)))
        layers.append((f"relu{number}", nn.ReLU()))
    return layers
