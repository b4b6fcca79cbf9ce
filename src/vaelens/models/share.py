"""A network as a model that can be shared, by huggingface_hub's mixin, whose import the networks leave to whoever shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensors_to_bytes

from vaelens._version import __version__
from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError, brief
from vaelens.hub import asking, check_private, fetched, is_folder
from vaelens.models.registry import NETWORKS, KnownNetwork
from vaelens.models.stored import gist, with_weights
from vaelens.output import result_folder, to_json, write_bytes, write_text

CONFIG, MODEL = "config.json", "model.safetensors"
KIND = "share"
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


class HubNetwork(ModelHubMixin, library_name="vaelens", model_card_template=TEMPLATE):  # type: ignore[misc, call-arg]
    """A network with what the hub's mixin asks of a model.

    Args:
        model: which.
        name: where it will be found, for the card.
        licence: of the weights; None: not stated.
    """

    def __init__(self, model: KnownNetwork, name: str, licence: str | None = None) -> None:
        self.model = model
        self.name = name
        self.licence = licence

    def _save_pretrained(self, save_directory: Path) -> None:
        about = {"library_name": "vaelens", "vaelens": __version__, "network": described(self.model)}
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.model.state_dict().items()}
        write_bytes(save_directory / MODEL, tensors_to_bytes(weights))
        write_text(save_directory / CONFIG, to_json(about) + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **of_config: Any,
    ) -> HubNetwork:
        return cls(read(Path(model_id)), Path(model_id).name)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, which says what the files hold and what they do not."""
        tags = ["vaelens", "variational-autoencoder", *(self._hub_mixin_info.model_card_data.tags or [])]
        network = described(self.model)
        return ModelCard.from_template(
            card_data=ModelCardData(library_name="vaelens", tags=tags, license=self.licence),
            template_str=TEMPLATE,
            network=network["name"],
            version=__version__,
            latents=network["latent_dim"],
            shape=tuple(network["input_shape"]),
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


def save(model: KnownNetwork, folder: str | Path, licence: str | None, overwrite: bool) -> Path:
    """See `PretrainedNetwork.save_pretrained`."""
    described(model)  # refused before anything is written
    out = Path(folder)
    with result_folder(out, KIND, overwrite) as staged:
        HubNetwork(model, out.name, licence).save_pretrained(staged)
    return out


def load(name: str | Path, kind: type, **options: Any) -> KnownNetwork:
    """See `PretrainedNetwork.from_pretrained`; `kind` is the class that it must be of."""
    if is_folder(name):
        model = read(Path(name))
    else:
        repo = str(name)
        folder = fetched(repo, (CONFIG, MODEL), **options)
        with asking(repo, options["revision"]):
            try:
                shared: HubNetwork = HubNetwork.from_pretrained(folder)
            except RunError as error:
                why = str(error).replace(shown(folder), repo)
                raise RunError(f"{repo} on the hub holds no network that can be loaded: {why}") from error
        model = shared.model
    if not isinstance(model, kind):
        raise RunError(
            f"{shown(name)} holds a {type(model).__name__}, not a {kind.__name__}; load it by its own class, or ConvVAE"
        )
    return model


def push(
    model: KnownNetwork,
    repo: str,
    *,
    private: bool,
    licence: str | None,
    token: str | None,
    branch: str | None,
    create_pr: bool,
    commit_message: str | None,
) -> str:
    """See `PretrainedNetwork.push_to_hub`."""
    described(model)
    with asking(repo, branch, pushing=True):
        api = HfApi(token=token)
        whole = api.create_repo(repo, private=private, exist_ok=True, repo_type="model").repo_id
        if private:
            check_private(api, whole)
        options = {"private": private, "token": token, "branch": branch, "create_pr": create_pr}
        message = commit_message or f"A network of vaelens {__version__}"
        return str(HubNetwork(model, whole, licence).push_to_hub(whole, commit_message=message, **options))
