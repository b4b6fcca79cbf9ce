"""A model as huggingface_hub's mixin sees it: saved into a folder with a card, pushed to the hub, loaded from either.

huggingface_hub is imported here, and so by whoever shares alone (see `vaelens.pretrained`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin

from vaelens._version import __version__
from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError, brief
from vaelens.hub import asking, check_private, fetched, is_folder
from vaelens.output import result_folder

KIND = "share"


class Shared(ModelHubMixin, library_name="vaelens"):  # type: ignore[misc, call-arg]
    """A model with what the hub's mixin asks of one.

    Args:
        model: which.
        name: where it will be found, for the card.
        licence: of the weights, such as "apache-2.0"; None: not stated.

    Attributes:
        what: what it is, in a word.
        files: patterns of those that are fetched.

    Raises:
        UsageError: a licence that is no line of text.
    """

    what: ClassVar[str]
    files: ClassVar[Sequence[str]]

    def __init__(self, model: Any, name: str, licence: str | None = None) -> None:
        if licence is not None and not (isinstance(licence, str) and licence.strip() and licence.isprintable()):
            raise UsageError(
                f"a licence is one line such as apache-2.0, got {brief(licence)}; leave it out where it is not stated"
            )
        self.model = model
        self.name = name
        self.licence = licence

    @abstractmethod
    def _save_pretrained(self, save_directory: Path) -> None:
        """Write all files but the card."""

    @classmethod
    def _from_pretrained(cls, *, model_id: str, opened: Callable[[str], Any], **of_hub: Any) -> Shared:
        return cls(opened(model_id), Path(model_id).name)

    @abstractmethod
    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, which says what the files hold."""

    def card_data(self, tags: Sequence[str], datasets: list[str] | None = None) -> ModelCardData:
        """The card's metadata."""
        every = [*tags, *(self._hub_mixin_info.model_card_data.tags or [])]
        return ModelCardData(library_name="vaelens", tags=every, license=self.licence, datasets=datasets)


def save(kind: type[Shared], model: object, folder: str | Path, licence: str | None, overwrite: bool) -> Path:
    """See `Pretrained.save_pretrained`."""
    out = Path(folder)
    shared = kind(model, out.name, licence)  # refused before anything is written
    with result_folder(out, KIND, overwrite) as staged:
        shared.save_pretrained(staged)
    return out


def load(kind: type[Shared], name: str | Path, opened: Callable[[str], Any], **options: Any) -> Any:
    """See `Pretrained.from_pretrained`; `opened` gives the model of a folder, `options` are those of `fetched`."""
    if is_folder(name):
        return opened(str(name))
    repo = str(name)
    folder = fetched(repo, kind.files, **options)
    with asking(repo, options["revision"]):
        try:
            return kind.from_pretrained(folder, opened=opened).model
        except RunError as error:
            why = str(error).replace(shown(folder), repo).split("; ")[0]
            raise RunError(f"{repo} on the hub holds no {kind.what} that can be loaded: {why}") from error


def push(
    kind: type[Shared],
    model: object,
    repo: str,
    *,
    private: bool,
    licence: str | None,
    commit_message: str | None,
    token: str | None,
    **options: Any,
) -> str:
    """See `Pretrained.push_to_hub`; `options` go to the mixin as they are."""
    shared = kind(model, repo, licence)  # refused before anything is made
    with asking(repo, options["branch"], pushing=True):
        api = HfApi(token=token)
        shared.name = api.create_repo(repo, private=private, exist_ok=True, repo_type="model").repo_id
        if private:
            check_private(api, shared.name)
        message = commit_message or f"A {kind.what} of vaelens {__version__}"
        return str(shared.push_to_hub(shared.name, commit_message=message, private=private, token=token, **options))
