"""`vaelens layers` on models of one's own, of diffusers and on runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OWN = """
import torch
from torch import nn
from torch.nn import functional as F


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 4, 2, 1)
        self.fc = nn.Linear(64, 6)
        nn.init.constant_(self.fc.bias, -1.0)  # log variances as of a trained model

    def encode(self, images):
        return {"code": self.fc(F.relu(self.conv(images)).flatten(1)).chunk(2, 1)}


class Good(Mine):
    input_shape = (1, 8, 8)

    def encode(self, images):
        return super().encode(images)["code"]


good = Good()
number = 3


def broken():
    raise ValueError("no weights here")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "mine.py").write_text(OWN)
    (folder / "wrong.py").write_text("import nowhere_to_be_found\n")
    (folder / "empty").mkdir()
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2, **blocks).save_pretrained(folder / "kl")
    return folder


def test_a_model_of_ones_own(folder: Path) -> None:
    """As a process of its own."""
    command = [sys.executable, "-m", "vaelens", "layers", "mine.py:good"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("│ ").split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["images", "1 x 8 x 8", "batched vector-Jacobian products"],
        ["conv", "4 x 4 x 4", "batched vector-Jacobian products"],
        ["relu (default)", "4 x 4 x 4", "closed form: one matrix product"],
    ]
    assert "images: the images themselves, by variant 'hirescam' alone" in done.stdout
    assert "conv: no closed form: 'relu' (ReLU) acts on each pixel before the first linear layer" in done.stdout


def test_what_has_to_be_said_of_a_model(folder: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = cli("layers", "mine:Mine", "--input", "1x8x8", "--mean", "code.0", "--logvar", "code.1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["layers"]
    assert found[2] == {
        "layer": "relu", "shape": [4, 4, 4], "way": "closed_form", "why": "", "default": True, "by_pixel": False,
    }  # fmt: skip
    assert [(entry["layer"], entry["by_pixel"]) for entry in found[:2]] == [("images", True), ("conv", False)]


def test_a_folder_of_diffusers(folder: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = cli("layers", "kl", "--pooled", "--input", "3x16x16", "--json")
    assert done.code == 0, done.err
    assert done.err == ""
    found = {entry["layer"]: entry for entry in json.loads(done.out)["layers"]}
    assert found["encoder.conv_act"]["default"]
    assert found["encoder.conv_act"]["shape"] == [4, 16, 16]


def test_a_run(tiny_run: Path, cli: Callable[..., Any]) -> None:
    done = cli("layers", tiny_run, "--json")
    assert done.code == 0, done.err
    assert [entry["way"] for entry in json.loads(done.out)["layers"] if entry["default"]] == ["closed_form"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nothing.py:good",), 2, "nothing.py does not exist"),
        (("mine.py",), 2, "a model is file.py:NAME"),
        (("mine.py:nothing",), 2, "mine.py has no 'nothing'; its models are: good"),
        (("mine.py:number",), 2, "mine.py:number is a int and no torch.nn.Module"),
        (("mine.py:broken",), 1, "mine.py:broken cannot be made: ValueError: no weights here"),
        (("wrong.py:good",), 1, "wrong.py cannot be run: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (("no.such.module:good",), 2, "there is no module no"),
        (("empty",), 2, "empty is no run and no folder of diffusers"),
        (("mine.py:Mine",), 2, "mine.py:Mine does not say what images it takes; say so with --input"),
        (("mine.py:Mine", "--input", "1x8x8"), 2, "Mine.encode returns a dict ('code' is a tuple)"),
        (("mine.py:good", "--input", "8x8"), 2, "--input takes channels, height and width such as 3x64x64, got '8x8'"),
        (("mine.py:good", "--input", "1x12x12"), 2, "Good.encode does not take images (2, 1, 12, 12)"),
        (("mine.py:good", "--grid", "4"), 2, "--grid takes two whole numbers such as 4x6, got '4'"),
        (("mine.py:good", "--position", "1x1"), 2, "--position takes two whole numbers such as 4,6, got '1x1'"),
        (("mine.py:good", "--mean", "a:b"), 2, "--mean takes a name, an index or columns such as 0:10, got 'a:b'"),
        (("kl", "--input", "3x16x16"), 2, "AutoencoderKL.encode gives a posterior with places, (B, 2, 16, 16); say what"),
    ],
)
def test_misuse_is_one_line(
    folder: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    done = cli("layers", *arguments)
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.startswith(f"vaelens: error: {said}"), done.err
    assert done.err.count("\n") == 1
