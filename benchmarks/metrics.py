"""How long PixelMetrics takes against scikit-learn, how far its figures are from the exact ones, and how much memory it needs.

    python benchmarks/metrics.py                        # 8 million pixels, about a minute and a half
    python benchmarks/metrics.py --memory 100000000     # and the peak memory at 100 million
    python benchmarks/metrics.py --rounds 9 --json results.json

PixelMetrics is timed from the first update to the result, with every figure it gives; scikit-learn for roc_auc_score alone.
Both run in turn on one thread, round after round, so that a machine whose speed drifts slows both; printed are medians and
their ratio. Memory is what a fresh process holds at its peak above what it held before, while maps come in one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from vaelens.metrics import PixelMetrics

SIDE = 1000  # a map has 1000 x 1000 pixels
Maps = NDArray[np.floating]
SCORES: dict[str, Callable[[np.random.Generator, Maps], Maps]] = {
    "normal, float32": lambda rng, x: x.astype(np.float32),
    "normal, float64": lambda rng, x: x,
    "tied to 0.1, float32": lambda rng, x: x.round(1).astype(np.float32),
    "Cauchy, float32": lambda rng, x: (x / rng.standard_normal(x.shape)).astype(np.float32),
    "1e-12 wide at 5, float64": lambda rng, x: 5 + 1e-13 * x,
}


@dataclass(frozen=True)
class Timing:
    """Seconds (medians of the rounds), and how far PixelMetrics' figures are from scikit-learn's."""

    metrics_seconds: float
    sklearn_seconds: float
    auroc_off: float
    auroc_bound: float
    precision_off: float
    precision_bound: float


def example(images: int, seed: int) -> tuple[Maps, NDArray[np.bool_]]:
    """Maps (B, 1000, 1000) of normally distributed scores, and masks with a round defect each, where scores are higher."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    centres = rng.integers(100, SIDE - 100, (images, 2))
    masks = np.stack([(rows - r) ** 2 + (columns - c) ** 2 < 100**2 for r, c in centres])
    return rng.standard_normal(masks.shape) + masks, masks


def figures(maps: Maps, masks: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """AUROC, average precision and their bounds."""
    metrics = PixelMetrics()
    metrics.update(maps, masks)
    found = metrics.compute()
    if None in (values := (found.auroc, found.average_precision, found.auroc_error, found.average_precision_error)):
        raise SystemExit("the example has no abnormal pixels")
    return values  # type: ignore[return-value]


def measure(maps: Maps, masks: NDArray[np.bool_], rounds: int) -> Timing:
    """Time both on the same pixels."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = maps.ravel(), masks.ravel()
    auroc, precision, auroc_bound, precision_bound = figures(maps, masks)
    exact = float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))
    seconds: dict[str, list[float]] = {"metrics": [], "sklearn": []}
    runs: dict[str, Callable[[], object]] = {
        "metrics": lambda: figures(maps, masks),
        "sklearn": lambda: roc_auc_score(labels, scores),
    }
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return Timing(
        statistics.median(seconds["metrics"]),
        statistics.median(seconds["sklearn"]),
        abs(auroc - exact[0]),
        auroc_bound,
        abs(precision - exact[1]),
        precision_bound,
    )


def peak_bytes() -> int:
    """The most that this process has ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def grow(pixels: int) -> dict[str, float]:
    """Take in so many pixels, one map at a time; peak bytes above the start, and seconds of PixelMetrics alone."""
    maps, masks = (part.copy() for part in example(2, seed=0))
    small = PixelMetrics()
    small.update(maps[:, :100, :100], masks[:, :100, :100])  # imports what it needs
    small.compute()
    before, seconds, metrics = peak_bytes(), 0.0, PixelMetrics()
    rng = np.random.default_rng(0)
    single = np.empty((1, SIDE, SIDE), np.float32)
    for i in range(pixels // SIDE**2):
        rng.standard_normal(out=single, dtype=np.float32)
        single += masks[i % 2]
        start = time.perf_counter()
        metrics.update(single, masks[i % 2][None])
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    bound = metrics.compute().auroc_error
    seconds += time.perf_counter() - start
    return {"pixels": pixels, "peak_bytes": peak_bytes() - before, "seconds": seconds, "auroc_bound": bound or 0.0}


def print_row(name: str, t: Timing) -> None:
    print(
        f"| {name:<24} | {t.metrics_seconds * 1e3:12.0f} | {t.sklearn_seconds * 1e3:12.0f} "
        f"| {t.sklearn_seconds / t.metrics_seconds:5.1f} "
        f"| {t.auroc_off:7.0e} | {t.auroc_bound:7.0e} | {t.precision_off:7.0e} | {t.precision_bound:7.0e} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=8, help="maps of a million pixels each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scores", choices=[*SCORES, "all"], default="all")
    parser.add_argument("--memory", type=int, metavar="PIXELS", help="also measure the peak memory at so many pixels")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)  # what --memory starts in a fresh process
    options = parser.parse_args()
    if options.grow:
        print(json.dumps(grow(options.grow)))
        return
    torch.set_num_threads(1)
    print(f"numpy {np.__version__}, 1 thread of {os.cpu_count()} cores, {platform.machine()}; {options.images} million pixels")
    print(f"| {'scores':<24} | PixelMetrics | scikit-learn | ratio | AUROC   |         | AP      |         |")
    print(f"| {'':<24} | {'ms':>12} | {'ms':>12} |       | off by  | bound   | off by  | bound   |")
    print(f"| {'-' * 24} | {'-' * 11}: | {'-' * 11}: | ----: | ------: | ------: | ------: | ------: |")
    maps, masks = example(options.images, seed=0)
    results: dict[str, object] = {"images": options.images, "scores": {}}
    timings = {}
    for name in SCORES if options.scores == "all" else [options.scores]:
        timing = measure(SCORES[name](np.random.default_rng(1), maps), masks, options.rounds)
        print_row(name, timing)
        timings[name] = asdict(timing)
    results["scores"] = timings
    if options.memory:
        command = [sys.executable, __file__, "--grow", str(options.memory)]
        grown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{grown['pixels'] / 1e6:.0f} million pixels: peak {grown['peak_bytes'] / 1e6:.0f} MB, {grown['seconds']:.1f} s")
        results["memory"] = grown
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
