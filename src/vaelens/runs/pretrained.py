"""How a run is saved for others, pushed to the Hugging Face hub and loaded from there; see `vaelens.pretrained`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vaelens.errors import UsageError
from vaelens.pretrained import Pretrained
from vaelens.runs.known import KnownRun

if TYPE_CHECKING:
    from vaelens.runs.share import SharedRun


class PretrainedRun(Pretrained):
    """What makes a run a model that can be shared."""

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
            repo_id: see `Pretrained.push_to_hub`, as all others.
            images: whether these images may be uploaded; nothing is without.

        Raises:
            UsageError: without `images`.
        """
        if not images:
            from vaelens.runs.card import held

            raise UsageError(
                f"a run holds images: {held(cast('KnownRun', self))} would be uploaded with it; pass images=True (--images) if "
                "they may be, or share it as a folder with save_pretrained (--out)"
            )
        options = {"token": token, "branch": branch, "commit_message": commit_message}
        return super().push_to_hub(repo_id, private=private, license=license, create_pr=create_pr, **options)

    @classmethod
    def _shared(cls) -> type[SharedRun]:
        from vaelens.runs.share import SharedRun

        return SharedRun
