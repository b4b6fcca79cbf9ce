"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that VAELENS_DATA names; tests that need it skip without it."""
    root = os.environ.get("VAELENS_DATA")
    if not root:
        pytest.skip("set VAELENS_DATA to the folder of real data sets to run this test")
    folder = Path(root)
    if not folder.is_dir():
        pytest.fail(f"VAELENS_DATA names {folder}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on embedded digits: digit 1, 8 latents, 3 epochs. Copy it before writing into it."""
    from vaelens.oneclass import train_run

    out = tmp_path_factory.mktemp("run") / "tiny"
    train_run(out, "digits", epochs=3, batch_size=32, latent_dim=8, progress=False)
    return out


@pytest.fixture
def tiny_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run to damage, without its checkpoint. Replace its weights, never change them in place."""
    out = tmp_path / "run"
    out.mkdir()
    for file in tiny_run.iterdir():
        if file.name == "model.safetensors":
            (out / file.name).hardlink_to(file)
        elif file.is_file():
            shutil.copy(file, out)
    return out


@pytest.fixture(scope="session")
def small_mnist(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real MNIST cut short: its first 3,000 training and 500 test images, as idx files."""
    out = tmp_path_factory.mktemp("mnist")
    for name, values, count in (
        ("train-images-idx3-ubyte", 784, 3000),
        ("train-labels-idx1-ubyte", 1, 3000),
        ("t10k-images-idx3-ubyte", 784, 500),
        ("t10k-labels-idx1-ubyte", 1, 500),
    ):
        with gzip.open(real_data / "mnist" / f"{name}.gz") as file:
            head = 16 if values > 1 else 8
            content = file.read(head + values * count)
        (out / name).write_bytes(content[:4] + struct.pack(">I", count) + content[8:])
    return out


@pytest.fixture(scope="session")
def mnist_runs(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs on real MNIST digits 1 and 3, cut short, 1 epoch each."""
    from vaelens.oneclass import train_run

    out = tmp_path_factory.mktemp("mnist-runs")
    for digit in (1, 3):
        train_run(
            out / str(digit), "mnist", normal=digit, root=small_mnist, epochs=1, batch_size=32, latent_dim=8, progress=False
        )
    return {digit: out / str(digit) for digit in (1, 3)}


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cli() -> Callable[..., Done]:
    """Runs a command line in this process, as `vaelens` does, without the seconds that importing torch takes."""
    from vaelens.cli import app
    from vaelens.console import run_command

    def run(*arguments: Any) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(lambda: app([str(a) for a in arguments], standalone_mode=False))
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def fails(cli: Callable[..., Done]) -> Callable[..., str]:
    """Runs a command line that must fail: with this exit code, nothing on stdout and one line on stderr, which it returns."""

    def run(*arguments: Any, code: int) -> str:
        done = cli(*arguments)
        lines = done.err.strip().splitlines()
        assert done.code == code, done.err or done.out
        assert done.out == ""
        assert len(lines) == 1, done.err
        assert lines[0].startswith("vaelens: error: ")
        return lines[0].removeprefix("vaelens: error: ")

    return run
