"""How a run is saved for others, pushed to the Hugging Face hub and loaded from there, by the names that the hub's users know.

What these do is in `runs.share`, which imports huggingface_hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self, cast

import torch

from vaelens.runs.known import KnownRun


class Pretrained:
    """What makes a run a model that can be shared."""

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None, overwrite: bool = True) -> Path:
        """Save the run with a model card (README.md) into a folder that `load_run` and `from_pretrained` open.

        It holds the run's normal images; the card says so, and how it was trained and what it came to. The path of the data
        set's files stays behind. A further save replaces the files of the last.

        Args:
            save_directory: folder to make.
            license: of the weights, for the card, such as "apache-2.0"; None: not stated.
            overwrite: whether what an earlier save wrote there may be replaced; anything else is left alone.

        Returns:
            The folder.

        Raises:
            UsageError: the folder holds something else.
            OutputError: it cannot be written.
        """
        from vaelens.runs.share import save  # imports huggingface_hub

        return save(cast("KnownRun", self), save_directory, license, overwrite)

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
        """Load a run from its folder, or from the Hugging Face hub, where it is fetched into the cache.

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
            RunError: there is no such model or revision, it may not be read, the hub cannot be reached, or what is there is no
                run, damaged or incomplete.
        """
        from vaelens.runs.share import load

        found = load(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            opened=lambda folder: cast("KnownRun", cls._opened(folder, device)),
        )
        return cast("Self", found)

    @classmethod
    def _opened(cls, folder: str, device: torch.device | str) -> Self:
        """The run in a folder."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        images: bool = False,
        private: bool = True,
        license: str | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
    ) -> str:
        """Upload the run with its card to the Hugging Face hub; private unless you say otherwise.

        A run holds normal images of its training data, without which it can localize nothing: uploading publishes them to
        whoever may read the repository, so that has to be said.

        Args:
            repo_id: "user/name"; made where it is not there.
            images: whether these images may be uploaded; nothing is without.
            private: whether only you may read it. A repository that is there and public is then refused.
            license: of the weights, for the card, such as "apache-2.0"; None: not stated.
            token: that may write there; None for the one that is logged in with.
            branch: None for the main one.
            create_pr: propose the upload and do not make it.
            commit_message: None: the version of vaelens.

        Returns:
            The address of the commit.

        Raises:
            UsageError: without `images`, no name, or a public repository where it is to be private.
            RunError: the hub cannot be reached, or does not take it.
        """
        from vaelens.runs.share import push

        return push(
            cast("KnownRun", self),
            repo_id,
            images=images,
            private=private,
            licence=license,
            token=token,
            branch=branch,
            create_pr=create_pr,
            commit_message=commit_message,
        )
