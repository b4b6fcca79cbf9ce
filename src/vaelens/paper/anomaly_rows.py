"""The rows of the paper's Figures 4 to 6 for one run: its anomaly attention, and beside it what vaelens adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from vaelens.data.images import ImageSet, to_float
from vaelens.report.figures import Panel
from vaelens.runs import Run
from vaelens.scoring.gallery import pictures

ROWS = {
    "normal-difference": "attention, eq. 4",
    "mean-sum": "attention, mean sum",
    "deviation": "deviation",
    "reconstruction": "reconstruction diff.",
}
ROWS_OF_IMAGES = {
    "normal-difference": "attention, eq. 4",
    "deviation": "deviation",
    "matching": "matching",
    "learned": "learned",
    "reconstruction": "reconstruction diff.",
}


def anomaly_panel(
    run: Run,
    samples: ImageSet,
    title: str,
    rows: Mapping[str, str] = ROWS,
    titles: Sequence[str] | None = None,
    masks: Tensor | None = None,
) -> Panel:
    """Test images, each method's maps at the images' size, and the masks or, where none are given, the reconstructions.

    Args:
        run: the trained run.
        samples: with labels where `titles` is None.
        title: of the panel.
        rows: label by localizer.
        titles: of the columns; None for the labels.
        masks: (N, H, W), bool, where the images are truly abnormal; they take the place of the reconstructions.
    """
    if titles is None:
        assert samples.labels is not None
        titles = [str(label) for label in samples.labels.tolist()]
    images = to_float(samples.images)
    maps = {label: run.localizer(name).anomaly_map(images).numpy() for name, label in rows.items()}
    return Panel(
        title=title,
        inputs=pictures(run.visible(samples.images)),
        column_titles=titles,
        rows=maps,
        reconstructions=pictures(run.visible(run.reconstruct(images))) if masks is None else None,
        masks=None if masks is None else masks.numpy().astype(np.bool_),
    )
