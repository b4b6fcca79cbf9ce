"""The paper's four networks, one file per supplementary table.

model = build("mnist", latent_dim=32)
mean, logvar = model.encode(images)      # (B, 32) each
images = model.decode(mean)              # (B, 1, 28, 28), values in [0, 1]
"""

from __future__ import annotations

from collections.abc import Sequence

from vaelens.errors import unknown
from vaelens.models.base import ConvVAE, he_init
from vaelens.models.dsprites import DspritesVAE
from vaelens.models.mnist import MnistVAE
from vaelens.models.mvtec import MvtecVAE
from vaelens.models.ucsd import UcsdVAE

__all__ = ["NETWORKS", "ConvVAE", "DspritesVAE", "MnistVAE", "MvtecVAE", "UcsdVAE", "build", "he_init"]

NETWORKS: dict[str, type[ConvVAE]] = {
    "mnist": MnistVAE,
    "ucsd": UcsdVAE,
    "mvtec": MvtecVAE,
    "dsprites": DspritesVAE,
}


def build(network: str, latent_dim: int = 32, input_shape: Sequence[int] | None = None) -> ConvVAE:
    """Build one of the paper's networks with He initialisation (from torch's global generator).

    Args:
        network: "mnist", "ucsd", "mvtec" or "dsprites" (supplementary Tables 1 to 4).
        latent_dim: number of latents D.
        input_shape: (C, H, W); the table's where None.

    Raises:
        UsageError: an unknown network, a number of latents below 1, or a shape that its strides do not allow.
    """
    if not isinstance(network, str) or network not in NETWORKS:
        raise unknown("network", network, NETWORKS)
    kwargs = {} if input_shape is None else {"input_shape": input_shape}
    return NETWORKS[network](latent_dim=latent_dim, **kwargs)  # type: ignore[arg-type]
