"""What others report for the tables made anew here, as data.

Only what a source at hand confirms is here. A figure that none confirms is None, shown as a dash: it is not taken from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Reported:
    """Pixel-level figures as printed, in [0, 1]; None where no source at hand confirms one.

    Attributes:
        auroc: area under the ROC curve over pixels.
        best_iou: the largest intersection over union that any threshold gives.
    """

    auroc: float | None = None
    best_iou: float | None = None

    def to_dict(self) -> dict[str, float]:
        """Under the names of the tables' figures; what is not known is left out."""
        found = {"pixel_auroc": self.auroc, "best_iou": self.best_iou}
        return {name: value for name, value in found.items() if value is not None}


UNKNOWN = Reported()

# Liu et al., "Towards Visually Explaining Variational Autoencoders", CVPR 2020 (arXiv:1911.07389v7), Table 1, UCSD Ped1.
# Two things are confirmed: the attention maps' figures range from 0.89 to 0.92, and the second convolution's is the highest.
PAPER_TABLE1: Mapping[str, Reported] = MappingProxyType(
    {
        "reconstruction": UNKNOWN,  # the paper's Vanilla-VAE
        "conv1": UNKNOWN,
        "conv2": Reported(auroc=0.92),
        "conv3": UNKNOWN,
    }
)

# The same, Table 2, MVTec AD: by category, then by method ("attention" for the paper's own, "ae-ssim", "ae-l2", "anogan",
# "feature-dictionary"). No source at hand shows the table.
PAPER_TABLE2: Mapping[str, Mapping[str, Reported]] = MappingProxyType({})

# The report of the ML Reproducibility Challenge 2020 on that paper: on Ped1 0.58 for the attention maps, of a layer that no
# source at hand names, so that the figure stands in a note and in no row.
REPRODUCTION_TABLE1: Mapping[str, Reported] = MappingProxyType({})
REPRODUCTION_TABLE2: Mapping[str, Mapping[str, Reported]] = MappingProxyType({})

NOTES_TABLE1 = (
    "The paper (Liu et al., CVPR 2020, Table 1, UCSD Ped1) claims pixel AUROCs of 0.89 to 0.92 for its attention maps; a "
    "report of the ML Reproducibility Challenge 2020 measured 0.58.",
)
NOTES_TABLE2 = (
    "The paper (Liu et al., CVPR 2020, Table 2) claims the state of the art of its time; a report of the ML Reproducibility "
    "Challenge 2020 could not confirm that, with pixel AUROCs below 0.5 on half of the categories.",
)


def paper_table2(category: str, method: str) -> Reported:
    """The paper's figures for a category of MVTec AD and a method; unknown ones where none is confirmed."""
    return PAPER_TABLE2.get(category, {}).get(method, UNKNOWN)


def reproduction_table2(category: str, method: str) -> Reported:
    """The reproduction's figures likewise."""
    return REPRODUCTION_TABLE2.get(category, {}).get(method, UNKNOWN)
