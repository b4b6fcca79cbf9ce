"""The command line. What is heavy to import is imported by the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from vaelens import option_values
from vaelens.console import (
    Stopped,
    downloading,
    ignore_signals,
    mend_streams,
    notice,
    print_json,
    progress_bar,
    run_command,
    say,
)
from vaelens.errors import DataError, UsageError
from vaelens.output import identity
from vaelens.printed import print_evaluation, print_fired, print_localization, print_trained

if TYPE_CHECKING:
    from vaelens.runs import Run

app = typer.Typer(
    name="vaelens",
    help="See what every latent of a variational autoencoder looks at, and where an image stops being normal.",
    epilog="Start with: vaelens demo",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a trained run")]
Out = Annotated[Path, typer.Option("--out", "-o", help="folder to make")]
Root = Annotated[Optional[Path], typer.Option(help="folder of the data set's files")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace results that are there")]
Accelerator = Annotated[Optional[str], typer.Option(help="auto, cpu, cuda or mps; default: auto")]  # noqa: UP045
Convert = Annotated[bool, typer.Option("--convert", help="change colour, depth and size of images that do not fit")]


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


@app.command(epilog="Example: vaelens demo --out demo")
def demo(
    out: Out = Path("demo"),
    epochs: Annotated[int, typer.Option(help="passes over the training images")] = 60,
    seed: Annotated[int, typer.Option(help="of weights, order and noise")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job on embedded handwritten digits, with no download: ends in a report.

    Trains on digit 1, explains other digits, measures how well each score tells them apart and writes report.html and
    pictures. Takes a minute or two on 2 cores. A demo that is there is replaced.
    """
    from vaelens.demo import run_demo

    result = run_demo(out, epochs=epochs, seed=seed, progress=not quiet)
    if json:
        print_json(result.to_dict())
        return
    print_evaluation(result.evaluation, result.run)
    print(f"run      {result.out / 'run'}")
    for picture in result.pictures:
        print(f"picture  {picture}")
    print(f"report   {result.report}")


@app.command(epilog="Example: vaelens train mnist --root data/mnist --normal 1 --out runs/ones")
def train(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="digits, mnist, ucsd-ped1, ucsd-ped2, mvtec or folder")],
    out: Out,
    root: Root = None,
    normal: Annotated[Optional[int], typer.Option(help="the class that is normal; default: 1")] = None,  # noqa: UP045
    category: Annotated[Optional[str], typer.Option(help="of mvtec, such as screw")] = None,  # noqa: UP045
    held_out: Annotated[Optional[float], typer.Option(help="share of normal images kept for calibration")] = None,  # noqa: UP045
    size: Annotated[Optional[str], typer.Option(help="pixels a side, or HEIGHTxWIDTH")] = None,  # noqa: UP045
    frames: Annotated[Optional[int], typer.Option(help="of a video: neighbouring frames as channels, such as 3")] = None,  # noqa: UP045
    brightness: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--even-brightness/--raw-brightness", help="even out each image's brightness; default: for mvtec and folder"
        ),
    ] = None,
    fixed_camera: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--fixed-camera/--free-camera", help="whether a place always shows the same thing; default: for ucsd"),
    ] = None,
    augment: Annotated[Optional[str], typer.Option(help="auto, none, or such as rotate30,mirror,flip")] = None,  # noqa: UP045
    network: Annotated[Optional[str], typer.Option(help="mnist, ucsd, mvtec or compact; default: the data set's")] = None,  # noqa: UP045
    objective: Annotated[Optional[str], typer.Option(help="vae, beta, ae, ae-ssim or anogan; default: vae")] = None,  # noqa: UP045
    beta: Annotated[Optional[float], typer.Option(help="weight of the KL divergence, with --objective beta")] = None,  # noqa: UP045
    latents: Annotated[Optional[int], typer.Option(help="number of latents; default: 32")] = None,  # noqa: UP045
    layer: Annotated[Optional[str], typer.Option(help="layer to explain; default: the last feature map")] = None,  # noqa: UP045
    localizer: Annotated[Optional[str], typer.Option(help="that scores, such as matching; default: of images learned")] = None,  # noqa: UP045
    epochs: Annotated[Optional[int], typer.Option(help="passes over the training images; default: the paper's")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(help="images per step")] = None,  # noqa: UP045
    learning_rate: Annotated[Optional[float], typer.Option(help="of Adam")] = None,  # noqa: UP045
    likelihood: Annotated[Optional[str], typer.Option(help="bernoulli, gaussian or optimal-gaussian")] = None,  # noqa: UP045
    warmup_epochs: Annotated[Optional[float], typer.Option(help="epochs over which the KL weight rises")] = None,  # noqa: UP045
    patience: Annotated[Optional[int], typer.Option(help="stop after so many epochs without a lower held-out loss")] = None,  # noqa: UP045
    precision: Annotated[Optional[str], typer.Option(help="auto, 32 or bf16")] = None,  # noqa: UP045
    accelerator: Accelerator = None,
    logger: Annotated[Optional[str], typer.Option(help="csv, tensorboard or both")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="of weights, order and noise")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on the normal images of a data set, and calibrate on held-out ones.

    Of digits and mnist one class is normal. Of a folder the images in ROOT/train/good are, or all that ROOT holds.

    Stopped at any moment (Ctrl-C, kill, power), the same command with --resume goes on from the last epoch and comes to
    the same weights.
    """
    from vaelens.runs.config import CONFIG, train_command
    from vaelens.runs.train import train_run
    from vaelens.training.result import TrainingInterrupted

    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "likelihood": likelihood,
        "kl_weight": beta,
        "warmup_epochs": warmup_epochs,
        "patience": patience,
        "precision": precision,
        "accelerator": accelerator,
        "logger": logger,
        "seed": seed,
    }
    before = identity(out / CONFIG)
    try:
        run = train_run(
            out,
            dataset,
            normal=normal,
            root=root,
            category=category,
            held_out=held_out,
            size=option_values.size_of(size),
            frames=frames,
            brightness=brightness,
            fixed_camera=fixed_camera,
            network=network,
            latent_dim=latents,
            layer=layer,
            localizer=localizer,
            objective=objective,
            augmentation=augment,
            resume=resume,
            overwrite=overwrite,
            progress=not quiet,
            downloading=downloading,
            notice=notice,
            **settings,
        )
    except (TrainingInterrupted, Stopped) as error:
        if not resume and identity(out / CONFIG) == before:  # stopped before it made anything
            raise
        say(f"vaelens: error: {error}; go on with: {train_command(dataset, out, '--resume')}")
        raise typer.Exit(128 + error.number if isinstance(error, Stopped) else error.exit_code) from error
    if json:
        print_json({"run": str(run.path), **run.metrics})
        return
    print_trained(run)


@app.command(epilog="Example: vaelens explain runs/ones seven.png --out explained   (or mnist/test/00000 for a test image)")
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

    loaded = _loaded(run, accelerator)
    attention = loaded.attend(layer=layer, latents=option_values.latents_of(latents), method=method, variant=variant)
    result = explain_images(loaded, Source(loaded, images, root, convert), out, attention, overwrite)
    if json:
        print_json(result.to_dict())
        return
    print_fired(result)
    print(f"report   {result.report}")


@app.command(epilog="Example: vaelens score runs/ones photos/ --out scored --false-alarms 0.01")
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

    loaded = _loaded(run, accelerator, quiet)
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


@app.command(epilog="Example: vaelens evaluate runs/ones --json")
def evaluate(
    run: RunFolder,
    localizer: Annotated[Optional[str], typer.Option(help="such as learned,matching:neighbours=5; default: the run's")] = None,  # noqa: UP045
    synthetic: Annotated[bool, typer.Option("--synthetic", help="on held-out normal images with synthetic defects")] = False,
    accelerator: Accelerator = None,
    root: Root = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How well each localizer finds what is not normal, on the test images.

    With masks: AUROC, average precision, IoU and AUPRO over pixels, beside floors that learn nothing. With classes: the
    image-level AUROC against each other class. Results are written to RUN/report.
    """
    from vaelens.localizers.spec import split_specs
    from vaelens.scoring.evaluate import evaluate as evaluate_run
    from vaelens.scoring.evaluation_report import write_evaluation

    loaded = _loaded(run, accelerator, quiet)
    names = None if localizer is None else split_specs(localizer)
    if not loaded.config.of_classes:
        _evaluate_defects(loaded, names, synthetic, root, json, quiet)
        return
    if synthetic:
        raise UsageError("--synthetic is for runs of images with defects, not of classes; leave it out")
    with progress_bar("evaluated", quiet) as progress:
        result = evaluate_run(loaded, names, root, progress)
    report = write_evaluation(loaded, result, root)
    if json:
        print_json(result.to_dict())
        return
    print_evaluation(result, loaded)
    print(f"report   {report}")


