"""With few images held out a low rate of false alarms flags nothing at all, and that is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.localizers import Calibration
from vaelens.runs import Run, load_run


@pytest.fixture(scope="module")
def run(folder_run: Path) -> Run:
    return load_run(folder_run)


def held_out(run: Run, count: int) -> Run:
    """The same with so many images held out."""
    other = copy.copy(run)
    other._tensors = {"held_out.images": torch.zeros(count, 1, 1, 1)}  # type: ignore[misc]
    return other


@pytest.mark.parametrize("count", [1, 2, 3, 18, 19, 20, 48, 99, 1000])
def test_it_is_said_where_the_threshold_is_infinite_and_nowhere_else(run: Run, count: int) -> None:
    calibration = Calibration(torch.arange(count).float(), torch.arange(count).float())
    for rate in (0.001, 0.01, 0.05, 0.2, 0.6, 1 / (count + 1), 0.999 / (count + 1), 1.001 / (count + 1)):
        infinite = calibration.pixel_threshold(rate) == float("inf")
        assert infinite == (calibration.score_threshold(rate) == float("inf"))
        assert bool(held_out(run, count).too_few(rate)) == infinite, rate


def test_what_it_says_can_be_asked_for(run: Run) -> None:
    said = held_out(run, 32).too_few(0.02)
    assert said.startswith("At 2 % of false alarms nothing can be flagged: with 32 images held out the least is 3.04 %")
    assert not held_out(run, 32).too_few(0.0304)
    assert held_out(run, 32).too_few(0.0303), "1 / 33 is a little more"
    with pytest.raises(UsageError, match="between 0 and 1"):
        run.too_few(0)


def test_commands_and_reports_say_so(folder_copy: Path, defect_root: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    sentence = "nothing can be flagged: with 20 images held out the least is 4.77 %"
    images = defect_root / "test" / "spot"
    for rate, wanted in (("0.02", True), ("0.05", False)):
        out = tmp_path / rate
        done = cli("score", folder_copy, images, "--localizer", "floor-mean", "--false-alarms", rate, "--out", out)
        assert done.code == 0, done.err
        assert (sentence in done.err) == wanted
        assert (sentence in (out / "report.html").read_text()) == wanted
    options = ("--size", 32, "--network", "compact", "--latents", 4, "--epochs", 1, "--localizer", "floor-mean")
    few = cli("train", "folder", "--root", defect_root, "--held-out", 0.1, "--out", tmp_path / "few", *options)
    assert few.code == 0, few.err
    sentence = "At 5 % of false alarms nothing can be flagged: with 4 images held out the least is 20 %"
    assert sentence in few.out
    done = cli("evaluate", tmp_path / "few", "--localizer", "floor-mean")
    assert sentence in done.out
    assert sentence in (tmp_path / "few" / "report" / "report.html").read_text()
