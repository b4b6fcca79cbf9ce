"""Where each latent looks. Needs torch alone.

attention = LatentAttention(vae)
maps = attention(images)            # maps.per_latent (B, D, h, w), maps.overall() (B, h, w)
"""

from vaelens.attention.latent_attention import METHODS, LatentAttention
from vaelens.attention.maps import LatentMaps
from vaelens.attention.posterior import PosteriorMaps
from vaelens.attention.scores import Deviation, MeanSum, NormalDifference
from vaelens.attention.survey import LayerWay, survey
from vaelens.attention.traversal import Traversal, traverse
from vaelens.attention.variants import VARIANTS

__all__ = [
    "METHODS",
    "VARIANTS",
    "Deviation",
    "LatentAttention",
    "LatentMaps",
    "LayerWay",
    "MeanSum",
    "NormalDifference",
    "PosteriorMaps",
    "Traversal",
    "survey",
    "traverse",
]
