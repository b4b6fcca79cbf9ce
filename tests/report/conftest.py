"""Made-up report images that the report's tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vaelens.report.content import FiredLatent, Report, ReportImage

MakeImage = Callable[..., ReportImage]


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """A report image with a grey ramp; any field can be given."""

    def make(name: str = "a.png", score: float = 1.0, **fields: Any) -> ReportImage:
        ramp = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28) % 256
        values: dict[str, Any] = {
            "image": ramp.astype(np.uint8),
            "p_value": 0.5,
            "flagged": score > 2,
            "label": "7",
            "anomaly_map": np.linspace(0, 1, 49).reshape(7, 7),
            "fired": (FiredLatent(4, -3.5, 1.25, np.eye(7)), FiredLatent(9, 6.0, 0.5, np.ones((7, 7)))),
            "reconstruction": None,
            "error": None,
        }
        return ReportImage(name=name, score=score, **{**values, **fields})

    return make


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    """A report around given images; any field can be given."""

    def make(*images: ReportImage, **fields: Any) -> Report:
        values: dict[str, Any] = {
            "title": "A report",
            "lead": "What was done.",
            "summary": (("Images", str(len(images))),),
            "settings": {"data": {"name": "mnist"}},
            "tables": (),
            "figures": (),
            "map_limit": None,
            "notes": (),
        }
        return Report(images=images, **{**values, **fields})

    return make
