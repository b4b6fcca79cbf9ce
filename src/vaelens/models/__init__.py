"""The paper's four networks, one file per supplementary table, a small one of our own, and two that it compares with.

model = build("mnist", latent_dim=32)
mean, logvar = model.encode(images)      # (B, 32) each
images = model.decode(mean)              # (B, 1, 28, 28), values in [0, 1]
"""

from __future__ import annotations

from collections.abc import Sequence

from vaelens.models import registry
from vaelens.models.autoencoder import ConvAE
from vaelens.models.base import ConvVAE, he_init
from vaelens.models.compact import CompactVAE
from vaelens.models.dcgan import DCGAN
from vaelens.models.dsprites import DspritesVAE
from vaelens.models.mnist import MnistVAE
from vaelens.models.mvtec import MvtecVAE
from vaelens.models.registry import LAYOUT
from vaelens.models.ucsd import UcsdVAE

__all__ = [
    "DCGAN",
    "LAYOUT",
    "NETWORKS",
    "CompactVAE",
    "ConvAE",
    "ConvVAE",
    "DspritesVAE",
    "MnistVAE",
    "MvtecVAE",
    "UcsdVAE",
    "build",
    "he_init",
]

NETWORKS: dict[str, type[ConvVAE]] = registry.NETWORKS
NETWORKS |= {
    "mnist": MnistVAE,
    "ucsd": UcsdVAE,
    "mvtec": MvtecVAE,
    "dsprites": DspritesVAE,
    "compact": CompactVAE,
    "ae": ConvAE,
    "dcgan": DCGAN,
}


def build(network: str, latent_dim: int = 32, input_shape: Sequence[int] | None = None) -> ConvVAE:
    """Build a network with first weights from torch's global generator (He initialisation; DCGAN's own for "dcgan").

    Args:
        network: "mnist", "ucsd", "mvtec" or "dsprites" (supplementary Tables 1 to 4), "compact", "ae" or
            "dcgan" (see `models.autoencoder` and `models.dcgan`).
        latent_dim: number of latents D.
        input_shape: (C, H, W); the table's where None.

    Raises:
        UsageError: an unknown network, a number of latents below 1, or a shape that its strides do not allow.
    """
    model: ConvVAE = registry.made(network, latent_dim, input_shape)
    return model
