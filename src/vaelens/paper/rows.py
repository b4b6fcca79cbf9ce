"""The rows of a table: each localizer's figures over seeds, their mean and spread, next to what others report."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vaelens.localizers import FLOORS
from vaelens.paper.kept import Measured
from vaelens.paper.reported import UNKNOWN, Reported
from vaelens.scoring.localization import beats

FIGURES = ("pixel_auroc", "pixel_ap", "best_iou", "image_auroc")
_BOTH = ("pixel_auroc", "pixel_ap")  # what a method has to be above every floor in


@dataclass(frozen=True)
class Row:
    """One localizer on one data set.

    Attributes:
        data: such as "mvtec/screw".
        label: what the table calls the localizer.
        spec: the localizer, with its options.
        seeds: of the runs.
        values: each of FIGURES for each seed; None where the data do not define it.
        size: (height, width) in pixels of the maps.
        detail: what is to be said of how the localizer was used; None for nothing.
        paper: what the paper reports.
        reproduction: what its reproduction reports.
        below: the floors that its means are not above in both AUROC and AP; a floor has none.
    """

    data: str
    label: str
    spec: str
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float | None, ...]]
    size: tuple[int, int]
    detail: str | None = None
    paper: Reported = UNKNOWN
    reproduction: Reported = UNKNOWN
    below: tuple[str, ...] = ()

    @property
    def is_floor(self) -> bool:
        """Whether it learns nothing."""
        return self.spec in FLOORS

    def known(self, figure: str) -> list[float]:
        """The values of a figure, of the seeds that define it."""
        return [value for value in self.values[figure] if value is not None]

    def mean(self, figure: str) -> float | None:
        """Mean over seeds; None where none defines the figure."""
        known = self.known(figure)
        return statistics.fmean(known) if known else None

    def spread(self, figure: str) -> float | None:
        """Sample standard deviation over seeds (divided by their number less one); None for fewer than two."""
        known = self.known(figure)
        return statistics.stdev(known) if len(known) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        figures: dict[str, Any] = {}
        for name in FIGURES:
            figures |= {name: self.mean(name), f"{name}_spread": self.spread(name), f"{name}_seeds": list(self.values[name])}
        return {
            "data": self.data,
            "localizer": self.label,
            "spec": self.spec,
            "seeds": list(self.seeds),
            "size": list(self.size),
            **figures,
            "paper": self.paper.to_dict(),
            "reproduction": self.reproduction.to_dict(),
            "below_floors": list(self.below),
            "detail": self.detail,
        }


def row(
    label: str, spec: str, runs: Sequence[Measured], paper: Reported = UNKNOWN, reproduction: Reported = UNKNOWN
) -> Row | None:
    """A localizer's row from all runs that it was measured on; None where there are none. The runs are of one data set."""
    ours = [run for run in runs if spec in run.localizers]
    if not ours:
        return None
    return Row(
        data=ours[0].dataset,
        label=label,
        spec=spec,
        seeds=tuple(run.seed for run in ours),
        values={name: tuple(run.localizers[spec][name] for run in ours) for name in FIGURES},
        size=ours[0].size,
        detail=ours[0].localizers[spec].get("detail"),
        paper=paper,
        reproduction=reproduction,
    )


def against_floors(rows: Iterable[Row | None]) -> list[Row]:
    """The rows there are, each with the floors that it is not above; compared by means, within one data set."""
    there = [one for one in rows if one is not None]
    return [one if one.is_floor else replace(one, below=tuple(_not_above(one, there))) for one in there]


def _not_above(one: Row, rows: Sequence[Row]) -> list[str]:
    floors = [floor for floor in rows if floor.is_floor and floor.data == one.data]
    mine = [one.mean(name) for name in _BOTH]
    return [floor.spec for floor in floors if not beats(mine, [floor.mean(name) for name in _BOTH])]
