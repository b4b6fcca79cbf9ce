"""Figure 5: anomaly attention on UCSD, one frame of each of several test clips, chosen by a rule and not by its looks."""

from __future__ import annotations

from pathlib import Path

from vaelens.data.anomaly import AnomalySplit
from vaelens.errors import DataError, UsageError
from vaelens.output import write_bytes
from vaelens.paper.anomaly_rows import ROWS_OF_IMAGES, anomaly_panel
from vaelens.paper.anomaly_runs import given_runs, ucsd_recipes
from vaelens.paper.asked import VIDEOS, Asked
from vaelens.paper.queue import runs_of
from vaelens.paper.result import Reproduced
from vaelens.report.figures import figure4
from vaelens.report.sheet import to_png
from vaelens.runs import Run
from vaelens.runs.data import load_defects

CLIPS = 6
_BEST = "encoder.relu2"  # behind the second convolution, which is the paper's best


def make(asked: Asked, out: Path) -> Reproduced:
    """Draw OUT/figure5.png: frame, mask, attention, deviation, matching, learned, reconstruction difference.

    Raises:
        UsageError: several runs.
        DataError: no test frame has a mask.
    """
    given = given_runs(asked, VIDEOS)
    if len(given) > 1:
        raise UsageError(f"figure5 takes one run, not {len(given)}")
    run = given[0] if given else next(runs_of(ucsd_recipes([asked.one_seed], asked), out, asked))
    split = load_defects(run.config, asked.root)
    chosen = most_masked(split)
    if not chosen:
        raise DataError(f"no test frame of {split.dataset} has a mask that marks a pixel; check its Test folder")
    assert split.test is not None
    assert split.masks is not None
    samples = split.test.subset(chosen)
    titles = ["/".join(name.split("/")[-2:]) for name in samples.names]
    panel = anomaly_panel(run, samples, split.dataset, rows_for(run), titles, split.masks[chosen])
    file = out / "figure5.png"
    write_bytes(file, to_png(figure4([panel])))
    text = (
        f"Figure 5: of the first {len(chosen)} test clips of {split.dataset} with masks, the first of the frames with the most "
        "masked pixels."
    )
    return Reproduced("figure5", text, (file,), (run.settings(),))


def most_masked(split: AnomalySplit, clips: int = CLIPS) -> list[int]:
    """Of each of the first clips with masks, the first of the frames with the most masked pixels: their indices."""
    if split.test is None or split.masks is None:
        return []
    best: dict[str, tuple[int, int]] = {}
    for index, (name, marked) in enumerate(zip(split.test.names, split.masks.flatten(1).sum(1).tolist(), strict=True)):
        clip = name.rpartition("/")[0]
        if marked > best.get(clip, (0, 0))[0]:
            best[clip] = (marked, index)
    return [index for _, index in best.values()][:clips]


def rows_for(run: Run) -> dict[str, str]:
    """The rows: attention behind the paper's best convolution where the network has it."""
    rows = dict(ROWS_OF_IMAGES)
    if _BEST in dict(run.model.named_modules()):
        label = rows.pop("normal-difference")
        return {f"attention:layer={_BEST}": f"{label}, conv2", **rows}
    return rows
