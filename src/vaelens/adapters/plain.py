"""Models of one's own, Lightning modules among them: by what they call the way from an image to its posterior."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from vaelens.adapters.entrance import Entrance, image_shape, refuse_quantised
from vaelens.errors import UsageError

_DECODERS = ("decode", "decoder")


def entrance(model: nn.Module) -> Entrance:
    """By a method `encode`, a module `encoder`, the only part that has one of these, or the model itself.

    Raises:
        UsageError: quantised latents, a decoder alone, or several parts with an encoder.
    """
    refuse_quantised(model)
    kind = type(model).__name__
    for name, part in _candidates(model):
        found = _of(part)
        if found is not None:
            called, encode = found
            path = f"{name}.{called}" if name else called
            return Entrance(f"{kind}.{path}", encode, part, decode=_decode(part), input_shape=_shape(model, part))
    if any(callable(getattr(model, name, None)) for name in _DECODERS):
        raise UsageError(
            f"{kind} has a decoder and no encoder, so no image has latents to explain; if another part encodes, "
            "name it: adapt(model, encode=...)"
        )
    return Entrance(kind, model, model, input_shape=_shape(model, model))


def _candidates(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model, and the one part of it that has an encoder."""
    if _of(model) is not None:
        return [("", model)]
    parts = [(name, child) for name, child in model.named_children() if _of(child) is not None]
    if len(parts) > 1:
        names = " or ".join(f"encode='{name}.{_called(part)}'" for name, part in parts)
        raise UsageError(f"{type(model).__name__} has several parts that encode; name one: adapt(model, {names})")
    return parts


def _called(part: nn.Module) -> str:
    found = _of(part)
    return found[0] if found else ""


def _of(module: nn.Module) -> tuple[str, Any] | None:
    """What it calls its encoder, and that."""
    for name in ("encode", "encoder"):
        found = getattr(module, name, None)
        if callable(found) and not isinstance(found, type):
            return name, found
    return None


def _decode(module: nn.Module) -> Any:
    """What turns latents into images, where it has a name for it."""
    for name in _DECODERS:
        found = getattr(module, name, None)
        if callable(found):
            return partial(_image, found)  # a function of its own would stay with the first model when that is copied
    return None


def _image(decode: Any, latents: Tensor) -> Tensor:
    returned = decode(latents)
    if isinstance(returned, Tensor):
        return returned
    raise UsageError(f"the decoder returns a {type(returned).__name__} and not a tensor of images")


def _shape(*modules: nn.Module) -> tuple[int, int, int] | None:
    for module in modules:
        shape = getattr(module, "input_shape", None)
        if isinstance(shape, tuple | list):
            return image_shape(*shape)
    return None
