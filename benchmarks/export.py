"""How long an exported run takes: onnxruntime beside torch, eager and compiled.

    python benchmarks/export.py               # the five networks of VAEs at batches of 1 and 32
    python benchmarks/export.py --network mnist --batch 1 --rounds 31 --json results.json

Timed is all that a file gives: from the bytes of a batch to maps of all latents, anomaly map, score, p-value and mask, with
localizer `deviation`, 20 neighbours of so many normal images. torch eager is what the library does (`run.explain` and
`run.localize`), torch.compile the very graph that is exported, compiled for batches of any size before the first round. Weights
are first weights and images noise, on which no time depends. All ways run in turn in one process, round after round, on as many
threads; printed are medians over the rounds and ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.data.images import to_float
from vaelens.export import RunGraph, export_run, load
from vaelens.export.onnx_file import trace
from vaelens.localizers import Calibration
from vaelens.localizers.attention import codes
from vaelens.models import LAYOUT, build
from vaelens.runs import Run, RunConfig
from vaelens.runs.localizers import fitted
from vaelens.training import TrainSettings

EAGER, COMPILED, ONNX = WAYS = ("torch eager", "torch.compile", "onnxruntime")
NETWORKS = ("mnist", "ucsd", "mvtec", "dsprites", "compact")
HELD_OUT = 64


def untrained_run(network: str, latent_dim: int, normals: int, shape: tuple[int, int, int] | None = None) -> Run:
    """A run with first weights and images of noise, in memory alone."""
    torch.manual_seed(0)
    model = build(network, latent_dim, shape).eval().to(memory_format=LAYOUT)  # type: ignore[call-overload]
    channels, height, width = model.input_shape
    preparation = {"size": [height, width], "channels": channels, "frames": 1, "brightness": False}
    data = {"root": None, "normal": None, "category": None, "held_out": 0.1, "seed": 0, "preparation": preparation}
    config = RunConfig(
        dataset={"name": "folder", **data},
        network={"name": network, "input_shape": list(model.input_shape), "latent_dim": latent_dim},
        training=TrainSettings.for_network(network).to_dict(),
        explain={"layer": None, "fixed_camera": False},
        objective="vae",
    )
    normal, held_out = (torch.randint(0, 256, (n, *model.input_shape), dtype=torch.uint8) for n in (normals, HELD_OUT))
    mean, logvar = codes(model, held_out)
    tensors = {"normal.images": normal, "held_out.images": held_out, "held_out.mean": mean, "held_out.logvar": logvar}
    measured = Calibration.measure(fitted("deviation", model, config, normal), held_out)
    tensors |= {"score.deviation": measured.scores, "peak.deviation": measured.peaks}
    return Run(Path("untrained"), config, model, tensors, {})


def compiled(run: Run, images: Tensor) -> tuple[Callable[[Tensor], Any] | None, str]:
    """The exported graph compiled, and why not where it cannot be: a compiler of C++ may be missing."""
    graph = RunGraph(run, run.attention, run.localizer("deviation"), run.calibration("deviation")).eval()
    program = torch.compile(trace(graph, images[:2]).module(), dynamic=True)
    try:
        with torch.no_grad():
            for size in (2, 3):
                program(images[:size].clone())
    except Exception as error:
        return None, " ".join(str(error).split())[:80]
    return program, ""


def measure(network: str, batches: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way by batch, the file's bytes, and how far it is from torch."""
    run = untrained_run(network, options.latents, options.normals)
    channels, height, width = run.input_shape
    images = torch.randint(0, 256, (max(3, *batches), height, width, channels), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        written = export_run(run, Path(folder) / "model.onnx", localizer="deviation")
        model = load(written.path, threads=torch.get_num_threads())

    def eager(batch: Tensor) -> object:
        values = to_float(batch.permute(0, 3, 1, 2))
        return run.explain(values).maps.per_latent, run.localize(values, "deviation")

    ways: dict[str, Callable[[Tensor], object]] = {EAGER: eager, ONNX: lambda batch: model(batch.numpy())}
    program, why_not = compiled(run, images) if options.compile else (None, "left out")
    if program is not None:
        ways[COMPILED] = program
    found: dict[str, Any] = {
        "bytes": written.size,
        "checked": dict(written.checked),
        "why_not_compiled": why_not,
        "seconds": {},
    }
    for size in batches:
        batch = images[:size].contiguous()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        with torch.no_grad():
            for once_more in range(options.rounds + 2):
                for way, call in ways.items():
                    start = time.perf_counter()
                    call(batch)
                    if once_more > 1:  # the first two are not timed: kernels are chosen, and memory is taken
                        seconds[way].append(time.perf_counter() - start)
        found["seconds"][size] = {way: statistics.median(seconds[way]) for way in WAYS if way in seconds}
    return found


def print_rows(network: str, found: dict[str, Any]) -> None:
    for size, seconds in found["seconds"].items():
        cells = [f"{1e3 * seconds[way]:.2f}" if way in seconds else "-" for way in WAYS]
        ratios = [f"{seconds[way] / seconds[ONNX]:.2f}" if way in seconds else "-" for way in (EAGER, COMPILED)]
        print(f"| {network} | {size} | {' | '.join(cells + ratios)} | {found['bytes'] / 1e6:.1f} |", flush=True)
    if found["why_not_compiled"]:
        print(f"{network}: torch.compile is missing: {found['why_not_compiled']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--latents", type=int, default=32)
    parser.add_argument("--normals", type=int, default=512, help="normal images that neighbours are chosen from")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    import onnxruntime

    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} cores, {platform.machine()}; {options.normals} normal images, D = {options.latents}; milliseconds"
    )
    head = ("network", "batch", *WAYS, f"{EAGER} / {ONNX}", f"{COMPILED} / {ONNX}", "file, MB")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    results = {}
    for network in options.network:
        results[network] = measure(network, options.batch, options)
        print_rows(network, results[network])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
