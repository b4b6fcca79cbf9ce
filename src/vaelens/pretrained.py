"""Runs and networks saved for others, pushed to the Hugging Face hub and loaded from there, by the names that its users know.

What these do is in `vaelens.shared`, which imports huggingface_hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch

if TYPE_CHECKING:
    from vaelens.shared import Shared


class Pretrained:
    """What makes a model one that can be shared."""

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None, overwrite: bool = True) -> Path:
        """Save it with a model card (README.md) into a folder that `from_pretrained` opens.

        A network's holds its weights and no images. A run's holds its normal images, and the card says so, how it was trained
        and what it came to; the path of the data set's files stays behind. A further save replaces the files of the last.

        Args:
            save_directory: folder to make.
            license: of the weights, for the card, such as "apache-2.0"; None: not stated.
            overwrite: whether what an earlier save wrote there may be replaced; anything else is left alone.

        Returns:
            The folder.

        Raises:
            UsageError: the folder holds something else, a licence that is no line of text, or a network that `build` does not
                know.
            OutputError: it cannot be written.
        """
        from vaelens.shared import save

        return save(self._shared(), self, save_directory, license, overwrite)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load it from its folder, or from the Hugging Face hub, where it is fetched into the cache.

        Of `ConvVAE` whichever network is there, in eval mode, of one of its classes that one; of a shared run the run's.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a model on the hub, "user/name".
            revision: a branch, tag or commit; None for the latest of the main branch.
            token: for a private model; None for the one that is logged in with.
            cache_dir: another cache than the hub's own.
            force_download: fetch once more what is in the cache.
            local_files_only: look into the cache alone, without network.
            device: where the network is to work.

        Raises:
            UsageError: neither a folder nor a name.
            RunError: there is no such model or revision, it may not be read, the hub cannot be reached, or what is there is
                another's, another network, damaged or incomplete.
        """
        from vaelens.shared import load

        found = load(
            cls._shared(),
            pretrained_model_name_or_path,
            lambda folder: cls._opened(folder, device),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        return cast("Self", found)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        license: str | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
    ) -> str:
        """Upload it with its card to the Hugging Face hub; private unless you say otherwise.

        Args:
            repo_id: "user/name"; made where it is not there.
            private: whether only you may read it. A repository that is there and public is then refused.
            license: of the weights, for the card, such as "apache-2.0"; None: not stated.
            token: that may write there; None for the one that is logged in with.
            branch: None for the main one.
            create_pr: propose the upload and do not make it.
            commit_message: None: the version of vaelens.

        Returns:
            The address of the commit.

        Raises:
            UsageError: no name, a public repository where it is to be private, a licence that is no line of text, or a network
                that `build` does not know.
            RunError: the hub cannot be reached, or does not take it.
        """
        from vaelens.shared import push

        return push(
            self._shared(),
            self,
            repo_id,
            private=private,
            licence=license,
            commit_message=commit_message,
            token=token,
            branch=branch,
            create_pr=create_pr,
        )

    @classmethod
    def _shared(cls) -> type[Shared]:
        """How the hub sees it; imports huggingface_hub."""
        raise NotImplementedError

    @classmethod
    def _opened(cls, folder: str, device: torch.device | str) -> Any:
        """The one in a folder."""
        raise NotImplementedError
