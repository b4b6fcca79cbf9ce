"""Models of others as models that can be explained: `adapt(model)` gives any of them encode(images) -> (mean, logvar).

vae = adapt(AutoencoderKL.from_pretrained("..."), pooled=True)
maps = LatentAttention(vae)(images)

The model itself is not changed. Needs torch alone: whose model it is, is told from its class, and no package is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from vaelens.adapters import diffusers, monai, plain, pythae
from vaelens.adapters.adapted import AdaptedVAE
from vaelens.adapters.contents import Key
from vaelens.adapters.entrance import Entrance, named
from vaelens.adapters.inputs import Inputs
from vaelens.adapters.returned import Reading
from vaelens.adapters.spatial import Spatial
from vaelens.errors import UsageError

__all__ = ["FAMILIES", "AdaptedVAE", "Entrance", "adapt"]

# Asked in turn: each gives the way into a model of its kind, and None for others. A kind more is a file and a line here.
FAMILIES: tuple[Callable[[nn.Module], Entrance | None], ...] = (
    pythae.entrance,
    diffusers.entrance,
    monai.entrance,
    plain.entrance,
)


def adapt(
    model: nn.Module,
    *,
    encode: str | Callable[[Tensor], Any] | None = None,
    heads: tuple[str, str] | None = None,
    mean: Key | None = None,
    logvar: Key | None = None,
    std: Key | None = None,
    variance: Key | None = None,
    log_std: Key | None = None,
    deterministic: bool = False,
    pooled: bool = False,
    channel: int | None = None,
    position: Sequence[int] | None = None,
    flatten: bool = False,
    input_range: Sequence[float] | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> AdaptedVAE:
    """Give a model of any make encode(images) -> (mean, logvar), each (B, D), which is all that `LatentAttention` asks for.

    Known are VAEs of pythae, diffusers' `AutoencoderKL` and MONAI's `VarAutoEncoder` and `AutoencoderKL`. Of all others the
    method `encode`, or else the module `encoder`, or the only part that has one of them, or the model itself is called, and
    what it returns is read by its names: two tensors are mean and log variance; a dict, dataclass, named tuple or
    distribution has them under the names that the field has for them. What cannot be told apart is asked for and never
    guessed: the message of the error says what was returned and which argument decides.

    Args:
        model: it is kept as it is, in the mode that it is in.
        encode: what takes the images: dotted name of a method or module of the model, or a function of the images.
        heads: dotted names of the two modules that make mean and log variance of the encoder's one output.
        mean: where the posterior mean is in what is returned: a key, an attribute ("latent_dist.mean"), an index, a slice of
            the one tensor's columns such as slice(0, 10), or a tuple of these, one within the other.
        logvar: where the log variance is; or else `std`, `variance` or `log_std`, where the spread is given as one of those.
        deterministic: the model has a code and no posterior: its log variance is taken to be minus infinity.
        pooled: of a spatial posterior (B, C, h, w) the mean over positions: C latents, each as Gaussian as its positions are.
        channel: of a spatial posterior this channel: h * w latents; one with `pooled` or `position`.
        position: of a spatial posterior this (row, column): C latents.
        flatten: of a spatial posterior every number is a latent: C * h * w.
        input_range: (low, high) that the model takes, where images are given in [0, 1]; such as (-1, 1).
        normalize: mean and standard deviation of each channel by which images in [0, 1] are to be standardized.

    Raises:
        UsageError: no encoder, quantised latents, or arguments that contradict one another. What only shows when images are
            encoded, such as a tuple of three tensors, is said then.
    """
    if isinstance(model, AdaptedVAE):
        raise UsageError("the model is adapted already; adapt the model in it, which is its `.model`")
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    model = _unwrapped(model)
    found = named(model, encode) if encode is not None else next(filter(None, (family(model) for family in FAMILIES)))
    given = {"logvar": logvar, "std": std, "variance": variance, "log_std": log_std}
    reading = Reading.asked(found, mean, given, heads, deterministic)
    return AdaptedVAE(
        model, found, reading, Spatial.asked(pooled, channel, position, flatten), Inputs.asked(input_range, normalize)
    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model that was compiled or is spread over devices: compiled code calls no hooks, and a copy sees part of a batch."""
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner
