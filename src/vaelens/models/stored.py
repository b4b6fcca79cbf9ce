"""Networks from the weights of a file, without drawing first ones that would only be replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaelens.models.registry import LAYOUT, made


def with_weights(network: str, latent_dim: int, input_shape: Sequence[int], weights: Mapping[str, Tensor]) -> Any:
    """A network with these weights, in eval mode, without gradients and with the channels last.

    Raises:
        RuntimeError, ValueError, TypeError: they are another network's, of another type, or not finite.
    """
    with torch.device("meta"):
        model = made(network, latent_dim, input_shape)
    for name, weight in model.state_dict().items():
        if name in weights and (weights[name].dtype != weight.dtype or not weights[name].isfinite().all()):
            raise ValueError(f"{name} is {weights[name].dtype}, or not finite")
    model.load_state_dict(weights, assign=True)
    model.to(memory_format=LAYOUT)
    return model.eval().requires_grad_(False)


def gist(error: Exception) -> str:
    """What is wrong with weights, in one line: torch names it in the last."""
    return " ".join(str(error).split("\n\t")[-1].split())[:200]
