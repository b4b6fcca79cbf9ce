"""See what every latent of a variational autoencoder looks at, and where an image stops being normal.

    from vaelens import LatentAttention, adapt, load_run

Names are imported when they are first used: `import vaelens` itself imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vaelens._version import __version__

if TYPE_CHECKING:
    from vaelens.adapters import adapt
    from vaelens.attention import LatentAttention, LatentMaps
    from vaelens.runs import Run, load_run
    from vaelens.runs.train import train_run

__all__ = ["LatentAttention", "LatentMaps", "Run", "__version__", "adapt", "load_run", "train_run"]

_HOME = {
    "LatentAttention": "vaelens.attention",
    "LatentMaps": "vaelens.attention",
    "Run": "vaelens.runs",
    "adapt": "vaelens.adapters",
    "load_run": "vaelens.runs",
    "train_run": "vaelens.runs.train",
}
_ROOMS = (
    "adapters",
    "attention",
    "data",
    "export",
    "localizers",
    "metrics",
    "models",
    "objectives",
    "paper",
    "report",
    "scoring",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _ROOMS:
        return import_module(f"vaelens.{name}")
    raise AttributeError(f"module 'vaelens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
