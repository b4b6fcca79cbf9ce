"""A network as the Hugging Face hub sees it (see `vaelens.shared`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensors_to_bytes

from vaelens._version import __version__
from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError, brief
from vaelens.models.registry import NETWORKS, KnownNetwork
from vaelens.models.stored import gist, with_weights
from vaelens.output import write_bytes, write_json
from vaelens.shared import Shared

CONFIG, MODEL = "config.json", "model.safetensors"
TEMPLATE = """---
{{ card_data }}
---

# Network `{{ network }}`

A network of vaelens {{ version }} with {{ latents }} latents for images (C, H, W) = {{ shape }}, values in [0, 1]. It holds
weights alone: no images, no thresholds, and no word on what it was trained on beyond what its publisher adds here.

    from vaelens.models import ConvVAE

    model = ConvVAE.from_pretrained({{ name }})

The weights are safetensors, the rest is JSON; nothing is unpickled or executed. The licence of the weights is
{{ licence }}.
"""


class SharedNetwork(Shared, model_card_template=TEMPLATE):  # type: ignore[call-arg]
    """A network with what the hub's mixin asks of a model.

    Raises:
        UsageError: it is not one that `build` knows.
    """

    what = "network"
    files = (CONFIG, MODEL)

    def __init__(self, model: KnownNetwork, name: str, licence: str | None = None) -> None:
        super().__init__(model, name, licence)
        self.network = described(model)

    def _save_pretrained(self, save_directory: Path) -> None:
        about = {"library_name": "vaelens", "vaelens": __version__, "network": self.network}
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.model.state_dict().items()}
        write_bytes(save_directory / MODEL, tensors_to_bytes(weights))
        write_json(save_directory / CONFIG, about)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, which says what the files hold and what they do not."""
        return ModelCard.from_template(
            card_data=self.card_data(["vaelens", "variational-autoencoder"]),
            template_str=TEMPLATE,
            network=self.network["name"],
            version=__version__,
            latents=self.network["latent_dim"],
            shape=tuple(self.network["input_shape"]),
            name=json.dumps(self.name),
            licence=self.licence or "not stated",
        )


def described(model: KnownNetwork) -> dict[str, Any]:
    """What `build` takes to make such a network.

    Raises:
        UsageError: it knows none such.
    """
    for name, kind in NETWORKS.items():
        if type(model) is kind:
            return {"name": name, "latent_dim": model.latent_dim, "input_shape": list(model.input_shape)}
    raise UsageError(
        f"{type(model).__name__} is not one of this library's networks ({', '.join(NETWORKS)}); save its state_dict, and share "
        "its code"
    )


def read(folder: Path) -> KnownNetwork:
    """The network of a folder.

    Raises:
        RunError: a file is missing, damaged or another's.
    """
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            raise RunError(
                f"{shown(folder)} is no network of vaelens: it has no {name}; name a folder that save_pretrained made"
            )
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        network = about["network"]
        name, latents, shape = network["name"], network["latent_dim"], network["input_shape"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{shown(folder / CONFIG)} is not of a network of vaelens ({brief(str(error))})") from error
    try:
        found: KnownNetwork = with_weights(name, latents, shape, read_tensors((folder / MODEL).read_bytes()))
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise RunError(f"{shown(folder / MODEL)} is damaged, or does not fit {CONFIG} ({gist(error)})") from error
    return found
