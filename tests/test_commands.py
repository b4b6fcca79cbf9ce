"""The command line as a person uses it: real processes, their exit codes, their one line of error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

VAELENS = [sys.executable, "-m", "vaelens"]


def vaelens(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*VAELENS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=500)


def fails_alone(*arguments: object, code: int, cwd: Path | None = None) -> str:
    """A process of its own that must fail; in this one, which is quicker, the fixture `fails` does the same."""
    done = vaelens(*arguments, cwd=cwd)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vaelens: error: ")
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("command", ["demo", "train", "explain", "score", "evaluate", "reproduce"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: vaelens {command}" in vaelens(command, "--help").stdout


def test_misuse_is_one_line_and_exit_code_2(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert "there are: digits, mnist" in fails_alone("train", "fashion", "--out", out, code=2)
    assert "closed_form" in fails_alone("explain", tiny_run, "digits/0043", "--method", "magic", "--out", out, code=2)
    assert "*.png" in fails_alone("score", tiny_run, tmp_path / "empty", "--out", out, code=2)
    assert "deviation" in fails_alone("evaluate", tiny_run, "--localizer", "guess", code=2)
    assert "--epochs" in fails_alone("train", "digits", "--epochs", "many", "--out", out, code=2)
    # by the name that a person typed
    assert " --held-out " in fails_alone("train", "digits", "--held-out", 1.5, "--out", out / "held_out", code=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_all_misuse_is_one_line(tiny_run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """In this process, which saves the seconds that each import of torch takes."""
    out = tmp_path / "out"
    one = ("explain", tiny_run, "digits/0043", "--out", out)
    assert "11" in fails("train", "digits", "--normal", 11, "--out", out, code=2)
    assert "encoder.relu2" in fails("train", "digits", "--layer", "conv9", "--out", out, code=2)
    assert "encoder.relu2" in fails(*one, "--layer", "decoder.0", code=2)
    assert "no closed form" in fails(*one, "--layer", "encoder.conv1", "--method", "closed_form", code=2)
    assert "latent 8" in fails(*one, "--latents", "8", code=2)
    assert "top" in fails(*one, "--latents", "top" + "9" * 5000, code=2)
    assert "no.png" in fails("explain", tiny_run, tmp_path / "no.png", "--out", out, code=2)
    assert "false-alarm" in fails("score", tiny_run, "digits", "--false-alarms", "2", "--out", out, code=2)
    assert "accelerator" in fails("score", tiny_run, "digits", "--accelerator", "tpu", "--out", out, code=2)
    assert "figure4" in fails("reproduce", "figure7", "--out", out, code=2)
    assert "--help" in fails("train", code=2)
    for option in ("--batch-size", "--latents", "--epochs", "--seed"):
        assert "at most" in fails("train", "digits", option, 10**30, "--out", out, code=2)
    for option in ("--batch-size", "--latents"):
        assert fails("train", "digits", option, 0, "--out", out / "held_out", code=2).startswith(f"{option} ")
    assert str(out / "held_out") in fails("evaluate", out / "held_out", code=1)  # a part of a path stays
    assert "layer ''" in fails("explain", tiny_run, "digits/0043", "--layer", "", "--out", out, code=2)
    assert "without a name" in fails("explain", tiny_run, "", "--out", out, code=2)
    assert "--root" in fails("train", "mnist", "--root", tmp_path / "gone", "--out", out, code=2)
    assert not list(tmp_path.iterdir())


def test_failures_are_one_line_and_exit_code_1(tiny_run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "mnist").mkdir()
    assert "train-images-idx3-ubyte" in fails("train", "mnist", "--root", tmp_path / "mnist", "--out", tmp_path / "r", code=1)
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in fails_alone("explain", tiny_run, tmp_path / "text.png", "--out", tmp_path / "e", code=1)
    assert "no run" in fails("evaluate", tmp_path / "nowhere", code=1)
    assert "/proc/nowhere" in fails("explain", tiny_run, "digits/0043", "--out", "/proc/nowhere/out", code=1)
    broken = Path(shutil.copytree(tiny_run, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"0" * 100)
    assert "damaged" in fails_alone("evaluate", broken, code=1)
    (broken / "metrics.json").unlink()
    assert "--resume" in fails("evaluate", broken, code=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "mnist", "text.png"]


def test_full_disk(tiny_run: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here (needs root)")
    try:
        assert "space" in fails_alone("explain", tiny_run, "digits/0043", "--out", disk / "out", code=1)
        assert list(disk.iterdir()) == []
        training = fails_alone("train", "digits", "--epochs", "1", "--latents", "4", "--quiet", "--out", disk / "run", code=1)
        assert "space" in training
        assert str(disk / "run") in training
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_json_is_all_that_stdout_holds(
    tiny_run: Path, tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    result = json.loads(vaelens("evaluate", run, "--json").stdout)
    assert set(result["localizers"]) == {"mean-sum", "normal-difference", "deviation", "kl", "reconstruction"}
    for scores in result["localizers"].values():
        assert {"pixel_auroc", "pixel_ap", "aupro", "best_iou", "calibrated_iou", "image_auroc", "per_defect"} <= set(scores)
        assert set(scores["per_defect"]) == set("023456789")
    assert (run / "report" / "report.html").is_file()
    explained = json.loads(cli("explain", run, "digits/0043", "--out", tmp_path / "e", "--json").out)
    assert len(explained["images"][0]["mean"]) == 8
    scored = json.loads(cli("score", run, "digits", "--no-pictures", "--out", tmp_path / "s", "--json").out)
    assert len(scored["images"]) == 359
    report = (tmp_path / "s" / "report.html").read_text()
    assert "The gallery shows 50 of 359 images" in report
    few = ("score", run, "digits", "--no-pictures", "--out", tmp_path / "few")
    assert cli(*few, "--cards", 7).code == 0
    assert "The gallery shows 7 of 359 images: the 6 with the highest" in (tmp_path / "few" / "report.html").read_text()
    assert "cards" in fails(*few, "--overwrite", "--cards", 501, code=2)
    again = fails("score", run, "digits", "--out", tmp_path / "s", code=2)
    assert "--overwrite" in again
    assert cli("score", run, "digits", "--no-pictures", "--out", tmp_path / "s", "--overwrite").code == 0


def test_demo_ends_in_a_report_and_replaces_itself(tmp_path: Path, cli: Callable[..., Any]) -> None:
    arguments = ("demo", "--epochs", "1", "--out", tmp_path / "demo", "--quiet")
    done = vaelens(*arguments)
    assert done.returncode == 0, done.stderr
    again = cli(*arguments)
    assert again.code == 0, again.err
    for printed in (done.stdout, again.out):
        assert str(tmp_path / "demo" / "report.html") in printed
    assert (tmp_path / "demo" / "anomalies.png").is_file()
    assert "digits/" in (tmp_path / "demo" / "report.html").read_text()


STOPPED = ["--epochs", "12", "--latents", "4", "--batch-size", "32", "--quiet"]


@pytest.fixture(scope="module")
def never_stopped(cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of a training that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli("train", "digits", "--out", out, *STOPPED).code == 0
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_stopped_training_resumes_to_the_same_weights(
    stop: signal.Signals, tmp_path: Path, never_stopped: dict[str, Any], fails: Callable[..., str]
) -> None:
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        [*VAELENS, "train", "digits", "--out", str(out), *STOPPED],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    _, said = process.communicate(timeout=60)
    assert not (out / "metrics.json").exists(), "stopped before its end"
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert f"vaelens train digits --out {out} --resume" in said
    assert "--resume" in fails("evaluate", out, code=1)
    resumed = vaelens("train", "digits", "--out", out, "--resume", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    stopped = load_file(out / "model.safetensors")
    assert all((never_stopped[name] == stopped[name]).all() for name in never_stopped)


def test_the_main_job_on_real_mnist(real_data: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    run = tmp_path / "ones"
    done = vaelens("train", "mnist", "--root", real_data / "mnist", "--normal", 1, "--epochs", 1, "--out", run, "--quiet")
    assert done.returncode == 0, done.stderr
    result = json.loads(vaelens("evaluate", run, "--localizer", "deviation,reconstruction", "--json", "--quiet").stdout)
    assert result["images"] == {
        "train": 6068, "calibration": 674, "test": 10000, "test_normal": 1135, "test_anomalous": 8865,
    }  # fmt: skip
    assert result["localizers"]["reconstruction"]["image_auroc"] > 0.99
    assert result["localizers"]["deviation"]["image_auroc"] > 0.97
    assert result["localizers"]["deviation"]["false_alarms"] < 0.08
    assert cli("explain", run, "mnist/test/00000", "--out", tmp_path / "explained").code == 0


def test_figures_of_runs_on_real_mnist(
    mnist_runs: dict[int, Path], tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]
) -> None:
    for figure in ("figure1", "figure4"):
        assert "no run" in fails("reproduce", figure, "--run", tmp_path / "none", "--out", tmp_path / "f", code=1)
    for figure, runs in (("figure1", (mnist_runs[3],)), ("figure4", (mnist_runs[1], mnist_runs[3]))):
        given = [part for one in runs for part in ("--run", one)]
        drawn = cli("reproduce", figure, *given, "--out", tmp_path / figure, "--json")
        assert drawn.code == 0, drawn.err
        assert Path(json.loads(drawn.out)["files"][0]).read_bytes().startswith(b"\x89PNG")


def test_a_truncated_idx_file_is_named(real_data: Path, tmp_path: Path) -> None:
    for file in (real_data / "mnist").iterdir():
        shutil.copy(file, tmp_path / file.name)
    broken = tmp_path / "train-images-idx3-ubyte.gz"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 3])
    assert broken.name in fails_alone("train", "mnist", "--root", tmp_path, "--out", tmp_path / "run", code=1)
    assert not (tmp_path / "run").exists()


def test_nothing_of_the_environment_is_needed(tiny_run: Path, tmp_path: Path) -> None:
    """Scoring works without a home or a cache folder that can be written."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    command = [*VAELENS, "score", str(tiny_run), "digits", "--no-pictures", "--out", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "HOME": "/nonexistent"})
    assert done.returncode == 0, done.stderr
