"""MONAI's `VarAutoEncoder`, whose `encode` is but a part of its encoder, and its `AutoencoderKL`, which returns mean and
standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vaelens.adapters.entrance import Entrance, image_shape, is_of, refuse_quantised


def entrance(model: nn.Module) -> Entrance | None:
    """The way into an autoencoder of MONAI; None for others.

    Raises:
        UsageError: quantised latents.
    """
    if not is_of(model, "monai"):
        return None
    refuse_quantised(model)
    kind = type(model).__name__
    forward: Callable[..., Any] | None = getattr(model, "encode_forward", None)
    if callable(forward):
        return Entrance(
            name=f"{kind}.encode_forward",
            encode=forward,
            owner=model,
            mean=0,
            spread=("logvar", 1),
            decode=model.decode_forward,  # type: ignore[arg-type]
            input_shape=image_shape(getattr(model, "in_channels", None), *getattr(model, "in_shape", ())),
        )
    if callable(getattr(model, "encode", None)) and hasattr(model, "quant_conv_log_sigma"):
        return Entrance(
            name=f"{kind}.encode",
            encode=model.encode,  # type: ignore[arg-type]
            owner=model,
            mean=0,
            spread=("std", 1),
            decode=model.decode,  # type: ignore[arg-type]
            layer=_before_last(model),
        )
    return None


def _before_last(model: nn.Module) -> str | None:
    """The last layer but one of the encoder: behind it lie but convolutions to the posterior, whose output explains itself."""
    blocks = getattr(getattr(model, "encoder", None), "blocks", None)
    return f"encoder.blocks.{len(blocks) - 2}" if isinstance(blocks, nn.ModuleList) and len(blocks) > 1 else None
