"""Models on the Hugging Face hub: fetched whole into its cache, and its errors as one line.

huggingface_hub is imported by the functions that need it; nothing that is fetched is unpickled or executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vaelens.data.files import shown
from vaelens.errors import RunError, UsageError, VaelensError, brief

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Of the libraries that huggingface_hub reaches the network by, which differ from version to version.
_UNREACHED = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError", "RemoteProtocolError")
_MENDS = "log in with 'hf auth login', or pass a token"


def is_folder(name: str | Path) -> bool:
    """Whether it names a folder of this machine, and not a model on the hub.

    Raises:
        UsageError: it is no name at all.
    """
    if not isinstance(name, str | Path):
        raise UsageError(f"a model is named by its folder, or by user/name on the hub, got {brief(name)}")
    return isinstance(name, Path) or os.path.isdir(name)  # noqa: PTH112 - Path.is_dir raises on a path that is too long


def fetched(
    repo: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The folder of the cache that has a model of the hub, downloaded if need be.

    Args:
        repo: such as "user/name".
        patterns: of the files to fetch.
        revision: a branch, tag or commit; None for the latest of the main branch.
        token: True for the one that is logged in with; None likewise, where there is one.
        cache_dir: another cache than the hub's own.
        force_download: fetch what is in the cache once more.
        local_files_only: look into the cache alone.

    Raises:
        UsageError: `repo` cannot be a name.
        RunError: there is no such model or revision, it may not be read, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with asking(repo, revision):
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
            )
        )


@contextmanager
def asking(repo: str, revision: str | None = None, pushing: bool = False) -> Iterator[None]:
    """Turn whatever huggingface_hub raises within the block into one line that names the model and how to mend it."""
    try:
        yield
    except VaelensError:
        raise
    except Exception as error:
        raise _told(error, shown(repo) if isinstance(repo, str) else brief(repo), revision, pushing) from error


def check_private(api: HfApi, repo: str) -> None:
    """Refuse a repository that everybody can read.

    Raises:
        UsageError: it says how to publish there all the same.
    """
    if not api.repo_info(repo, repo_type="model").private:
        raise UsageError(
            f"{shown(repo)} is a public repository, and what is pushed stays private unless you say otherwise; pass "
            "private=False (--public) to publish it there, or choose another name"
        )


def _told(error: Exception, name: str, revision: str | None, pushing: bool) -> VaelensError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        what = "" if pushing else "neither a folder nor "
        return UsageError(f"{name} is {what or 'not '}the name of a model on the hub, such as user/name")
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return RunError(f"the hub does not know who asks for {name}, or there is no such model: check the name, and {_MENDS}")
    if isinstance(error, errors.GatedRepoError):
        return RunError(f"{name} is gated: ask for access on its page on the hub, then {_MENDS}")
    if isinstance(error, errors.RevisionNotFoundError):
        return RunError(f"{name} has no revision {revision!r} on the hub; name a branch, tag or commit that it has")
    if status == 403:
        return RunError(f"the hub does not let you do that with {name}; use a token that may")
    no_folder = "" if pushing else f"there is no folder {name}, and "
    if isinstance(error, errors.RepositoryNotFoundError):
        return RunError(
            f"{no_folder}the hub has no model {name} that you may read; check the name, and if it is private, {_MENDS}"
        )
    offline = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError)
    if isinstance(error, offline) or type(error).__name__ in _UNREACHED:
        if pushing:
            return RunError(f"the hub cannot be reached to push {name}; connect to the network and try again")
        return RunError(
            f"{no_folder}the hub's cache has no whole copy of a model of that name, nor can the hub be reached; connect to the "
            "network, or name a folder"
        )
    lines = str(error).strip().splitlines() or [""]
    told = f"{type(error).__name__}: {' '.join(lines[0].split())[:200]}"
    if isinstance(error, ValueError | TypeError | AttributeError) and not pushing:
        return RunError(f"{name} on the hub holds no model that can be loaded ({told}); name another model or revision")
    return RunError(f"the hub does not {'take' if pushing else 'give'} {name} ({told}); try again later")
