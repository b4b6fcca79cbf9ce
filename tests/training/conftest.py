"""The small runs as fixtures: test folders are no packages, so their files are loaded by path."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vaelens.objectives import Discriminator

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and one of these imports the other
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return load("small_run")


@pytest.fixture(scope="session")
def drawn(small: ModuleType) -> ModuleType:
    return load("drawn_run")


@pytest.fixture(scope="module")
def small_discriminator(drawn: ModuleType) -> Iterator[None]:
    """Discriminators of few units, for all that a module trains in this process."""
    units = Discriminator.__init__.__defaults__
    drawn.small_discriminator()
    yield
    Discriminator.__init__.__defaults__ = units
