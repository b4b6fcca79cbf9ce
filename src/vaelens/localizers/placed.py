"""A localizer whose network is on an accelerator, for images and results that are in main memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from vaelens.attention import PosteriorMaps
from vaelens.localizers.base import Localization, Localizer


class Placed(Localizer):
    """Another localizer, to which images are carried over, and from which results are carried back.

    Everything else is the other localizer's: its name, its options, what it keeps.

    Args:
        of: the localizer; its network is on `device`.
        device: such as "cuda".
    """

    def __init__(self, of: Localizer, device: torch.device) -> None:
        self.of = of
        self.device = device

    def fit(self, normal: Tensor) -> Self:
        self.of.progress = self.progress
        self.of.fit(normal.to(self.device))
        return self

    def state(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.of.state().items()}

    def restore(self, normal: Tensor, state: Mapping[str, Tensor]) -> Self:
        self.of.progress = self.progress
        self.of.restore(normal.to(self.device), {name: value.to(self.device) for name, value in state.items()})
        return self

    def localize(self, images: Tensor) -> Localization:
        found = self.of.localize(images.to(self.device))
        posterior = None if found.posterior is None else (found.posterior[0].cpu(), found.posterior[1].cpu())
        return Localization(found.maps.cpu(), found.score.cpu(), posterior)

    def posterior(self, images: Tensor) -> PosteriorMaps:
        return self.of.posterior(images.to(self.device)).cpu()

    def __getattr__(self, name: str) -> Any:
        if name == "of":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.of, name)
