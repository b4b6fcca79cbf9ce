"""One-class MNIST with every score: the table in the README.

    python benchmarks/mnist.py --root data/mnist --out runs/mnist          # digits 1 and 3, seeds 0, 1 and 2, 30 epochs

Each digit and seed is a run of its own (`vaelens train mnist --normal DIGIT --seed SEED --epochs 30`), kept in OUT and resumed
where it was stopped. Printed is the image-level AUROC on all 10,000 test images: the mean over the nine other digits, every
seed's figure and the worst digit. Nothing is chosen on test images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from vaelens.errors import VaelensError
from vaelens.runs import METRICS
from vaelens.runs.train import train_run
from vaelens.scoring.evaluate import evaluate


def measure(digit: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train or load one run and evaluate it."""
    out = options.out / f"digit-{digit}-seed-{seed}"
    there = out.exists()
    settings = {} if there else {"epochs": options.epochs, "seed": seed}
    run = train_run(out, "mnist", normal=digit, root=options.root, resume=there, **settings)
    if run.config.training["epochs"] != options.epochs:
        raise SystemExit(f"{out} has {run.config.training['epochs']} epochs, not {options.epochs}: choose another --out")
    result = evaluate(run, root=options.root)
    seconds = json.loads((out / METRICS).read_text())["seconds"]
    return {"digit": digit, "seed": seed, "seconds": seconds, "losses": run.metrics["losses"], **result.to_dict()}


def print_table(results: list[dict[str, Any]], epochs: int) -> None:
    seeds = sorted({r["seed"] for r in results})
    print(f"\n{epochs} epochs, seeds {', '.join(map(str, seeds))}; mean over the nine other digits (each seed; worst digit)\n")
    digits = sorted({r["digit"] for r in results})
    print("| score | " + " | ".join(f"digit {d} normal" for d in digits) + " |")
    print("| --- |" + " --- |" * len(digits))
    for name in results[0]["localizers"]:
        cells = []
        for digit in digits:
            scores = [r["localizers"][name] for r in results if r["digit"] == digit]
            each = [s["image_auroc"] for s in scores]
            worst = min(d["image_auroc"] for s in scores for d in s["per_defect"].values())
            cells.append(f"{mean(each):.4f} ({', '.join(f'{e:.4f}' for e in each)}; {worst:.3f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    for digit in digits:
        of_digit = [r for r in results if r["digit"] == digit]
        active = ", ".join(str(r["active_latents"]) for r in of_digit)
        false = ", ".join(f"{r['localizers']['deviation']['false_alarms']:.3f}" for r in of_digit)
        minutes = mean(r["seconds"] for r in of_digit) / 60
        print(
            f"\ndigit {digit}: {active} of {of_digit[0]['latents']} latents active; deviation's false alarms at a promised ",
            end="",
        )
        print(f"0.05: {false}; {minutes:.1f} minutes a run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, help="folder of MNIST's files; default: the cache, with a download")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--digits", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}")
    results = []
    for digit in options.digits:
        for seed in options.seeds:
            try:
                results.append(measure(digit, seed, options))
            except VaelensError as error:
                raise SystemExit(f"{error}; the same call goes on") from error
            if options.json:
                options.json.write_text(json.dumps({"epochs": options.epochs, "runs": results}, indent=2) + "\n")
    print_table(results, options.epochs)


if __name__ == "__main__":
    main()
