"""A run as a model that can be shared: saved with a card, pushed to the Hugging Face hub, and loaded from there.

By huggingface_hub's mixin, whose import `Run` leaves to whoever shares: `HubRun` is the run as the mixin sees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin

from vaelens._version import __version__
from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError
from vaelens.hub import asking, check_private, fetched, is_folder
from vaelens.output import result_folder, write_bytes, write_text, writing
from vaelens.runs.card import EVALUATION, TEMPLATE, evaluations, held, tags_of, text_of
from vaelens.runs.config import CONFIG
from vaelens.runs.folder import CALIBRATION, METRICS, MODEL, report_of, save_run
from vaelens.runs.known import KnownRun
from vaelens.runs.localizers import FOLDER

CARD, ARCHITECTURE = "README.md", "config.json"
_REPORTS = tuple(f"{report_of(Path(), synthetic)}/{EVALUATION}" for synthetic in (False, True))
FILES = (CONFIG, ARCHITECTURE, MODEL, CALIBRATION, METRICS, f"{FOLDER}/*.safetensors", *_REPORTS, CARD)
KIND = "share"


class HubRun(ModelHubMixin, library_name="vaelens", model_card_template=TEMPLATE):  # type: ignore[misc, call-arg]
    """A run with what the hub's mixin asks of a model.

    Args:
        run: which.
        name: where it will be found, for the card.
        licence: of the weights, such as "apache-2.0"; None: not stated.
    """

    def __init__(self, run: KnownRun, name: str, licence: str | None = None) -> None:
        self.run = run
        self.name = name
        self.licence = licence

    def _save_pretrained(self, save_directory: Path) -> None:
        run = self.run
        run.shareable().save(save_directory)
        save_run(save_directory, run.model, run.tensors, run.metrics)
        for kept in sorted((run.path / FOLDER).glob("*.safetensors")):
            with writing(save_directory / FOLDER):
                (save_directory / FOLDER).mkdir(exist_ok=True)
            write_bytes(save_directory / FOLDER / kept.name, _read(kept))
        for synthetic, values in evaluations(run.path).items():
            place = save_directory / report_of(Path(), synthetic)
            with writing(place):
                place.mkdir(exist_ok=True)
            write_text(place / EVALUATION, json.dumps(values, indent=2) + "\n")
        network = {**run.config.network, "input_shape": list(run.input_shape)}
        about = {"library_name": "vaelens", "vaelens": __version__, "objective": run.config.objective, "network": network}
        write_text(save_directory / ARCHITECTURE, json.dumps(about, indent=2) + "\n")

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
        opened: Callable[[str], KnownRun],
        **of_config: Any,
    ) -> HubRun:
        return cls(opened(model_id), Path(model_id).name)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card with the run's data, figures and limits (see `runs.card`)."""
        dataset = self.run.config.dataset["name"]
        data = ModelCardData(
            library_name="vaelens",
            tags=[*tags_of(self.run), *(self._hub_mixin_info.model_card_data.tags or [])],
            license=self.licence,
            datasets=None if dataset == "folder" else [dataset],
        )
        text = text_of(self.run, self.name, self.licence)
        return ModelCard.from_template(card_data=data, template_str=TEMPLATE, text=text)


def save(run: KnownRun, folder: str | Path, licence: str | None, overwrite: bool) -> Path:
    """See `Run.save_pretrained`."""
    out = Path(folder)
    with result_folder(out, KIND, overwrite) as staged:
        HubRun(run, out.name, licence).save_pretrained(staged)
    return out


def load(
    name: str | Path,
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
    opened: Callable[[str], KnownRun],
) -> KnownRun:
    """See `Run.from_pretrained`; `opened` gives the run of a folder."""
    if is_folder(name):
        return opened(str(name))
    repo = str(name)
    options = {"force_download": force_download, "local_files_only": local_files_only}
    folder = fetched(repo, FILES, revision=revision, token=token, cache_dir=cache_dir, **options)
    with asking(repo, revision):
        try:
            shared: HubRun = HubRun.from_pretrained(folder, opened=opened)
        except RunError as error:
            why = str(error).replace(shown(folder), repo).split("; ")[0]
            raise RunError(f"{repo} on the hub holds no run that can be loaded: {why}") from error
    return shared.run


def push(
    run: KnownRun,
    repo: str,
    *,
    images: bool,
    private: bool,
    licence: str | None,
    token: str | None,
    branch: str | None,
    create_pr: bool,
    commit_message: str | None,
) -> str:
    """See `Run.push_to_hub`."""
    if not images:
        raise UsageError(
            f"a run holds images: {held(run)} would be uploaded with it; pass images=True (--images) if they may be, or share "
            "it as a folder with save_pretrained (--out)"
        )
    with asking(repo, branch, pushing=True):
        api = HfApi(token=token)
        whole = api.create_repo(repo, private=private, exist_ok=True, repo_type="model").repo_id
        if private:
            check_private(api, whole)
        return str(
            HubRun(run, whole, licence).push_to_hub(
                whole,
                commit_message=commit_message or f"A run of vaelens {__version__}",
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
            )
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {shown(path)} ({error.strerror}); mend it, or remove it") from error
