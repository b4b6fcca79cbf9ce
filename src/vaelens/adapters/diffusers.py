"""diffusers' `AutoencoderKL` and its kin: the posterior has places, (B, C, h, w), and `encode` returns it as `latent_dist`."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from vaelens.adapters.entrance import Entrance, is_of, refuse_quantised
from vaelens.errors import UsageError

_LAST = "encoder.conv_act"  # behind it lies but a convolution to mean and log variance, whose output would explain itself


def entrance(model: nn.Module) -> Entrance | None:
    """The way into an autoencoder of diffusers; None for others.

    Raises:
        UsageError: quantised latents.
    """
    if not is_of(model, "diffusers") or not callable(getattr(model, "encode", None)):
        return None
    refuse_quantised(model)

    names = {name for name, _ in model.named_modules()}
    return Entrance(
        name=f"{type(model).__name__}.encode",
        encode=partial(_encode, model),
        owner=model,
        decode=partial(_decode, model),
        layer=_LAST if _LAST in names else None,
    )


def _encode(model: nn.Module, images: Tensor) -> Any:
    _check_whole(model, images)
    return model.encode(images)  # type: ignore[operator]


def _decode(model: nn.Module, latents: Tensor) -> Tensor:
    return model.decode(latents).sample  # type: ignore[no-any-return,operator]


def _check_whole(model: nn.Module, images: Tensor) -> None:
    """Raise UsageError where images go through the encoder in pieces, of which each layer sees one at a time."""
    tile = getattr(model, "tile_sample_min_size", None)
    if getattr(model, "use_tiling", False) and isinstance(tile, int) and max(images.shape[-2:]) > tile:
        raise UsageError(
            f"{type(model).__name__} encodes images above {tile} pixels in tiles, of which no layer has one map; "
            "call its disable_tiling()"
        )
    if getattr(model, "use_slicing", False) and len(images) > 1:
        raise UsageError(f"{type(model).__name__} encodes a batch image by image; call its disable_slicing()")
