"""The command line as a process among others: signals, streams, and names in other codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaelens.console import run_command

VAELENS = [sys.executable, "-m", "vaelens"]


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of sh in which $vaelens is the command."""
    return subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=cwd,
        env={**os.environ, "vaelens": " ".join(VAELENS), **environment},
        timeout=300,
    )


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
def stop(request: pytest.FixtureRequest) -> signal.Signals:
    number: signal.Signals = request.param
    return number


def test_a_signal_during_an_import_waits_for_its_end(
    stop: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        f"import signal, time\nsignal.raise_signal({int(stop)})\ntime.sleep(0.2)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    went_on = []

    def command() -> None:
        import time

        import slow_to_import  # type: ignore[import-not-found]

        assert slow_to_import.whole
        time.sleep(5)
        went_on.append(True)

    assert run_command(command) == 128 + stop
    assert "slow_to_import" in sys.modules
    del sys.modules["slow_to_import"]
    assert not went_on
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_second_signal_does_not_cut_off_what_the_first_one_undoes(
    stop: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(stop)
    undone = []

    def command() -> None:
        try:
            signal.raise_signal(stop)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(stop)
            undone.append(True)

    assert run_command(command) == 128 + stop
    assert undone == [True]
    assert signal.getsignal(stop) is before
    assert "nothing half-written" in capsys.readouterr().err


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command(lambda: signal.raise_signal(signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "2>/dev/full"])
def test_closed_streams_do_not_matter(closed: str, tiny_run: Path, tmp_path: Path) -> None:
    done = shell(f"$vaelens score {tiny_run} digits/0043 --out out {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert done.stdout.startswith("1 images") != (">&-" in closed.split())
    misused = shell(f"$vaelens --nonsense {closed}", tmp_path)
    assert misused.returncode == 2
    assert misused.stdout == ""


def test_a_name_that_the_terminal_has_no_code_for(tiny_run: Path, tmp_path: Path) -> None:
    done = shell(f"$vaelens score {tiny_run} digits/0043 --out ü", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\xfc" in done.stdout
    done = shell(f"$vaelens explain {tiny_run} digits/0043 --out \"$(printf 'o\\377')\"", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_run_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    line = 'out="$(printf \'r\\377\')"; $vaelens train digits --epochs 1 --latents 2 --quiet --out "$out" '
    done = shell(line + '&& $vaelens evaluate "$out" --localizer kl --quiet', tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kl" in done.stdout


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    done = shell('mkdir gone; cd gone; rmdir "$PWD"; $vaelens evaluate run', tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "vaelens: error: the current folder cannot be read (No such file or directory); change to another"
    ]


def test_an_escape_sequence_does_not_reach_the_terminal(fails: Callable[..., str], tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J").touch()
    assert "\\x1b[2J" in fails("explain", tiny_run, "digits/0043", "--out", tmp_path / "a\x1b[2J", code=2)


@pytest.mark.parametrize("how", [("--overwrite",), ("--resume",)])
def test_stopped_before_it_began_a_training_speaks_of_its_own_run_alone(
    how: tuple[str], cli: Callable[..., Any], tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = (tiny_copy / "config.yaml").read_bytes()
    monkeypatch.setattr("vaelens.runs.train.load_split", stopped)
    done = cli("train", "digits", "--epochs", 5, "--out", tiny_copy, "--quiet", *how)
    assert done.code == 130
    assert done.err.startswith("vaelens: ")
    assert ("go on with" in done.err) == (how == ("--resume",))
    assert (tiny_copy / "config.yaml").read_bytes() == before


def test_reproduce_says_how_to_go_on(
    cli: Callable[..., Any], small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaelens.runs import train

    def stopped(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    arguments = ("reproduce", "figure1", "--root", small_mnist, "--epochs", 1, "--out", tmp_path / "f", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(train, "calibrate", stopped)
        done = cli(*arguments)
    assert done.code == 128 + signal.SIGTERM
    assert "the same call goes on" in done.err
    assert "half-written" not in done.err
    assert cli(*arguments).code == 0
