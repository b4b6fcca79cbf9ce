"""The command line: its commands, and how it starts. What they do is in `vaelens.commands`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vaelens.commands import option_values
from vaelens.commands.evaluate import evaluate
from vaelens.commands.export import export
from vaelens.commands.images import explain, score
from vaelens.commands.layers import layers
from vaelens.commands.reproduce import reproduce
from vaelens.commands.share import share
from vaelens.commands.train import demo, train
from vaelens.console import ignore_signals, mend_streams, run_command
from vaelens.errors import DataError

app = typer.Typer(
    name="vaelens",
    help="See what every latent of a variational autoencoder looks at, and where an image stops being normal.",
    epilog="Start with: vaelens demo",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _bare(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    if version:
        from vaelens._version import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


app.command(epilog="Example: vaelens demo --out demo")(demo)
app.command(epilog="Example: vaelens train mnist --root data/mnist --normal 1 --out runs/ones")(train)
app.command(epilog="Example: vaelens explain runs/ones seven.png --out explained   (or mnist/test/00000 for a test image)")(
    explain
)
app.command(epilog="Example: vaelens layers vae.py:build --input 3x64x64")(layers)
app.command(epilog="Example: vaelens score runs/ones photos/ --out scored --false-alarms 0.01")(score)
app.command(epilog="Example: vaelens evaluate runs/ones --json")(evaluate)
app.command(epilog="Example: vaelens export runs/ones model.onnx --false-alarms 0.01")(export)
app.command(epilog="Example: vaelens reproduce table1 --root data --dataset ucsd-ped2 --out table1")(reproduce)
app.command(epilog="Example: vaelens share runs/ones --out shared   (or --to USER/NAME --images for the Hugging Face hub)")(
    share
)


def main() -> None:
    """The entry point of the `vaelens` command."""
    mend_streams()
    code = run_command(_in_a_folder, lambda: option_values.names_of(app))
    ignore_signals()
    sys.exit(code)


def _in_a_folder() -> Any:
    try:
        Path.cwd()
    except OSError as error:
        raise DataError(f"the current folder cannot be read ({error.strerror}); change to another") from None
    return app(standalone_mode=False)
