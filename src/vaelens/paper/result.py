"""What reproducing a figure or table came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reproduced:
    """A figure or table made anew.

    Attributes:
        name: such as "figure4".
        text: for the person: a few lines, or the table.
        files: what was written.
        settings: how, one mapping for each run.
        table: what a table's JSON file holds; None for a figure.
    """

    name: str
    text: str
    files: tuple[Path, ...]
    settings: tuple[Mapping[str, Any], ...]
    table: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `reproduce --json` prints it."""
        table = {} if self.table is None else {"table": dict(self.table)}
        return {"name": self.name, "files": [str(f) for f in self.files], "runs": [dict(s) for s in self.settings], **table}
