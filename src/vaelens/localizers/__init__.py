"""Ways to say where an image is not normal, behind one interface: fit(normal), then anomaly_map(images).

    localizer = build_localizer("deviation", model).fit(normal_images)
    result = localizer.localize(images)         # result.maps (B, H, W), result.score (B,)

A new localizer is one new file and one line in LOCALIZERS.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vaelens.errors import unknown
from vaelens.localizers.attention import KLLocalizer, MeanSumLocalizer, NormalDifferenceLocalizer
from vaelens.localizers.base import Localization, Localizer
from vaelens.localizers.calibration import Calibration, check_false_alarms
from vaelens.localizers.deviation import DeviationLocalizer
from vaelens.localizers.reconstruction import ReconstructionLocalizer

__all__ = ["LOCALIZERS", "Calibration", "Localization", "Localizer", "build_localizer", "check_false_alarms"]

LOCALIZERS: dict[str, type[Localizer]] = {
    localizer.name: localizer
    for localizer in (
        MeanSumLocalizer,
        NormalDifferenceLocalizer,
        DeviationLocalizer,
        KLLocalizer,
        ReconstructionLocalizer,
    )
}


def build_localizer(name: str, model: nn.Module, **options: Any) -> Localizer:
    """An unfitted localizer by name.

    Raises:
        UsageError: an unknown name.
    """
    if name not in LOCALIZERS:
        raise unknown("localizer", name, LOCALIZERS)
    return LOCALIZERS[name](model, **options)  # type: ignore[call-arg]
