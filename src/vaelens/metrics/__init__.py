"""Measures of how well a method does its task.

metrics = PixelMetrics()
metrics.update(maps, masks)           # (B, H, W) each; any number of times
metrics.compute().auroc               # also .average_precision .best_iou .aupro .per_defect

factor_vae_score(codes, factors).score    # (N, D) and (N, F); likewise the other metrics of disentanglement
all_scores(codes, factors, repeats=3)     # all of them, each with its spread
attention_overlap(maps).score             # (N, D, h, w), eq. 5 over all pairs of latents
kl_parts(mean, logvar)                    # what the KL divergence consists of: information, total correlation, the rest

deletion(model.encode, images, maps)      # whether maps name the pixels that latents hang on; see `metrics.faithfulness`
"""

from vaelens.metrics.aggregate import KLParts, kl_parts
from vaelens.metrics.beta_vae import BetaVAEScore, beta_vae_score
from vaelens.metrics.dci import DCI, dci
from vaelens.metrics.disentanglement import RepeatedFigure, all_scores
from vaelens.metrics.factor_vae import FactorVAEScore, FactorVAESettings, factor_vae_score
from vaelens.metrics.faithfulness import (
    Agreement,
    Curve,
    PairedDifference,
    Randomization,
    SaliencyOverlap,
    agreement,
    deletion,
    energy_inside,
    insertion,
    map_similarity,
    paired_difference,
    pointing_game,
    randomization,
    saliency_overlap,
)
from vaelens.metrics.localization import PixelFigures, PixelMetrics, PixelResult
from vaelens.metrics.mig import InformationGap, mutual_information_gap
from vaelens.metrics.modularity import Modularity, modularity
from vaelens.metrics.overlap import AttentionOverlap, attention_overlap
from vaelens.metrics.ranking import auroc
from vaelens.metrics.sap import AttributePredictability, sap

__all__ = [
    "DCI",
    "Agreement",
    "AttentionOverlap",
    "AttributePredictability",
    "BetaVAEScore",
    "Curve",
    "FactorVAEScore",
    "FactorVAESettings",
    "InformationGap",
    "KLParts",
    "Modularity",
    "PairedDifference",
    "PixelFigures",
    "PixelMetrics",
    "PixelResult",
    "Randomization",
    "RepeatedFigure",
    "SaliencyOverlap",
    "agreement",
    "all_scores",
    "attention_overlap",
    "auroc",
    "beta_vae_score",
    "dci",
    "deletion",
    "energy_inside",
    "factor_vae_score",
    "insertion",
    "kl_parts",
    "map_similarity",
    "modularity",
    "mutual_information_gap",
    "paired_difference",
    "pointing_game",
    "randomization",
    "saliency_overlap",
    "sap",
]
