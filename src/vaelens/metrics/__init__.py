"""Measures of how well a method does its task."""

from vaelens.metrics.ranking import auroc

__all__ = ["auroc"]
