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
