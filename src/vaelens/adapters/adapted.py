"""A model of another make behind the one method that attention asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vaelens.adapters.entrance import Entrance, takes_one
from vaelens.adapters.inputs import Inputs
from vaelens.adapters.returned import Reading
from vaelens.adapters.spatial import Spatial
from vaelens.errors import UsageError


class AdaptedVAE(nn.Module):
    """What `adapt` gives: the model itself, unchanged, and how its posterior is had.

    Modules go by the names that they have in the model: `LatentAttention(adapt(vae), "encoder.conv1")`.

    Attributes:
        model: the model.
        input_shape: (C, H, W) of its images, where the model says so; else None.
        explained_layer: the layer to explain unless another is asked for; None: the last feature map.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, entrance: Entrance, reading: Reading, spatial: Spatial, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.training = _trains(model)
        self.input_shape = entrance.input_shape
        self.explained_layer = entrance.layer
        self.encoder_name = entrance.name
        self._entrance = entrance
        self._reading = reading
        self._spatial = spatial
        self._inputs = inputs

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of `images` (B, C, H, W): mean and log variance, each (B, D).

        Raises:
            UsageError: what the encoder returns does not say which is which, or where a latent is.
        """
        before = self._random_state(images)
        try:
            returned = self._entrance.encode(self._inputs(images))
        except TypeError as error:
            if takes_one(self._entrance.encode):
                raise
            raise UsageError(
                f"{self._entrance.name} takes more than images ({error}); give adapt a function of the images: "
                "adapt(model, encode=lambda images: model.encode(images, ...)), of any number of them"
            ) from error
        after = None if before is None else self._random_state(images)
        drew = None if before is None or after is None else not torch.equal(before, after)
        mean, logvar = self._reading(returned, drew)
        return self._spatial(self._entrance.name, mean, logvar)

    def _random_state(self, images: Tensor) -> Tensor | None:
        """That of the generator on the images' device; None where it tells nothing: dropout draws in training, too."""
        if self._reading.settled or torch.compiler.is_compiling() or any(_trains(module) for module in self.modules()):
            return None
        if any(is_lazy(parameter) for parameter in self.parameters()):  # which is drawn by the first call
            return None
        return torch.cuda.get_rng_state(images.device) if images.is_cuda else torch.get_rng_state()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, D) -> the decoder's images (B, C, H, W), in the range in which images are given.

        Raises:
            UsageError: the model has no decoder that is known, or the latents are a choice among those of a posterior with
                places, which alone cannot be decoded.
        """
        if self._entrance.decode is None:
            raise UsageError(f"of {type(self.model).__name__} no decoder is known; use the model's own")
        if self._spatial != Spatial():
            raise UsageError("these latents are chosen from a posterior with places and cannot be decoded by themselves")
        return self._inputs.undone(self._entrance.decode(latents))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `encode`."""
        return self.encode(images)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """The model's modules, by the names that they have there."""
        yield from self.model.named_modules(memo, prefix, remove_duplicate)

    def get_submodule(self, target: str) -> nn.Module:
        """A module by the name that it has in the model."""
        return self.model.get_submodule(target)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the model."""
        return self.model.load_state_dict(*args, **kwargs)

    def __repr__(self) -> str:
        return f"AdaptedVAE({self._entrance.name})"


def _trains(module: nn.Module) -> bool:
    return getattr(module, "training", False)  # one that torch.jit froze has no mode
