"""All metrics of disentanglement under one name each, measured several times.

A metric is one file and one line of METRICS.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaelens.errors import unknown, whole
from vaelens.metrics.beta_vae import beta_vae_score
from vaelens.metrics.codes import Array
from vaelens.metrics.dci import dci
from vaelens.metrics.factor_vae import factor_vae_score
from vaelens.metrics.mig import mutual_information_gap
from vaelens.metrics.modularity import modularity
from vaelens.metrics.sap import sap

Measure = Callable[[Array, Array, int], dict[str, float]]


@dataclass(frozen=True)
class Metric:
    """A metric in the registry.

    Attributes:
        measure: from codes (N, D), factors (N, F) and a seed to one or more figures under their names.
        random: whether the seed matters; if not, the metric is measured once however many repeats are asked for.
    """

    measure: Measure
    random: bool = True


def _dci(codes: Array, factors: Array, seed: int) -> dict[str, float]:
    found = dci(codes, factors, seed=seed)
    return {f"dci_{name}": getattr(found, name) for name in ("disentanglement", "completeness", "informativeness")}


METRICS: dict[str, Metric] = {
    "factor_vae_score": Metric(lambda z, f, s: {"factor_vae_score": factor_vae_score(z, f, seed=s).score}),
    "factor_vae_score_infogan_cr": Metric(
        lambda z, f, s: {"factor_vae_score_infogan_cr": factor_vae_score(z, f, preset="infogan_cr", seed=s).score}
    ),
    "beta_vae_score": Metric(lambda z, f, s: {"beta_vae_score": beta_vae_score(z, f, seed=s).score}),
    "mig": Metric(lambda z, f, _: {"mig": mutual_information_gap(z, f).score}, random=False),
    "modularity": Metric(lambda z, f, _: {"modularity": modularity(z, f).score}, random=False),
    "sap": Metric(lambda z, f, s: {"sap": sap(z, f, seed=s).score}),
    "dci": Metric(_dci),
}


@dataclass(frozen=True)
class RepeatedFigure:
    """A figure, measured several times.

    Attributes:
        mean: over `values`.
        std: the sample standard deviation of `values`; None where there is one only.
        values: one for each repeat; one in all where the metric has no randomness.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": self.mean, "std": self.std, "values": list(self.values)}


def all_scores(
    codes: Array,
    factors: Array,
    *,
    repeats: int = 1,
    seed: int = 0,
    metrics: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, RepeatedFigure]:
    """Every metric of disentanglement, or those named, with its settings as published; see each for what differs.

    The spread over repeats is that of a metric's own draws on the same codes. It says nothing of another training of the model.

    Args:
        codes: (N, D), real numbers, D of 2 and more for some metrics.
        factors: (N, F), whole numbers, F of 2 and more for some metrics.
        repeats: how often a metric with randomness is measured, with the seeds seed, seed + 1, ...
        seed: of the first.
        metrics: names in METRICS; all of them where None.
        progress: called with how many measurements are done and how many there are in all.

    Returns:
        Each figure under its name, in the order of the metrics: "factor_vae_score", "factor_vae_score_infogan_cr",
        "beta_vae_score", "mig", "modularity", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness".

    Raises:
        UsageError: an unknown metric, a number out of range, or codes and factors that a metric refuses.
    """
    repeats, seed = whole("repeats", repeats), whole("seed", seed, least=0)
    runs = [(METRICS[name], seed + i) for name in names_of(metrics) for i in range(repeats if METRICS[name].random else 1)]
    values: dict[str, list[float]] = {}
    codes, factors = (given.detach().cpu() if isinstance(given, Tensor) else given for given in (codes, factors))  # once
    for done, (metric, run_seed) in enumerate(runs, start=1):
        for name, value in metric.measure(codes, factors, run_seed).items():
            values.setdefault(name, []).append(value)
        if progress is not None:
            progress(done, len(runs))
    return {name: _repeated(given) for name, given in values.items()}


def names_of(metrics: Iterable[str] | None) -> list[str]:
    """The metrics asked for, each once; all of them where None.

    Raises:
        UsageError: an unknown metric.
    """
    names = list(METRICS) if metrics is None else list(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return names


def _repeated(values: list[float]) -> RepeatedFigure:
    return RepeatedFigure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, tuple(values))
