"""How far a map can be trusted: whether the pixels that it names are those that the model's values hang on.

found = deletion(model.encode, images, maps)               # (B, C, H, W), (B, K, h, w): a curve for each map
chance = deletion(model.encode, images, "random")          # the same by orders drawn at random
found.gain(chance)                                         # mean over images with its 95 % interval, and a verdict

insertion, pointing_game, energy_inside, randomization, agreement and saliency_overlap likewise: a file each, on plain tensors.
"""

from vaelens.metrics.faithfulness.agreement import Agreement, agreement
from vaelens.metrics.faithfulness.curves import Curve, deletion, insertion
from vaelens.metrics.faithfulness.inside import energy_inside, pointing_game
from vaelens.metrics.faithfulness.paired import PairedDifference, paired_difference
from vaelens.metrics.faithfulness.randomization import Randomization, randomization
from vaelens.metrics.faithfulness.ranking import BASELINES, centre_map
from vaelens.metrics.faithfulness.replacement import blurred, nearest_images
from vaelens.metrics.faithfulness.saliency_overlap import SaliencyOverlap, saliency_overlap
from vaelens.metrics.faithfulness.similarity import SIMILARITIES, map_similarity

__all__ = [
    "BASELINES",
    "SIMILARITIES",
    "Agreement",
    "Curve",
    "PairedDifference",
    "Randomization",
    "SaliencyOverlap",
    "agreement",
    "blurred",
    "centre_map",
    "deletion",
    "energy_inside",
    "insertion",
    "map_similarity",
    "nearest_images",
    "paired_difference",
    "pointing_game",
    "randomization",
    "saliency_overlap",
]
