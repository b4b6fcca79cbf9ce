"""Ctrl-C and termination: a clean stop between two batches, which says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vaelens.training.checkpoint import read_checkpoint
from vaelens.training.fit import CHECKPOINT, TrainingInterrupted
from vaelens.training.interrupt import StopRequests

FORWARDS = 7  # per epoch: 5 training batches, 2 held-out batches


def test_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("small_run.py")), str(tmp_path), "3"]
    done = subprocess.run([*program, str(int(signal.SIGINT)), str(FORWARDS + 2)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    # The progress, the message, and no word from Lightning, no banner, no traceback.
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("epoch 1/3: loss ")
    assert lines[1] == (
        f"TrainingInterrupted: training was stopped by Ctrl-C in epoch 2; {tmp_path / CHECKPOINT} holds the first 1 of 3 "
        "epochs: resume to go on from there"
    )
    assert read_checkpoint(tmp_path / CHECKPOINT)[1].epochs_done == 1


@pytest.mark.parametrize(
    ("signals", "forward", "exit_code", "cause"),
    [
        ([signal.SIGINT], 2, 130, "Ctrl-C in epoch 1; there is no checkpoint yet"),
        ([signal.SIGINT], FORWARDS + 5, 130, "Ctrl-C in epoch 2"),  # while it looks at the held-out images
        ([signal.SIGINT, signal.SIGINT], FORWARDS + 1, 130, "Ctrl-C in epoch 2"),
        ([signal.SIGTERM], FORWARDS + 1, 143, "SIGTERM in epoch 2"),
        ([signal.SIGHUP], FORWARDS + 1, 129, "SIGHUP in epoch 2"),
    ],
)
def test_signals(
    small: ModuleType, tmp_path: Path, signals: list[signal.Signals], forward: int, exit_code: int, cause: str
) -> None:
    def send(*_: Any) -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    network = small.model()
    small.at_forward(network, forward, send)
    with pytest.raises(TrainingInterrupted, match=cause) as caught:
        small.train(tmp_path, network)
    assert caught.value.exit_code == exit_code
    assert caught.value.result.interrupted
    assert caught.value.result.epochs == forward // FORWARDS
    assert "\n" not in str(caught.value)
    assert {number: signal.getsignal(number) for number in before} == before
    result = small.train(tmp_path, resume=True)[1]
    assert result.epochs == 3
    assert not result.interrupted


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_signal_during_a_checkpoint_waits_for_it(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    fsync = os.fsync

    def interrupted_fsync(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        fsync(number)

    monkeypatch.setattr(os, "fsync", interrupted_fsync)
    with pytest.raises(TrainingInterrupted, match=f"holds the first 1 of {epochs} epochs"):
        small.train(tmp_path, epochs=epochs)
    assert read_checkpoint(tmp_path / CHECKPOINT)[1].epochs_done == 1


def test_training_in_another_thread(small: ModuleType, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(small.train(tmp_path, epochs=1)[1]))
    thread.start()
    thread.join()
    assert [result.epochs for result in results] == [1]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequests() as requests:
            os.kill(os.getpid(), signal.SIGINT)
            assert requests.signal is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_return_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    requests = StopRequests()

    def fail() -> None:
        with requests:
            os.kill(os.getpid(), signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert requests.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
