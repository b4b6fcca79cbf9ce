"""Commands that the how-tos print are run as printed, beside a tiny run, a file with a model and a folder of diffusers.

On demand every page is run whole, on the real data, by a shell: as a reader would who had no time, since what trains is told
to stop after an epoch or a few steps.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("explain", "judge", "ship", "share")
MODEL = """
from torch import nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16 * 16, 16))
        nn.init.constant_(self.head[1].bias, -1.0)

    def encode(self, images):
        return self.head(self.features(images)).chunk(2, dim=1)


def build():
    return VAE()
"""


def commands() -> list[str]:
    """Those on runs/ones, on a model or on nothing, that need no network, no other data and no training."""
    found = []
    for page in PAGES:
        text = (DOCS / f"{page}.md").read_text()
        found += [line.strip() for line in re.findall(r"^(?: {4})?vaelens .*$", text, flags=re.M)]
    ours = [line.partition(" #")[0].strip() for line in found]
    return sorted({line for line in ours if not re.search(r"vaelens train|--to |>|runs/(?!ones)", line)})


@pytest.fixture(scope="module")
def place(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    place = tmp_path_factory.mktemp("reader")
    for name in ("ones", "ones-1"):
        shutil.copytree(tiny_run, place / "runs" / name)
    (place / "vae.py").write_text(MODEL)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    AutoencoderKL(block_out_channels=(4, 4, 4), norm_num_groups=2, latent_channels=2, **blocks).save_pretrained(place / "vae")
    return place


def test_there_are_some_of_every_page() -> None:
    verbs = {line.split()[1] for line in commands()}
    assert verbs == {"layers", "evaluate", "export", "share"}
    assert len(commands()) >= 8


def _slow(line: str) -> Any:
    return pytest.param(line, marks=pytest.mark.long) if "--faithfulness" in line else line


@pytest.mark.parametrize("line", [_slow(line) for line in commands()])
def test_as_printed(line: str, place: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    done = cli(*shlex.split(line)[1:])
    assert done.code == 0, done.err
    assert done.out.strip()


SHIM = """#!/bin/bash
# The command with its training cut short; what needs a network is left out.
real() { exec "$PYTHON" -m vaelens "$@"; }
case " $* " in
    *" --to "*) exit 0 ;;
    *" --resume "*) real "$@" ;;
    " train dsprites "*) real "$@" --steps 20 ;;
    " train "*" --localizer "*|" train mnist "*|" train digits "*) real "$@" --epochs 1 ;;
    " train "*) real "$@" --epochs 1 --localizer learned:pool=64:steps=20 ;;
    " reproduce table3 --run "*|" reproduce figure8 --run "*|" reproduce figure9 "*) real "$@" ;;
    " reproduce table3 "*|" reproduce figure8 "*) real "$@" --steps 20 --seeds 0 ;;
    " reproduce table"*) real "$@" --epochs 1 --seeds 0 ;;
    " reproduce "*) real "$@" --epochs 1 ;;
    *) real "$@" ;;
esac
"""
OTHERS = {
    "pip": "exit 0",
    "make": "exit 0",
    # benchmarks have tests of their own; examples are run
    "python": '[ -f "$ROOT/$1" ] || exit 3; case "$1" in examples/*) exec "$PYTHON" "$ROOT/$1" "${@:2}";; esac',
}


def script_of(page: Path) -> str:
    """All commands of a page, those in blocks of sh and indented ones, in their order; each new run in a folder of its own."""
    lines: list[str] = []
    language: str | None = None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language == "sh" or (language is None and re.match(r" {4}(vaelens|python|pip|make) ", line)):
            command = line if language == "sh" else line.strip()
            if command.startswith("vaelens ") and "--resume" not in command:
                made = re.findall(r"--out (\S+)|> (\S+)", command)
                lines += [f"rm -rf {out}" for out, _ in made if out and "$" not in out]
                lines += [f"mkdir -p $(dirname {file})" for _, file in made if file]
            lines.append(command)
    return "\n".join(lines)


@pytest.fixture
def reader(tmp_path: Path, real_data: Path, place: Path) -> Path:
    """What a reader has: the data sets, images of their own, a model."""
    from PIL import Image

    from vaelens.data import mnist

    there = tmp_path / "reader"
    shutil.copytree(place, there)
    (there / "data").symlink_to(real_data)
    tiles = sorted((real_data / "magnetic_tile" / "test").rglob("*.jpg"))[::150]
    for folder in ("tiles/new", "tiles_new"):
        (there / folder).mkdir(parents=True)
        for tile in tiles:
            shutil.copy(tile, there / folder)
    (there / "tiles" / "train").symlink_to(real_data / "magnetic_tile" / "train")
    (there / "photos").mkdir()
    digits = mnist.load(real_data / "mnist")[1].images[:3, 0].numpy()
    for name, digit in zip(("photo.png", "seven.png", "photos/one.png"), digits, strict=True):
        Image.fromarray(digit).save(there / name)
    shims = there / "shims"
    shims.mkdir()
    for name, content in {"vaelens": SHIM, **{name: f"#!/bin/bash\n{does}\n" for name, does in OTHERS.items()}}.items():
        (shims / name).write_text(content)
        (shims / name).chmod(0o755)
    return there


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_the_whole_page(page: Path, reader: Path) -> None:
    script = script_of(page)
    if not script:
        pytest.skip("no commands on this page")
    paths = {"PATH": f"{reader / 'shims'}:{os.environ['PATH']}", "PYTHON": sys.executable, "ROOT": str(ROOT)}
    done = subprocess.run(
        ["bash", "-exu", "-c", script], cwd=reader, env={**os.environ, **paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
