"""The rows of the paper's Figure 4 for one run: its anomaly attention, and beside it what vaelens adds."""

from __future__ import annotations

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


def anomaly_panel(run: Run, samples: ImageSet, title: str) -> Panel:
    """Test images, their reconstructions and each method's maps, at the images' size.

    Args:
        run: the trained run.
        samples: with labels.
        title: of the panel.
    """
    assert samples.labels is not None
    images = to_float(samples.images)
    maps = {label: run.localizer(name).anomaly_map(images).numpy() for name, label in ROWS.items()}
    reconstructions = run.reconstruct(images)
    return Panel(
        title=title,
        inputs=pictures(samples.images),
        column_titles=[str(label) for label in samples.labels.tolist()],
        rows=maps,
        reconstructions=pictures(reconstructions),
    )
