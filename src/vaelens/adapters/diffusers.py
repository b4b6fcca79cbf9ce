"""diffusers' `AutoencoderKL` and its kin: the posterior has places, (B, C, h, w), and `encode` returns it as `latent_dist`."""

from __future__ import annotations

from torch import Tensor, nn

from vaelens.adapters.entrance import Entrance, is_of, refuse_quantised

_LAST = "encoder.conv_act"  # behind it lies but a convolution to mean and log variance, whose output would explain itself


def entrance(model: nn.Module) -> Entrance | None:
    """The way into an autoencoder of diffusers; None for others.

    Raises:
        UsageError: quantised latents.
    """
    if not is_of(model, "diffusers") or not callable(getattr(model, "encode", None)):
        return None
    refuse_quantised(model)

    def decode(latents: Tensor) -> Tensor:
        return model.decode(latents).sample  # type: ignore[no-any-return,operator]

    names = {name for name, _ in model.named_modules()}
    return Entrance(
        name=f"{type(model).__name__}.encode",
        encode=model.encode,  # type: ignore[arg-type]
        owner=model,
        decode=decode,
        layer=_LAST if _LAST in names else None,
    )
