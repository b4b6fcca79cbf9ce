"""The commands that train: the demo on embedded digits, and a run on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vaelens.commands import option_values
from vaelens.commands.options import Accelerator, Json, Out, Overwrite, Quiet, Root
from vaelens.commands.printed import print_evaluation, print_trained
from vaelens.console import Stopped, downloading, notice, print_json, say
from vaelens.output import identity


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


def train(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="digits, mnist, ucsd-ped1, ucsd-ped2, mvtec, folder or dsprites")
    ],
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
    objective: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="vae, beta, factor, ad-beta, ad-factor, ae, ae-ssim or anogan; default: vae"),
    ] = None,
    beta: Annotated[Optional[float], typer.Option(help="KL weight; default: 1, of beta and ad-beta 4")] = None,  # noqa: UP045
    recipe: Annotated[Optional[str], typer.Option(help="of factor and ad-factor: published, the default, or paced")] = None,  # noqa: UP045
    gamma: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="weight of the total correlation, of factor and ad-factor; default: 40"),
    ] = None,
    discriminator_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="learning rate of the discriminator of factor and ad-factor; default: --learning-rate"),
    ] = None,
    standardize_after: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="epochs after which the discriminator of factor and ad-factor judges standardized codes"),
    ] = None,
    pooled_until: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="epochs for which factor and ad-factor have a discriminator that learns from many batches at once"),
    ] = None,
    ad_weight: Annotated[Optional[float], typer.Option(help="of the attention disentanglement loss; default: 20")] = None,  # noqa: UP045
    ad_pairs: Annotated[Optional[str], typer.Option(help="of latents that it compares: random, top2 or all")] = None,  # noqa: UP045
    ad_rectifier: Annotated[Optional[str], typer.Option(help="of the maps that it compares: relu or abs")] = None,  # noqa: UP045
    latents: Annotated[Optional[int], typer.Option(help="number of latents; default: 32, of dsprites 10")] = None,  # noqa: UP045
    layer: Annotated[Optional[str], typer.Option(help="layer to explain, or to keep maps apart; default: the last map")] = None,  # noqa: UP045
    localizer: Annotated[Optional[str], typer.Option(help="that scores, such as matching; default: of images learned")] = None,  # noqa: UP045
    epochs: Annotated[Optional[int], typer.Option(help="passes over the training images; default: the paper's")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="of dsprites, in place of epochs; default: 300000")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(help="images per step")] = None,  # noqa: UP045
    learning_rate: Annotated[Optional[float], typer.Option(help="of Adam")] = None,  # noqa: UP045
    rate_warmup: Annotated[Optional[float], typer.Option(help="epochs over which the learning rate rises; default: 0")] = None,  # noqa: UP045
    rate_cooldown: Annotated[Optional[float], typer.Option(help="last epochs, over which it falls to 0; default: 0")] = None,  # noqa: UP045
    likelihood: Annotated[Optional[str], typer.Option(help="bernoulli, gaussian or optimal-gaussian")] = None,  # noqa: UP045
    warmup_epochs: Annotated[Optional[float], typer.Option(help="epochs over which the KL weight rises or falls")] = None,  # noqa: UP045
    kl_start: Annotated[Optional[float], typer.Option(help="KL weight at the first step; default: 0")] = None,  # noqa: UP045
    gather_after: Annotated[Optional[float], typer.Option(help="epochs after which weak latents join strong ones")] = None,  # noqa: UP045
    turn_after: Annotated[Optional[float], typer.Option(help="epochs after which open latents are turned by ICA")] = None,  # noqa: UP045
    wake_after: Annotated[Optional[float], typer.Option(help="epochs after which closed latents get fresh weights")] = None,  # noqa: UP045
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

    Of digits and mnist one class is normal. Of a folder the images in ROOT/train/good are, or all that ROOT holds. Of dsprites
    no image is: all are trained on, for so many steps, to see what each latent learns.

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
        "rate_warmup_epochs": rate_warmup,
        "rate_cooldown_epochs": rate_cooldown,
        "likelihood": likelihood,
        "kl_weight": beta,
        "gamma": gamma,
        "discriminator_learning_rate": discriminator_rate,
        "standardize_after": standardize_after,
        "pooled_until": pooled_until,
        "ad_weight": ad_weight,
        "ad_pairs": ad_pairs,
        "ad_rectifier": ad_rectifier,
        "kl_start": kl_start,
        "warmup_epochs": warmup_epochs,
        "gather_after": gather_after,
        "turn_after": turn_after,
        "wake_after": wake_after,
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
            steps=steps,
            recipe=recipe,
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