def _loaded(run: Path, accelerator: str | None, quiet: bool = False) -> Run:
    from vaelens.runs import load_run
    from vaelens.runs.localizers import in_lines
    from vaelens.training.device import pick_device

    loaded = load_run(run, pick_device(accelerator or "auto"))
    loaded.fitting = None if quiet else in_lines(notice)
    return loaded


def _evaluate_defects(run: Run, names: list[str] | None, synthetic: bool, root: Path | None, json: bool, quiet: bool) -> None:
    from vaelens.runs.data import load_defects
    from vaelens.scoring.localization import evaluate_localization
    from vaelens.scoring.localization_report import write_localization
    from vaelens.scoring.synthetic import evaluate_synthetic

    with progress_bar("evaluated", quiet) as progress:
        if synthetic:
            result = evaluate_synthetic(run, names, progress)
        else:
            result = evaluate_localization(run, load_defects(run.config, root), names, progress)
    report = write_localization(run, result, root)
    if json:
        print_json(result.to_dict())
        return
    print_localization(result, run)
    print(f"report   {report}")


@app.command(epilog="Example: vaelens reproduce table1 --root data --dataset ucsd-ped2 --out table1")
def reproduce(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="figure1, figure4, figure5, figure6, table1 or table2")],
    out: Out,
    root: Root = None,
    epochs: Annotated[Optional[int], typer.Option(help="passes over the training images; default: the preset's")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="of a figure's runs: weights, order and noise; default: 0")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="of a table's runs; default: 0,1,2")] = None,  # noqa: UP045
    dataset: Annotated[Optional[str], typer.Option(help="ucsd-ped1 or ucsd-ped2; default: the one that ROOT has")] = None,  # noqa: UP045
    category: Annotated[Optional[list[str]], typer.Option(help="of MVTec AD, repeatable; default: all that ROOT has")] = None,  # noqa: UP045
    preset: Annotated[Optional[str], typer.Option(help="paper, or small: a compact network at 128x128; default: paper")] = None,  # noqa: UP045
    runs: Annotated[Optional[list[Path]], typer.Option("--run", help="a run to use, and not to train one")] = None,  # noqa: UP045
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a figure or a table of the paper anew: figures 1 and 4 on MNIST, table 1 and figure 5 on UCSD, the rest on MVTec AD.

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
