"""What reproducing a figure or table came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reproduced:
    """A figure made anew.

    Attributes:
        name: such as "figure4".
        text: a few lines for the person.
        files: what was written.
        settings: how, one mapping for each run.
    """

    name: str
    text: str
    files: tuple[Path, ...]
    settings: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """As `reproduce --json` prints it."""
        return {"name": self.name, "files": [str(f) for f in self.files], "runs": [dict(s) for s in self.settings]}
