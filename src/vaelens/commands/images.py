"""The commands that take images: to explain them, and to score them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vaelens.commands import option_values
from vaelens.commands.options import Accelerator, Convert, Json, Out, Overwrite, Quiet, Root, RunFolder, opened
from vaelens.commands.printed import print_fired
from vaelens.console import print_json, progress_bar, say
from vaelens.errors import UsageError

if TYPE_CHECKING:
    from vaelens.attention import LatentAttention
    from vaelens.runs import Run


def explain(
    run: RunFolder,
    out: Out,
    images: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="IMAGES", help="image files, or names of test images; none of a run of dsprites"),
    ] = None,
    layer: Annotated[Optional[str], typer.Option(help="another layer than the run's")] = None,  # noqa: UP045
    method: Annotated[str, typer.Option(help="auto, closed_form or vjp")] = "auto",
    variant: Annotated[str, typer.Option(help="cvpr, arxiv_v1, expvae or hirescam")] = "cvpr",
    latents: Annotated[Optional[str], typer.Option(help="such as 0,3,7 or top5; default: all")] = None,  # noqa: UP045
    accelerator: Accelerator = None,
    root: Root = None,
    convert: Convert = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """For each image the maps of all latents on one colour scale, and which latents fired.

    A run of dsprites takes no images: for a sprite of each shape, what each latent does to it as it moves, beside its map.
    """
    from vaelens.scoring.explain import explain as explain_images
    from vaelens.scoring.sources import Source

    loaded = opened(run, accelerator)
    if loaded.config.of_factors:
        for given, left_out in ((images, "IMAGES"), (convert, "--convert")):
            if given:
                raise UsageError(f"a run of dsprites is explained on sprites of its own; leave {left_out} out")
    attention = loaded.attend(layer=layer, latents=option_values.latents_of(latents), method=method, variant=variant)
    if loaded.config.of_factors:
        _explain_sprites(loaded, out, attention, overwrite, root, json)
        return
    result = explain_images(loaded, Source(loaded, images or [], root, convert), out, attention, overwrite)
    if json:
        print_json(result.to_dict())
        return
    print_fired(result)
    print(f"report   {result.report}")


def _explain_sprites(run: Run, out: Path, attention: LatentAttention, overwrite: bool, root: Path | None, json: bool) -> None:
    from vaelens.scoring.traversal import traverse

    result = traverse(run, out, attention, overwrite, root)
    if json:
        print_json(result.to_dict())
        return
    known = result.knowledge
    for latent, active in enumerate(known.active.tolist()):
        factor, nats, share = known.most_of(latent)
        knows = f"knows most of {factor}: {nats:.2f} nats, {share:.0%} of it" if active else "dead"
        print(f"z{latent}: carries {float(known.kl[latent]):.2f} nats; {knows}")
    for name, file in zip(result.names, result.files, strict=True):
        print(f"{name}: {file}")
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
