"""Which device and which precision a run takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from vaelens.errors import UsageError, unknown
from vaelens.models.precision import computes_bf16
from vaelens.training.settings import CHOICES

Precision = Literal["32-true", "bf16-mixed"]


def pick_accelerator(requested: str) -> str:
    """ "cpu", "cuda" or "mps": the one requested, or with "auto" the best there is.

    Raises:
        UsageError: an unknown accelerator, or one that this machine has not.
    """
    if requested not in CHOICES["accelerator"]:
        raise unknown("accelerator", requested, CHOICES["accelerator"])
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if requested == "auto":
        return next(name for name, available in there.items() if available)
    if not there[requested]:
        others = " or ".join(f"'{name}'" for name, available in there.items() if available)
        raise UsageError(f"accelerator '{requested}' is not available on this machine; there is {others}, or 'auto'")
    return requested


def pick_device(requested: str) -> torch.device:
    """Where a run explains and scores: on the GPU with CUDA that is requested, or with "auto" there, else on the CPU.

    Apple's MPS lacks operations that localizers take, so with it they work on the CPU.

    Raises:
        UsageError: see `pick_accelerator`.
    """
    accelerator = pick_accelerator(requested)
    return torch.device("cuda" if accelerator == "cuda" else "cpu")


def pick_precision(requested: str, accelerator: str, has_bf16: Callable[[str], bool] = computes_bf16) -> Precision:
    """Lightning's name of the precision: the one requested, or with "auto" bf16 where `has_bf16(accelerator)`.

    Raises:
        UsageError: an unknown precision.
    """
    if requested not in CHOICES["precision"]:
        raise unknown("precision", requested, CHOICES["precision"])
    if requested == "bf16" or (requested == "auto" and has_bf16(accelerator)):
        return "bf16-mixed"
    return "32-true"
