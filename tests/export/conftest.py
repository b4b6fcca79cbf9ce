"""Runs to export: with first weights, of whatever images a test has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vaelens.localizers import Calibration
from vaelens.localizers.attention import codes
from vaelens.models import build
from vaelens.runs import Run, RunConfig
from vaelens.runs.localizers import fitted
from vaelens.training import TrainSettings

HELD_OUT = 39  # with which 5 % of false alarms are two images


@pytest.fixture(scope="session")
def made_run() -> Callable[..., Run]:
    """Makes a run in memory of a network with first weights: normal images and held-out ones as given."""

    def make(network: str, images: Tensor, dataset: str = "folder", **of_preparation: Any) -> Run:
        torch.manual_seed(1)
        channels, height, width = shape = tuple(images.shape[1:])
        model = build(network, 6, shape).eval()
        preparation = {"size": [height, width], "channels": channels, "frames": 1, "brightness": False} | of_preparation
        config = RunConfig(
            dataset={
                **{"name": dataset, "root": None, "normal": None, "category": None, "held_out": 0.1, "seed": 0},
                "preparation": None if dataset == "dsprites" else preparation,
            },
            network={"name": network, "input_shape": list(shape), "latent_dim": 6},
            training=TrainSettings.for_network(network).to_dict(),
            explain={"layer": None, "fixed_camera": False},
            objective="vae",
        )
        held_out, normal = images[:HELD_OUT], images[HELD_OUT:]
        mean, logvar = codes(model, held_out)
        tensors = {"normal.images": normal, "held_out.images": held_out, "held_out.mean": mean, "held_out.logvar": logvar}
        if dataset != "dsprites":
            measured = Calibration.measure(fitted("deviation", model, config, normal), held_out)
            tensors |= {"score.deviation": measured.scores, "peak.deviation": measured.peaks}
        return Run(Path("made"), config, model, tensors, {})

    return make


def read(files: list[Path], size: tuple[int, int]) -> Tensor:
    """Grey images (N, 1, H, W), uint8, stretched to a size."""
    images = [np.array(Image.open(file).convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)) for file in files]
    return torch.from_numpy(np.stack(images))[:, None]


@pytest.fixture(scope="session")
def pedestrians(real_data: Path) -> Callable[[tuple[int, int]], tuple[Tensor, Tensor]]:
    """Normal frames of UCSD Ped2 and 100 test frames, at a size."""
    of = real_data / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"

    def frames(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        normal = sorted(of.glob("Train/Train*/[0-9]*.tif"))[::20]
        return read(normal, size), read(sorted(of.glob("Test/Test0[0-9][0-9]/[0-9]*.tif"))[::20][:100], size)

    return frames


@pytest.fixture(scope="session")
def screws(real_data: Path) -> Callable[[tuple[int, int]], tuple[Tensor, Tensor]]:
    """Normal screws of MVTec AD and 100 test images, at a size."""
    of = real_data / "mvtec_ad" / "screw"

    def images(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return read(sorted(of.glob("train/good/*.png"))[::3], size), read(sorted(of.glob("test/*/*.png"))[:100], size)

    return images
