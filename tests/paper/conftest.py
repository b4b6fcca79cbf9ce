"""Made-up data of the official layouts, and presets small enough for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaelens.data import ucsd
from vaelens.paper import anomaly_runs

SIDE = 32
TINY = {"network": "compact", "size": (SIDE, SIDE), "latent_dim": 4, "batch_size": 8, "epochs": 1, "precision": "32"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small preset trains networks of 32x32 for one epoch."""
    monkeypatch.setattr(anomaly_runs, "UCSD", {**anomaly_runs.UCSD, "small": TINY})
    monkeypatch.setattr(anomaly_runs, "MVTEC", {**anomaly_runs.MVTEC, "small": TINY})
    compared = {"size": (SIDE, SIDE), "epochs": 1, "batch_size": 8, "latent_dim": 8, "precision": "32"}
    monkeypatch.setattr(anomaly_runs, "COMPARED", {**anomaly_runs.COMPARED, "small": compared})


def _frame(rng: np.random.Generator) -> np.ndarray:
    """A bright path between dark edges, with noise."""
    pixels = np.full((SIDE, SIDE), 60.0)
    pixels[:, 8:24] = 170
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _marked(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame with a dark square on the path, and its mask."""
    pixels, mask = _frame(rng), np.zeros((SIDE, SIDE), np.uint8)
    if size:
        mask[10 : 10 + size, 12 : 12 + size] = 255
        pixels[mask > 0] = 20
    return pixels, mask


@pytest.fixture
def pedestrians(tmp_path: Path) -> Path:
    """Ped2: three training clips of six frames, and two test clips whose squares have sides 0, 4, 6, 6 and 0, 5, 3, 0."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / ucsd.FOLDER / "UCSDped2"
    for clip in (1, 2, 3):
        for frame in range(1, 7):
            _save(folder / "Train" / f"Train{clip:03d}" / f"{frame:03d}.tif", _frame(rng))
    for clip, sizes in ((1, (0, 4, 6, 6)), (2, (0, 5, 3, 0))):
        for frame, size in enumerate(sizes, start=1):
            pixels, mask = _marked(rng, size)
            _save(folder / "Test" / f"Test{clip:03d}" / f"{frame:03d}.tif", pixels)
            _save(folder / "Test" / f"Test{clip:03d}_gt" / f"{frame:03d}.bmp", mask)
    return tmp_path / "data"


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """MVTec AD's screw and grid with 20 good images to train on, 2 to test on, and two images of each of two defects."""
    rng = np.random.default_rng(1)
    root = tmp_path / "mvtec"
    for category in ("screw", "grid"):
        for i in range(20):
            _save(root / category / "train" / "good" / f"{i:03d}.png", _frame(rng))
        for i in range(2):
            _save(root / category / "test" / "good" / f"{i:03d}.png", _frame(rng))
            for defect, size in (("scratch", 4), ("bent", 6)):
                pixels, mask = _marked(rng, size)
                _save(root / category / "test" / defect / f"{i:03d}.png", pixels)
                _save(root / category / "ground_truth" / defect / f"{i:03d}_mask.png", mask)
    return root
