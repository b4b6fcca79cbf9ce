"""The command that makes the paper's figures and tables anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vaelens.commands import option_values
from vaelens.commands.options import Json, Out, Overwrite, Quiet, Root
from vaelens.console import Stopped, notice, print_json, say


def reproduce(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="figure1, 4, 5, 6, 8 or 9, table1, 2 or 3")],
    out: Out,
    root: Root = None,
    epochs: Annotated[Optional[int], typer.Option(help="passes over the training images; default: the preset's")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="of a figure's runs: weights, order and noise; default: 0")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="of a table's runs; default: 0,1,2")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="of dSprites, in place of epochs; default: the preset's")] = None,  # noqa: UP045
    gamma: Annotated[Optional[str], typer.Option(help="of dSprites: weights of total correlation, such as 10,40")] = None,  # noqa: UP045
    beta: Annotated[Optional[str], typer.Option(help="of dSprites: weights of the KL divergence, such as 4,8")] = None,  # noqa: UP045
    ad_weight: Annotated[Optional[str], typer.Option(help="of dSprites: weights of the attention loss, such as 1,20")] = None,  # noqa: UP045
    ad_pairs: Annotated[Optional[str], typer.Option(help="of dSprites: pairs that it compares, such as random,all")] = None,  # noqa: UP045
    ad_rectifier: Annotated[Optional[str], typer.Option(help="of dSprites: of the maps, such as relu,abs")] = None,  # noqa: UP045
    layer: Annotated[Optional[str], typer.Option(help="of dSprites: whose maps it compares, such as encoder.relu3")] = None,  # noqa: UP045
    recipe: Annotated[Optional[str], typer.Option(help="of FactorVAE: published, paced or both; of small: paced")] = None,  # noqa: UP045
    dataset: Annotated[Optional[str], typer.Option(help="ucsd-ped1 or ucsd-ped2; default: the one that ROOT has")] = None,  # noqa: UP045
    category: Annotated[Optional[list[str]], typer.Option(help="of MVTec AD, repeatable; default: all that ROOT has")] = None,  # noqa: UP045
    preset: Annotated[Optional[str], typer.Option(help="paper, or small: a compact network at 128x128; default: paper")] = None,  # noqa: UP045
    runs: Annotated[Optional[list[Path]], typer.Option("--run", help="a run, or a folder of them, to use")] = None,  # noqa: UP045
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a figure or a table of the paper anew: figures 1 and 4 on MNIST, table 1 and figure 5 on UCSD, table 2 and figure 6
    on MVTec AD, table 3, figures 8 and 9 on dSprites.

    Runs are trained in OUT/runs and kept: stopped, the same command goes on. How long training takes is said before it starts.
    """
    from vaelens.paper import reproduce as reproduce_it

    try:
        result = reproduce_it(
            what,
            out,
            root=root,
            runs=runs or (),
            epochs=epochs,
            seed=seed,
            seeds=option_values.seeds_of(seeds),
            dataset=dataset,
            categories=category or (),
            steps=steps,
            gammas=option_values.numbers_of("--gamma", gamma),
            betas=option_values.numbers_of("--beta", beta),
            ad_weights=option_values.numbers_of("--ad-weight", ad_weight),
            ad_pairs=option_values.words_of(ad_pairs),
            ad_rectifiers=option_values.words_of(ad_rectifier),
            layers=option_values.words_of(layer),
            recipes=option_values.words_of(recipe),
            preset=preset,
            overwrite=overwrite,
            progress=not quiet,
            notice=None if quiet else notice,
        )
    except Stopped as error:
        if not (out / "runs").is_dir():
            raise
        say(f"vaelens: error: {error}; the same call goes on with what is trained so far")
        raise typer.Exit(128 + error.number) from error
    if json:
        print_json(result.to_dict())
        return
    print(result.text)
    for file in result.files:
        print(f"wrote    {file}")
