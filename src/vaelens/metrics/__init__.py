"""Measures of how well a method does its task.

metrics = PixelMetrics()
metrics.update(maps, masks)           # (B, H, W) each; any number of times
metrics.compute().auroc               # also .average_precision .best_iou .aupro .per_defect
"""

from vaelens.metrics.localization import PixelFigures, PixelMetrics, PixelResult
from vaelens.metrics.ranking import auroc

__all__ = ["PixelFigures", "PixelMetrics", "PixelResult", "auroc"]
