"""What a person sees on stderr while a model trains."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vaelens.training.progress import TrainingProgress

ROW = {"epoch": 1, "train/loss": 85.126, "val/loss": 86.0, "active_latents": 12, "kl_weight": 1.0, "seconds": 4.14}


def test_lines_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(epochs=25, batches=3)
    progress.start(0)
    for epoch in range(1, 26):
        progress.batch_done()
        progress.epoch_done({**ROW, "epoch": epoch}, latents=32)
    progress.stop()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "epoch 2/25: loss 85.13, held-out 86.00, 12 of 32 latents active, 4.1 s per epoch"
    assert [int(re.match(r"epoch (\d+)/25", line)[1]) for line in lines] == [*range(2, 25, 2), 25]  # type: ignore[index]


def test_nothing_when_switched_off(small: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small.train(tmp_path, epochs=1)
    assert capfd.readouterr() == ("", "")


def test_resuming_before_the_first_checkpoint_says_so(
    small: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small.train(tmp_path, epochs=1, resume=True, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == f"no checkpoint in {tmp_path} yet: starting at epoch 1"
    assert len(lines) == 2


def test_one_line_on_a_terminal() -> None:
    """A real terminal: a pseudo-terminal pair, with the bar in a process of its own."""
    code = (
        "from vaelens.training.progress import TrainingProgress\n"
        "progress = TrainingProgress(epochs=3, batches=2)\n"
        "progress.start(1)\n"
        "for epoch in (2, 3):\n"
        "    for _ in range(2): progress.batch_done()\n"
        f"    progress.epoch_done({{**{ROW!r}, 'epoch': epoch}}, latents=32)\n"
        "progress.stop()\n"
    )
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, env=env, check=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert done.stdout == b""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert text.count("\n") == 1
    last = text.rstrip().splitlines()[-1].rsplit("\r", 1)[-1]
    assert last.startswith("epoch 3/3 ")
    assert "loss 85.13, held-out 86.00, 12 of 32 latents active" in last
