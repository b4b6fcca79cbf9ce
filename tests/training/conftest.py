"""The small run as a fixture: test folders are no packages, so its file is loaded by path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SMALL_RUN = Path(__file__).with_name("small_run.py")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    spec = importlib.util.spec_from_file_location("small_run", SMALL_RUN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_run"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
