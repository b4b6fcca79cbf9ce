"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

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
