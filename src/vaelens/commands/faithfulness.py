"""What `evaluate --faithfulness` does: judge the maps of a run, print what was found, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaelens.commands.option_values import words_of
from vaelens.commands.options import opened
from vaelens.commands.printed import print_faithfulness
from vaelens.console import print_json, progress_bar
from vaelens.errors import UsageError
from vaelens.output import check_replaceable

if TYPE_CHECKING:
    from vaelens.runs import Run


def judge_maps(
    run: Run,
    methods: str | None,
    images: int | None,
    replace: str | None,
    against: str | None,
    localizer: str | None,
    seed: int | None,
    accelerator: str | None,
    root: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """The options are as the command line gives them.

    Raises:
        UsageError: an option that the run does not allow, or a name that there is not.
    """
    from vaelens.localizers.spec import split_specs
    from vaelens.runs.folder import faithfulness_report_of
    from vaelens.scoring.faithfulness import IMAGES, evaluate_faithfulness
    from vaelens.scoring.faithfulness_report import write_faithfulness

    check_replaceable(faithfulness_report_of(run.path), "evaluate")  # before minutes of work, not after
    if localizer is not None and run.config.of_factors:
        raise UsageError("--localizer takes normal images, of which dsprites has none; leave it out")
    others = [opened(Path(path), accelerator, quiet) for path in words_of(against)]
    with progress_bar("judged", quiet) as progress:
        found = evaluate_faithfulness(
            run,
            methods=None if methods is None else list(words_of(methods)),
            images=IMAGES if images is None else images,
            replacement="blur" if replace is None else replace,
            against=others,
            localizers=None if localizer is None else split_specs(localizer),
            seed=0 if seed is None else seed,
            root=root,
            progress=progress,
        )
    report = write_faithfulness(run, found)
    if json:
        print_json(found.to_dict())
        return
    print_faithfulness(found)
    print(f"report   {report}")
