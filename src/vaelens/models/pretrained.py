"""How a network is saved for others, pushed to the Hugging Face hub and loaded from there, by the names that users know.

What these do is in `models.share`, which imports huggingface_hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self, cast

from vaelens.models.registry import KnownNetwork


class PretrainedNetwork:
    """What makes one of this library's networks a model that can be shared. It holds no images, unlike a run."""

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None, overwrite: bool = True) -> Path:
        """Save the weights (model.safetensors), what `build` needs (config.json) and a model card into a folder.

        Args:
            save_directory: folder to make.
            license: of the weights, for the card, such as "apache-2.0"; None: not stated.
            overwrite: whether what an earlier save wrote there may be replaced; anything else is left alone.

        Returns:
            The folder.

        Raises:
            UsageError: the folder holds something else, or the network is not one that `build` knows.
            OutputError: it cannot be written.
        """
        from vaelens.models.share import save  # imports huggingface_hub

        return save(cast("KnownNetwork", self), save_directory, license, overwrite)

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
    ) -> Self:
        """The network of a folder or of a model on the Hugging Face hub, in eval mode; of a shared run, the run's network.

        Of `ConvVAE` whichever network is there; of one of its classes that one.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a model on the hub, "user/name".
            revision: a branch, tag or commit; None for the latest of the main branch.
            token: for a private model; None for the one that is logged in with.
            cache_dir: another cache than the hub's own.
            force_download: fetch once more what is in the cache.
            local_files_only: look into the cache alone, without network.

        Raises:
            UsageError: neither a folder nor a name.
            RunError: there is no such model or revision, it may not be read, the hub cannot be reached, or what is there is no
                network of this library, another one, damaged or incomplete.
        """
        from vaelens.models.share import load

        found = load(
            pretrained_model_name_or_path,
            cls,
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
        """Upload the network with its card to the Hugging Face hub; private unless you say otherwise.

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
            UsageError: no name, a public repository where it is to be private, or a network that `build` does not know.
            RunError: the hub cannot be reached, or does not take it.
        """
        from vaelens.models.share import push

        return push(
            cast("KnownNetwork", self),
            repo_id,
            private=private,
            licence=license,
            token=token,
            branch=branch,
            create_pr=create_pr,
            commit_message=commit_message,
        )
