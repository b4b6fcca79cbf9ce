"""The command that shares a run: as a folder with a model card, or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vaelens.commands.options import Json, Overwrite, RunFolder
from vaelens.console import print_json
from vaelens.errors import UsageError


def share(
    run: RunFolder,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="folder to make")] = None,  # noqa: UP045
    to: Annotated[Optional[str], typer.Option(help="model on the Hugging Face hub, USER/NAME, private unless --public")] = None,  # noqa: UP045
    images: Annotated[bool, typer.Option("--images", help="the run's normal images may be uploaded")] = False,
    public: Annotated[bool, typer.Option("--public", help="whoever comes may read it")] = False,
    licence: Annotated[Optional[str], typer.Option("--license", help="of the weights, such as apache-2.0")] = None,  # noqa: UP045
    branch: Annotated[Optional[str], typer.Option(help="of the hub's repository; default: the main one")] = None,  # noqa: UP045
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Save a run with a model card into a folder, or push it to the Hugging Face hub.

    A run holds normal images of its training data, and so does what is shared: an upload takes --images. The token is that of
    `hf auth login`, or HF_TOKEN.
    """
    from vaelens.runs import load_run
    from vaelens.runs.card import held

    if (out is None) == (to is None):
        raise UsageError("share takes one place: --out FOLDER, or --to USER/NAME for the Hugging Face hub")
    for option, given in (("--images", images), ("--public", public), ("--branch", branch)):
        if given and out is not None:
            raise UsageError(f"{option} is for the hub; leave it out, or name --to USER/NAME")
    if overwrite and to is not None:
        raise UsageError("--overwrite is for a folder; what is pushed to the hub is a further commit, leave it out")
    loaded = load_run(run)
    if out is not None:
        place = str(loaded.save_pretrained(out, license=licence, overwrite=overwrite))
    else:
        assert to is not None
        place = loaded.push_to_hub(to, images=images, private=not public, license=licence, branch=branch)
    if json:
        print_json({"shared": place, "images": len(loaded.normal_images) + len(loaded.held_out_images)})
        return
    print(f"shared   {place}\nit holds {held(loaded)}")
