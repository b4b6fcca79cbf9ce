"""The command that says how well localizers do on the test images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from vaelens.commands.faithfulness import judge_maps
from vaelens.commands.options import Accelerator, Json, Quiet, Root, RunFolder, opened
from vaelens.commands.printed import print_disentanglement, print_evaluation, print_localization
from vaelens.console import print_json, progress_bar
from vaelens.errors import UsageError
from vaelens.output import check_replaceable

if TYPE_CHECKING:
    from vaelens.runs import Run


def evaluate(
    run: RunFolder,
    localizer: Annotated[Optional[str], typer.Option(help="such as learned,matching:neighbours=5; default: the run's")] = None,  # noqa: UP045
    synthetic: Annotated[bool, typer.Option("--synthetic", help="on held-out normal images with synthetic defects")] = False,
    metrics: Annotated[Optional[str], typer.Option(help="of disentanglement, such as mig,dci; default: all")] = None,  # noqa: UP045
    repeats: Annotated[Optional[int], typer.Option(help="of each metric that draws at random; default: 5")] = None,  # noqa: UP045
    faithfulness: Annotated[bool, typer.Option("--faithfulness", help="how far the maps of latents can be trusted")] = False,
    methods: Annotated[Optional[str], typer.Option(help="of maps, such as cvpr,expvae; default: all")] = None,  # noqa: UP045
    images: Annotated[Optional[int], typer.Option(help="that maps are judged on; default: 50")] = None,  # noqa: UP045
    replace: Annotated[Optional[str], typer.Option(help="pixels by blur or neighbour; default: blur")] = None,  # noqa: UP045
    against: Annotated[Optional[str], typer.Option(help="runs of other seeds, such as RUN2,RUN3")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="of the images that maps are judged on; default: 0")] = None,  # noqa: UP045
    accelerator: Accelerator = None,
    root: Root = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How well each localizer finds what is not normal, on the test images; or how disentangled the latents are.

    With masks: AUROC, average precision, IoU and AUPRO over pixels, beside floors that learn nothing. With classes: the
    image-level AUROC against each other class. Of dsprites, whose factors are known: the metrics of disentanglement on all
    images. Results are written to RUN/report.

    With --faithfulness: whether the maps of latents name the pixels that the latents hang on, against maps that know nothing of
    the model; to RUN/report-faithfulness. --methods, --images, --replace, --against and --seed belong to it.
    """
    from vaelens.localizers.spec import split_specs
    from vaelens.runs.folder import report_of
    from vaelens.scoring.evaluate import evaluate as evaluate_run
    from vaelens.scoring.evaluation_report import write_evaluation

    loaded = opened(run, accelerator, quiet)
    judged = {"--methods": methods, "--images": images, "--replace": replace, "--against": against, "--seed": seed}
    if faithfulness:
        for option, value in (("--synthetic", synthetic or None), ("--metrics", metrics), ("--repeats", repeats)):
            if value is not None:
                raise UsageError(f"{option} has no part in --faithfulness; leave one of them out")
        judge_maps(loaded, methods, images, replace, against, localizer, seed, accelerator, root, json, quiet)
        return
    for option, value in judged.items():
        if value is not None:
            raise UsageError(f"{option} is for --faithfulness; add that, or leave it out")
    check_replaceable(report_of(loaded.path, synthetic), "evaluate")  # before minutes of work, not after
    if loaded.config.of_factors:
        for option, value in (("--localizer", localizer), ("--synthetic", synthetic or None)):
            if value is not None:
                raise UsageError(f"{option} takes normal images, of which dsprites has none; leave it out")
        _evaluate_factors(loaded, metrics, repeats, root, json, quiet)
        return
    for option, asked in (("--metrics", metrics), ("--repeats", repeats)):
        if asked is not None:
            raise UsageError(f"{option} is for runs of dsprites, whose factors are known; leave it out")
    names = None if localizer is None else split_specs(localizer)
    if not loaded.config.of_classes:
        _evaluate_defects(loaded, names, synthetic, root, json, quiet)
        return
    if synthetic:
        raise UsageError("--synthetic is for runs of images with defects, not of classes; leave it out")
    with progress_bar("evaluated", quiet) as progress:
        result = evaluate_run(loaded, names, root, progress)
    _tell(result.to_dict(), write_evaluation(loaded, result, root), json, lambda: print_evaluation(result, loaded))


def _evaluate_factors(run: Run, metrics: str | None, repeats: int | None, root: Path | None, json: bool, quiet: bool) -> None:
    from vaelens.scoring.disentanglement import REPEATS, evaluate_disentanglement
    from vaelens.scoring.disentanglement_report import write_disentanglement

    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    with progress_bar("evaluated", quiet) as progress:
        result = evaluate_disentanglement(run, names, root, REPEATS if repeats is None else repeats, progress)
    _tell(result.to_dict(), write_disentanglement(run, result), json, lambda: print_disentanglement(result))


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
    _tell(result.to_dict(), write_localization(run, result, root), json, lambda: print_localization(result, run))


def _tell(values: dict[str, Any], report: Path, json: bool, show: Callable[[], None]) -> None:
    """A result on standard output: as JSON, or as `show` prints it and where the report lies."""
    if json:
        print_json(values)
        return
    show()
    print(f"report   {report}")
