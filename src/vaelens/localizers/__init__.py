"""Ways to say where an image is not normal, behind one interface: fit(normal), then anomaly_map(images).

    localizer = build_localizer("deviation", model).fit(normal_images)
    result = localizer.localize(images)         # result.maps (B, H, W), result.score (B,)

A new localizer is one new file and one line in LOCALIZERS.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vaelens.errors import unknown
from vaelens.localizers.anogan import AnoGANLocalizer
from vaelens.localizers.attention import AttentionLocalizer, KLLocalizer, MeanSumLocalizer, NormalDifferenceLocalizer
from vaelens.localizers.autoencoder import AEL2Localizer, AESSIMLocalizer
from vaelens.localizers.base import Localization, Localizer
from vaelens.localizers.calibration import Calibration, check_false_alarms
from vaelens.localizers.deviation import DeviationLocalizer
from vaelens.localizers.features import FeatureDictionaryLocalizer
from vaelens.localizers.floors import ContrastFloor, MeanFloor, MotionFloor, NeighboursFloor
from vaelens.localizers.learned import LearnedLocalizer
from vaelens.localizers.matching import MatchingLocalizer
from vaelens.localizers.reconstruction import ReconstructionLocalizer
from vaelens.localizers.spec import check_options, options_of, parse_spec

__all__ = [
    "FLOORS",
    "LOCALIZERS",
    "Calibration",
    "Localization",
    "Localizer",
    "build_localizer",
    "check_false_alarms",
    "options_of",
    "parse_spec",
]

LOCALIZERS: dict[str, type[Localizer]] = {
    localizer.name: localizer
    for localizer in (
        MeanSumLocalizer,
        NormalDifferenceLocalizer,
        AttentionLocalizer,
        DeviationLocalizer,
        MatchingLocalizer,
        LearnedLocalizer,
        KLLocalizer,
        ReconstructionLocalizer,
        AEL2Localizer,
        AESSIMLocalizer,
        AnoGANLocalizer,
        FeatureDictionaryLocalizer,
        MeanFloor,
        NeighboursFloor,
        ContrastFloor,
        MotionFloor,
    )
}

FLOORS = tuple(name for name in LOCALIZERS if name.startswith("floor-"))
"""Localizers that learn nothing: whoever does not beat every one of them has not localized anything."""


def build_localizer(name: str, model: nn.Module, **options: Any) -> Localizer:
    """An unfitted localizer by name.

    Raises:
        UsageError: an unknown name, or an option that it has not.
    """
    if name not in LOCALIZERS:
        raise unknown("localizer", name, LOCALIZERS)
    check_options(name, LOCALIZERS[name], options)
    return LOCALIZERS[name](model, **options)  # type: ignore[call-arg]
