"""What training changes for the whole process, put back when it ends."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic


@contextmanager
def unchanged_globals(accelerator: str) -> Iterator[None]:
    """Puts back what training changes for the whole process: torch's generators, gradient mode and determinism."""
    cuda = accelerator == "cuda"
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []), torch.enable_grad():
        try:
            if cuda:  # on the CPU all that these networks use is deterministic as it is
                torch.use_deterministic_algorithms(True, warn_only=True)
                deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.backends.cudnn.benchmark = benchmark
            deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Keeps what Lightning's import changes of how warnings are printed, and which, for all of the process."""
    how = warnings.formatwarning
    with warnings.catch_warnings():
        try:
            yield
        finally:
            warnings.formatwarning = how


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's banners, hints and advice, and nothing else."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", message=r".*(LeafSpec|does not have many workers|litlogger).*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
