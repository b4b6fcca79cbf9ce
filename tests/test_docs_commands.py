"""Commands that the how-tos print are run as printed, beside a tiny run, a file with a model and a folder of diffusers."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
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
