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
    for path, part, encode in _ways(model):
        return Entrance(f"{kind}.{path}", encode, part, decode=_decode(part), input_shape=_shape(model, part))
    if any(callable(getattr(model, name, None)) for name in _DECODERS):
        raise UsageError(
            f"{kind} has a decoder and no encoder, so no image has latents to explain; if another part encodes, "
            "name it: adapt(model, encode=...)"
        )
    if getattr(model.forward, "__func__", None) is nn.Module.forward:
        deeper = [f"{name}.{its[0]}" for name, part in model.named_modules() if name and (its := _of(part)) is not None]
        ways = " or ".join(f"encode='{path}'" for path in deeper[:3]) or "encode=... (a function of the images)"
        raise UsageError(f"{kind} has no encode, no encoder and no forward; say what encodes: adapt(model, {ways})")
    return Entrance(kind, model, model, input_shape=_shape(model, model))


def _ways(model: nn.Module) -> list[tuple[str, nn.Module, Any]]:
    """The encoder of the model, or of the one part of it that has one: its dotted name, whose it is, and itself."""
    own = _of(model)
    if own is not None:
        return [(own[0], model, own[1])]
    parts = [(name, child, _of(child)) for name, child in model.named_children()]
    found = [(f"{name}.{its[0]}", child, its[1]) for name, child, its in parts if its is not None]
    if len(found) > 1:
        names = " or ".join(f"encode='{path}'" for path, _, _ in found)
        raise UsageError(f"{type(model).__name__} has several parts that encode; name one: adapt(model, {names})")
    return found


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
