"""VAEs of pythae: the encoder returns its `embedding` and `log_covariance`."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from vaelens.adapters.entrance import Entrance, image_shape, is_of, refuse_quantised
from vaelens.errors import UsageError


def entrance(model: nn.Module) -> Entrance | None:
    """The way into a model of pythae; None for others.

    Raises:
        UsageError: quantised latents, or a flow, which has no encoder.
    """
    if not is_of(model, "pythae") or not hasattr(model, "model_name"):
        return None
    refuse_quantised(model)
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise UsageError(f"{type(model).__name__} of pythae has no encoder, so it has no latents of an image to explain")

    return Entrance(
        name=f"{type(model).__name__}.encoder",
        encode=encoder,
        owner=model,
        mean="embedding",
        decode=partial(_decode, model),
        input_shape=image_shape(*(getattr(model, "input_dim", None) or ())),
    )


def _decode(model: nn.Module, latents: Tensor) -> Tensor:
    return model.decoder(latents)["reconstruction"]  # type: ignore[no-any-return,operator]
