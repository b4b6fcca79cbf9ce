"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


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
def younger_settings() -> dict[str, Any]:
    """Settings of training that runs of before lack, and what stands for them there."""
    counted: dict[str, Any] = {"steps_per_epoch": None, "kl_start": 0.0}
    rate = {"rate_warmup_epochs": 0.0, "rate_cooldown_epochs": 0.0}
    latents = {"gather_after": None, "turn_after": None, "wake_after": None}
    factor = {"gamma": None, "discriminator_learning_rate": None, "standardize_after": None, "pooled_until": None}
    attention = {"ad_weight": None, "ad_pairs": "all", "ad_rectifier": "relu", "ad_layer": None}
    return counted | rate | latents | factor | attention


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on embedded digits: digit 1, 8 latents, 3 epochs. Copy it before writing into it."""
    from vaelens.runs.train import train_run

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


def texture(rng: np.random.Generator, height: int, width: int) -> Any:
    """Soft checks at a random offset with a little noise: (H, W), values in [0, 1]."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    waves = np.sin(2 * np.pi * (3 * x + 0.3 * rng.random())) * np.cos(2 * np.pi * 2 * y)
    return np.clip(0.5 + 0.3 * waves + 0.03 * rng.standard_normal((height, width)), 0, 1)


@pytest.fixture(scope="session", autouse=True)
def quick_learning() -> Iterator[None]:
    """The head of localizer 'learned' sees few images for a few steps: what it finds is measured by tests of its own."""
    from vaelens.localizers.learned import LearnedLocalizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearnedLocalizer, "POOL", 16)
        patch.setattr(LearnedLocalizer, "STEPS", 4)
        yield


@pytest.fixture(scope="session")
def defect_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of MVTec AD: 40 normal images, 6 good and 8 with a defect of two types; sizes and formats differ."""
    root, rng = tmp_path_factory.mktemp("defects"), np.random.default_rng(0)
    sizes = ((40, 48), (64, 64), (50, 36))
    for place in ("train/good", "test/good", "test/spot", "test/line", "ground_truth/spot", "ground_truth/line"):
        (root / place).mkdir(parents=True)
    for i in range(40):
        values, deep = texture(rng, *sizes[i % 3]), i % 3 == 2
        picture = Image.fromarray((values * 65535).astype(np.uint16) if deep else (values * 255).astype(np.uint8))
        picture.save(root / "train" / "good" / f"{i:03d}.{'jpg' if i % 3 == 1 else 'png'}")
    for i in range(6):
        Image.fromarray((texture(rng, *sizes[i % 3]) * 255).astype(np.uint8)).save(root / "test" / "good" / f"{i:03d}.png")
    for defect in ("spot", "line"):
        for i in range(4):
            height, width = sizes[i % 3]
            values, mask = texture(rng, height, width), np.zeros((height, width), bool)
            if defect == "spot":
                mask[height // 3 : height // 3 + height // 5, width // 3 : width // 3 + width // 5] = True
            else:
                mask[height // 2 : height // 2 + 3, 4 : width - 4] = True
            values[mask] = 1 - values[mask]
            Image.fromarray((values * 255).astype(np.uint8)).save(root / "test" / defect / f"{i:03d}.png")
            Image.fromarray(mask).save(root / "ground_truth" / defect / f"{i:03d}_mask.png")
    return root


@pytest.fixture(scope="session")
def folder_run(defect_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on `defect_root`: 20 images of 32x32, 20 more held out, 8 latents, 2 epochs. Copy it before writing into it."""
    from vaelens.runs.train import train_run

    out = tmp_path_factory.mktemp("folder") / "run"
    options: dict[str, Any] = {"size": 32, "network": "compact", "held_out": 0.5, "latent_dim": 8}
    train_run(out, "folder", root=defect_root, epochs=2, batch_size=8, progress=False, **options)
    return out


@pytest.fixture
def folder_copy(folder_run: Path, tmp_path: Path) -> Path:
    """A copy of the run on `defect_root` to write into, as it was after training."""
    return Path(shutil.copytree(folder_run, tmp_path / "run", ignore=shutil.ignore_patterns("floor*", "feature*", "report*")))


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
    from vaelens.runs.train import train_run

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
    from vaelens.commands import option_values
    from vaelens.console import run_command

    def run(*arguments: Any) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(
                lambda: app([str(a) for a in arguments], standalone_mode=False), lambda: option_values.names_of(app)
            )
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


class FewSprites:
    """Every combination of a few values of dSprites' factors, in their order: 432 images, where all are 737,280."""

    factor_names = ("shape", "scale", "orientation", "posX", "posY")
    factor_sizes = (3, 3, 3, 4, 4)
    image_shape = (1, 64, 64)
    VALUES = ((0, 1, 2), (0, 2, 5), (0, 7, 21), (0, 10, 20, 31), (0, 10, 20, 31))

    def __init__(self) -> None:
        from vaelens.data.sprites import render

        grid = np.stack(np.meshgrid(*self.VALUES, indexing="ij"), axis=-1).reshape(-1, 5)
        self._images = torch.from_numpy(render(grid)).float()[:, None]
        self._factors = np.stack(np.unravel_index(np.arange(len(grid)), self.factor_sizes), axis=1).astype(np.int16)
        self.names = tuple(f"sprite {number}" for number in range(len(grid)))

    def __len__(self) -> int:
        return len(self._images)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(len(self), (count,), generator=generator)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        return self._images[indices]

    def factors(self) -> Any:
        return self._factors

    def numbers(self, latent_classes: Any) -> torch.Tensor:
        return torch.from_numpy(np.ravel_multi_index(tuple(np.asarray(latent_classes).T), self.factor_sizes))


@pytest.fixture(scope="session")
def all_few_sprites() -> FewSprites:
    return FewSprites()


@pytest.fixture
def few_sprites(all_few_sprites: FewSprites, monkeypatch: pytest.MonkeyPatch) -> FewSprites:
    """dSprites is these few images for a test."""
    from vaelens import data

    monkeypatch.setitem(data.FACTOR_DATASETS, "dsprites", lambda root, progress: all_few_sprites)
    return all_few_sprites


@pytest.fixture(scope="module")
def shared_sprites(all_few_sprites: FewSprites) -> Iterator[FewSprites]:
    """dSprites is these few images for the fixtures of a module."""
    from vaelens import data

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.FACTOR_DATASETS, "dsprites", lambda root, progress: all_few_sprites)
        yield all_few_sprites
