"""How a network is saved for others, pushed to the Hugging Face hub and loaded from there; see `vaelens.pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from vaelens.data.files import shown
from vaelens.errors import RunError
from vaelens.pretrained import Pretrained

if TYPE_CHECKING:
    from vaelens.models.share import SharedNetwork


class PretrainedNetwork(Pretrained):
    """What makes one of this library's networks a model that can be shared. It holds no images, unlike a run."""

    @classmethod
    def _shared(cls) -> type[SharedNetwork]:
        from vaelens.models.share import SharedNetwork

        return SharedNetwork

    @classmethod
    def _opened(cls, folder: str, device: torch.device | str) -> Any:
        from vaelens.models.share import read

        model: Any = read(Path(folder))
        if not isinstance(model, cls):
            raise RunError(
                f"{shown(folder)} holds a {type(model).__name__}, not a {cls.__name__}; load it by its own class, or ConvVAE"
            )
        return cast("Any", model).to(device)
