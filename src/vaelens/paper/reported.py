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

# The same, Table 2, MVTec AD, as "Few-Shot Fast-Adaptive Anomaly Detection" (NeurIPS 2022, Table 1, columns 2 to 5) quotes it:
# by category, pixel AUROC and best IoU of each of _QUOTED. The CNN feature dictionary is not quoted. What is given for the
# paper's attention on leather, tile, wood and bottle is left out: it seems to have slipped in from that missing column.
_QUOTED = ("ae-ssim", "ae-l2", "anogan", "attention")
_TABLE2: Mapping[str, tuple[tuple[float, float], ...]] = {
    "carpet": ((0.87, 0.69), (0.59, 0.38), (0.54, 0.34), (0.78, 0.10)),
    "grid": ((0.94, 0.88), (0.90, 0.83), (0.58, 0.04), (0.73, 0.02)),
    "leather": ((0.78, 0.71), (0.75, 0.67), (0.64, 0.34)),
    "tile": ((0.59, 0.04), (0.51, 0.23), (0.50, 0.08)),
    "wood": ((0.73, 0.36), (0.73, 0.29), (0.62, 0.14)),
    "bottle": ((0.93, 0.15), (0.86, 0.22), (0.86, 0.05)),
    "cable": ((0.82, 0.01), (0.86, 0.05), (0.78, 0.01), (0.90, 0.18)),
    "capsule": ((0.94, 0.09), (0.88, 0.11), (0.84, 0.04), (0.74, 0.11)),
    "hazelnut": ((0.97, 0.00), (0.95, 0.41), (0.87, 0.02), (0.98, 0.44)),
    "metal_nut": ((0.89, 0.01), (0.86, 0.26), (0.76, 0.00), (0.94, 0.49)),
    "pill": ((0.91, 0.07), (0.85, 0.25), (0.87, 0.17), (0.83, 0.18)),
    "screw": ((0.96, 0.03), (0.96, 0.34), (0.80, 0.01), (0.97, 0.17)),
    "toothbrush": ((0.92, 0.08), (0.93, 0.51), (0.90, 0.07), (0.94, 0.14)),
    "transistor": ((0.90, 0.01), (0.86, 0.22), (0.80, 0.08), (0.93, 0.30)),
    "zipper": ((0.88, 0.10), (0.77, 0.13), (0.78, 0.01), (0.78, 0.06)),
}
PAPER_TABLE2: Mapping[str, Mapping[str, Reported]] = MappingProxyType(
    {
        category: {method: Reported(*pair) for method, pair in zip(_QUOTED, pairs, strict=False)}
        for category, pairs in _TABLE2.items()
    }
)

# The report of the ML Reproducibility Challenge 2020 on that paper: on Ped1 0.58 for the attention maps, of a layer that no
# source at hand names, so that the figure stands in a note and in no row.
REPRODUCTION_TABLE1: Mapping[str, Reported] = MappingProxyType({})
REPRODUCTION_TABLE2: Mapping[str, Mapping[str, Reported]] = MappingProxyType({})

NOTES_TABLE1 = (
    "The paper (Liu et al., CVPR 2020, Table 1, UCSD Ped1) claims pixel AUROCs of 0.89 to 0.92 for its attention maps; a "
    "report of the ML Reproducibility Challenge 2020 measured 0.58.",
)
NOTES_TABLE2 = (
    'The paper\'s figures (Liu et al., CVPR 2020, Table 2) are those that "Few-Shot Fast-Adaptive Anomaly Detection" (NeurIPS '
    "2022, Table 1) quotes: at 256x256, with 300 epochs.",
    "The paper claims the state of the art of its time; a report of the ML Reproducibility Challenge 2020 could not confirm "
    "that, with pixel AUROCs below 0.5 on half of the categories.",
)

# Liu et al., first version (arXiv:1911.07389v1), Table 3, FactorVAE scores on dSprites: of AD-FactorVAE, and beside it that of
# FactorVAE at gamma 40 in the literature, which the paper's Figure 8 has at 0.825.
PAPER_TABLE3: Mapping[str, float] = MappingProxyType({"factor": 0.82, "ad-factor": 0.93})

# A reproduction on dSprites with gamma 40 and three seeds.
OTHERS_TABLE3: Mapping[str, float] = MappingProxyType({"factor": 0.805, "ad-factor": 0.854})

# The paper's Figure 8, as a reproduction for the course FACT (Carmoondedraak/FACT-2021) reads it off: (weight, reconstruction
# error, FactorVAE score) of beta-VAE by beta, and of the others by gamma.
PAPER_FIGURE8: Mapping[str, tuple[tuple[float, float, float], ...]] = MappingProxyType(
    {
        "beta": ((1, 20, 0.69), (2, 30, 0.685), (4, 42, 0.73), (6, 58, 0.70), (8, 60, 0.625), (16, 111, 0.68)),
        "factor": ((10, 38, 0.75), (20, 39, 0.77), (30, 40, 0.78), (40, 40, 0.825), (100, 37, 0.7)),
        "ad-factor": ((10, 38, 0.9), (20, 39.5, 0.89), (30, 40, 0.895), (40, 40, 0.91)),
    }
)

NOTES_TABLE3 = (
    "The score is that of Kim and Mnih on all 737,280 images with the settings of disentanglement_lib (5 factors, latents of a "
    "standard deviation below 0.05 left out), in the mean over 3 draws; DCI is its disentanglement, by a random forest.",
    "Overlap is eq. 5 over all pairs of latents at the layer of the loss, 0 where a map is empty; reconstruction is in nats "
    "per image; TC is the total correlation of the codes in nats, from the posteriors of all images, not by a discriminator.",
    "The paper's are of 300,000 steps. The reproduction beside it counted the constant colour as a factor, and divided the "
    "attention loss by the batch twice.",
)


def paper_table2(category: str, method: str) -> Reported:
    """The paper's figures for a category of MVTec AD and a method; unknown ones where none is confirmed."""
    return PAPER_TABLE2.get(category, {}).get(method, UNKNOWN)


def reproduction_table2(category: str, method: str) -> Reported:
    """The reproduction's figures likewise."""
    return REPRODUCTION_TABLE2.get(category, {}).get(method, UNKNOWN)
