"""The commands that take images: to explain them, and to score them."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vaelens.commands import option_values
from vaelens.commands.options import Accelerator, Convert, Json, Out, Overwrite, Quiet, Root, RunFolder, opened
from vaelens.commands.printed import print_fired
from vaelens.console import print_json, progress_bar, say


def explain(
    run: RunFolder,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="image files, or names of test images")],
    out: Out,
    layer: Annotated[Optional[str], typer.Option(help="another layer than the run's")] = None,  # noqa: UP045
    method: Annotated[str, typer.Option(help="auto, closed_form or vjp")] = "auto",
    variant: Annotated[str, typer.Option(help="cvpr, arxiv_v1 or expvae")] = "cvpr",
    latents: Annotated[Optional[str], typer.Option(help="such as 0,3,7 or top5; default: all")] = None,  # noqa: UP045
    accelerator: Accelerator = None,
    root: Root = None,
    convert: Convert = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """For each image the maps of all latents on one colour scale, and which latents fired."""
    from vaelens.scoring.explain import explain as explain_images
    from vaelens.scoring.sources import Source

    loaded = opened(run, accelerator)
    attention = loaded.attend(layer=layer, latents=option_values.latents_of(latents), method=method, variant=variant)
    result = explain_images(loaded, Source(loaded, images, root, convert), out, attention, overwrite)
    if json:
        print_json(result.to_dict())
        return
    print_fired(result)
    print(f"report   {result.report}")


def score(
    run: RunFolder,
    source: Annotated[list[str], typer.Argument(metavar="FOLDER", help="folder of images, files, or names of test images")],
    out: Out,
    localizer: Annotated[Optional[str], typer.Option(help="whose scores and maps; default: the run's main one")] = None,  # noqa: UP045
    false_alarms: Annotated[float, typer.Option(help="share of normal images that may be flagged")] = 0.05,
    batch_size: Annotated[int, typer.Option(help="images at once")] = 64,
    pictures: Annotated[bool, typer.Option(help="write masks and overlays")] = True,
    cards: Annotated[int, typer.Option(help="images that the report shows at most, 500 or fewer")] = 50,
    accelerator: Accelerator = None,
    root: Root = None,
    convert: Convert = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score images: a table (Parquet), masks, overlays and a report, the most abnormal first.

    Thresholds come from held-out normal images alone. An image that cannot be read has its reason in the table.
    """
    from vaelens.scoring.local import score as score_images
    from vaelens.scoring.sources import Source

    loaded = opened(run, accelerator, quiet)
    images = Source(loaded, source, root, convert)
    with progress_bar("scored", quiet) as progress:
        result = score_images(
            loaded,
            images,
            out,
            localizer=localizer,
            false_alarms=false_alarms,
            batch_size=batch_size,
            pictures=pictures,
            cards=cards,
            overwrite=overwrite,
            progress=progress,
        )
    for line in (*(f"not scored: {row.error}" for row in result.errors), *filter(None, [result.too_few])):
        say(f"vaelens: {line}")
    if json:
        print_json(result.to_dict())
        return
    print(f"{len(result.rows)} images, {len(result.flagged)} flagged, {len(result.errors)} not read")
    print(f"table    {out / 'scores.parquet'}\nreport   {out / 'report.html'}")
