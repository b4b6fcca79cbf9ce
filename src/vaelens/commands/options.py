"""Options that several commands share, and the run that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vaelens.console import notice

if TYPE_CHECKING:
    from vaelens.runs import Run

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a trained run")]
Out = Annotated[Path, typer.Option("--out", "-o", help="folder to make")]
Root = Annotated[Optional[Path], typer.Option(help="folder of the data set's files")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace results that are there")]
Accelerator = Annotated[Optional[str], typer.Option(help="auto, cpu, cuda or mps; default: auto")]  # noqa: UP045
Convert = Annotated[bool, typer.Option("--convert", help="change colour, depth and size of images that do not fit")]


def opened(run: Path, accelerator: str | None, quiet: bool = False) -> Run:
    """The run in a folder, on the device that was asked for; unless quiet, fitting is said in lines."""
    from vaelens.runs import load_run
    from vaelens.runs.localizers import in_lines
    from vaelens.training.device import pick_device

    loaded = load_run(run, pick_device(accelerator or "auto"))
    loaded.fitting = None if quiet else in_lines(notice)
    return loaded
