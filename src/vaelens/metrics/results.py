"""What a metric comes to, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Result:
    """Base of the results of metrics of disentanglement."""

    def to_dict(self) -> dict[str, Any]:
        """Every attribute under its name; arrays as nested lists."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(self).items()}
