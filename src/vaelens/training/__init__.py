"""Training: settings, `vaelens.training.fit.fit`, checkpoints that resume exactly.

This file imports no torch, so that a command line can read the settings at once.
"""

from __future__ import annotations

from vaelens.training.settings import DEFAULTS, TrainSettings

__all__ = ["DEFAULTS", "TrainSettings"]
