"""The way into a model: what takes its images, what it returns, and what is known of it beforehand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError

# Names of classes in the libraries and repositories that have them; torch's own FakeQuantize and QuantStub are others.
_QUANTISES = re.compile(
    r"Vector_?Quant|Quantizer|Codebook|Gumbel_?Quantize|^Quantize$|^VQ_?Emb|NearestEmbed|ResidualVQ|^(FSQ|LFQ)$"
)


@dataclass(frozen=True)
class Entrance:
    """What is known of a model before it has seen an image.

    Attributes:
        name: of what is called, for messages: "AutoencoderKL.encode".
        encode: images (B, C, H, W) -> what the model returns of them.
        owner: the module that has the encoder, among whose parts heads are looked for.
        mean: where the mean is in what is returned, where that is known; see `returned`.
        spread: how the spread is given ("logvar", "std", ...), and where; None: to be found.
        decode: latents (B, D), or (B, C, h, w) as they are returned, -> images; None: not known.
        input_shape: (C, H, W) that the model takes; None: not known.
        layer: whose feature map to explain unless another is asked for; None: the last.
    """

    name: str
    encode: Callable[[Tensor], Any]
    owner: nn.Module
    mean: Any = None
    spread: tuple[str, Any] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    input_shape: tuple[int, int, int] | None = None
    layer: str | None = None


def named(model: nn.Module, encode: str | Callable[[Tensor], Any]) -> Entrance:
    """The way that was asked for.

    Raises:
        UsageError: the model has nothing of that name that can be called.
    """
    kind = type(model).__name__
    if callable(encode):
        name = getattr(encode, "__name__", "encode")
        return Entrance("the function given as encode" if name == "<lambda>" else name, encode, model)
    if not isinstance(encode, str) or not encode:
        raise UsageError(f"encode is the dotted name of a method or module, or a function of the images, got {encode!r}")
    owner: Any = model
    found: Any = model
    for part in encode.split("."):
        owner, found = found, getattr(found, part, None)
        if found is None:
            names = ", ".join(name for name, _ in model.named_children()) or "none"
            raise UsageError(f"{kind} has no '{encode}'; its parts are: {names}")
    if not callable(found):
        raise UsageError(f"'{encode}' of {kind} is a {type(found).__name__} and cannot be called on images")
    return Entrance(f"{kind}.{encode}", found, owner if isinstance(owner, nn.Module) else model)


def refuse_quantised(model: nn.Module) -> None:
    """Raise UsageError where latents are entries of a codebook."""
    for name, module in model.named_modules():
        if _QUANTISES.search(type(module).__name__):
            raise UsageError(
                f"{type(model).__name__} quantises its latents ('{name}', {type(module).__name__}): they are entries of a "
                "codebook, without a mean or a variance whose gradient could be taken"
            )


def takes_one(encode: Callable[[Tensor], Any]) -> bool:
    """Whether it can be called with images alone, as far as its signature tells."""
    try:
        inspect.signature(encode.forward if isinstance(encode, nn.Module) else encode).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has none that Python could read
        return True
    return True


def is_of(model: nn.Module, package: str) -> bool:
    """Whether a class of the model is of a package; nothing is imported to find out."""
    return any(base.__module__.split(".")[0] == package for base in type(model).__mro__)


def image_shape(*sides: object) -> tuple[int, int, int] | None:
    """(C, H, W), where it is three whole numbers."""
    shape = tuple(int(side) for side in sides if isinstance(side, int | torch.SymInt) or hasattr(side, "__index__"))
    return (shape[0], shape[1], shape[2]) if len(shape) == len(sides) == 3 and min(shape) > 0 else None
