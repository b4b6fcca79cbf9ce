"""What a report shows, as plain data: numpy arrays and strings. Nothing here knows a model or a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vaelens.errors import UsageError
from vaelens.report.wording import shorten

Array: TypeAlias = npt.NDArray[Any]


def check_map(what: str, values: Array) -> None:
    """Raise UsageError unless `values` is a map: (h, w), finite and nowhere negative."""
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise UsageError(f"{what} must be an array (h, w), not {_described(values)}")
    if values.dtype.kind not in "fuib":
        raise UsageError(f"{what} must hold numbers, not {values.dtype}")
    if values.size and not (np.isfinite(values).all() and values.min() >= 0):
        raise UsageError(f"{what} must be finite and nowhere negative; its values are in [{values.min()}, {values.max()}]")


def check_picture(what: str, values: Array) -> None:
    """Raise UsageError unless `values` is (H, W), (H, W, 1) or (H, W, 3), of uint8 or of floats in [0, 1]."""
    if not isinstance(values, np.ndarray) or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))):
        raise UsageError(f"{what} must be an array (H, W) or (H, W, 3), not {_described(values)}")
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise UsageError(f"{what} must be uint8, or floats in [0, 1], not {values.dtype}")
    if values.dtype.kind == "f" and values.size and not np.isfinite(values).all():
        raise UsageError(f"{what} must be finite")


def _described(values: object) -> str:
    return str(values.shape) if isinstance(values, np.ndarray) else type(values).__name__


@dataclass(frozen=True, eq=False, slots=True)
class FiredLatent:
    """A latent whose posterior mean is far from the normal images'.

    Args:
        index: the latent's index, from 0.
        z_score: (mean - mean over the normal images) / their standard deviation.
        mean: the posterior mean itself.
        map: (h, w), at least 0: its attention map, of what raises it, or where the z-score is negative of what lowers it.

    Raises:
        UsageError: the map is no finite, non-negative (h, w) array.
    """

    index: int
    z_score: float
    mean: float
    map: Array

    def __post_init__(self) -> None:
        check_map(f"the map of latent {self.index}", self.map)


@dataclass(frozen=True, eq=False, slots=True)
class ReportImage:
    """One image of the gallery.

    Args:
        name: what the gallery calls it; any text, also a file name that is not UTF-8.
        image: (H, W) or (H, W, 3), uint8; of size 0 where it could not be read.
        score: anomaly score, higher is more anomalous; NaN where there is none.
        p_value: share of normal calibration images with a score as high, in [0, 1].
        flagged: whether the score is above the threshold; None where there is no threshold.
        label: the true class or defect, where known.
        anomaly_map: (h, w), at least 0, at any resolution: the grid of cells is stretched over the whole image.
        fired: the latents that fired, in any order.
        reconstruction: (H, W) or (H, W, 3), uint8, or floats in [0, 1].
        error: why there is no result, in one line.
        further: more pictures of it, each with a caption.

    Raises:
        UsageError: an array of another shape or type; the message names the image.
    """

    name: str
    image: Array
    score: float
    p_value: float | None
    flagged: bool | None
    label: str | None
    anomaly_map: Array
    fired: tuple[FiredLatent, ...]
    reconstruction: Array | None
    error: str | None
    further: tuple[tuple[str, Array], ...] = ()

    def __post_init__(self) -> None:
        called = repr(shorten(self.name, 60))
        check_picture(f"image {called}", self.image)
        if self.image.dtype != np.uint8:
            raise UsageError(f"image {called} must be uint8, not {self.image.dtype}")
        check_map(f"the anomaly map of image {called}", self.anomaly_map)
        if self.reconstruction is not None:
            check_picture(f"the reconstruction of image {called}", self.reconstruction)
        for caption, values in self.further:
            check_picture(f"the picture {caption!r} of image {called}", values)
        if self.p_value is not None and not 0 <= self.p_value <= 1:
            raise UsageError(f"the p-value of image {called} must be in [0, 1], not {self.p_value}")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: every row has one value per column. Numbers are set flush right.

    Raises:
        UsageError: a row of another length.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for position, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise UsageError(
                    f"row {position} of table {self.title!r} has {len(row)} values, the table {len(self.columns)} columns"
                )


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with a caption; `png` are the bytes of a PNG file.

    Raises:
        UsageError: the bytes are no PNG file's.
    """

    title: str
    caption: str
    png: bytes

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise UsageError(f"figure {self.title!r} must be given as the bytes of a PNG file")


@dataclass(frozen=True, eq=False, slots=True)
class Report:
    """A whole report.

    Args:
        title: the heading and the title of the page.
        lead: one paragraph on what was done and what came out.
        summary: (what, value) pairs, the figures to see first.
        settings: how it was made; nested mappings are shown with dotted names.
        tables: shown in this order.
        figures: shown in this order.
        images: the gallery, in any order.
        map_limit: common upper end of the anomaly maps' colour scale, in the maps' units; None takes the 99.5th
            percentile over all maps.
        notes: what the reader should know when judging the figures.
        latent_limit: the same for the maps of the latents that fired, which have a scale of their own.

    Raises:
        UsageError: a limit that is not positive and finite.
    """

    title: str
    lead: str
    summary: tuple[tuple[str, str], ...]
    settings: Mapping[str, object]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    images: tuple[ReportImage, ...]
    map_limit: float | None
    notes: tuple[str, ...]
    latent_limit: float | None = None

    def __post_init__(self) -> None:
        for what, limit in (("map_limit", self.map_limit), ("latent_limit", self.latent_limit)):
            if limit is not None and not 0 < limit < float("inf"):
                raise UsageError(f"{what} must be a positive number, not {limit}")
