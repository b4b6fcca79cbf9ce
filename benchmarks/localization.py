"""The localizers on real defects: the table in the README, a mean over seeds.

    python benchmarks/localization.py --root data --out runs/localization           # 12 runs: 4 data sets, seeds 0, 1 and 2
    python benchmarks/localization.py --root data --data screw --seeds 0 --out DIR  # one of them
    python benchmarks/localization.py --from benchmarks/results/localization.json   # print what was measured before

DATA holds UCSD_Anomaly_Dataset.v1p2, mvtec_ad and magnetic_tile. Each run is what `vaelens train` makes with default settings
and `--seed SEED` (`ucsd-ped2`, the same with `--frames 3`, `mvtec --category screw`, `folder`), and each figure what
`vaelens evaluate` gives on all test images. Both are kept in OUT as they come: stopped, the same call goes on, and what is
there already is only printed. Nothing is chosen on test images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from vaelens.errors import VaelensError
from vaelens.paper.asked import Asked
from vaelens.paper.kept import measured
from vaelens.paper.trained import Recipe, trained
from vaelens.runs.localizers import suitable
from vaelens.training.device import pick_device

# By name: the data set, its folder below --root, and what is not the default.
DATA: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "ped2": ("ucsd-ped2", "", {}),
    "ped2-frames3": ("ucsd-ped2", "", {"frames": 3}),
    "screw": ("mvtec", "mvtec_ad", {"category": "screw"}),
    "tile": ("folder", "magnetic_tile", {}),
}
FIGURES = ("pixel_auroc", "pixel_ap", "best_iou")
MORE = ("aupro", "calibrated_iou", "image_auroc", "false_alarms", "detected")


def measure(data: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one run, or go on with it or load it, and measure its localizers."""
    dataset, folder, settings = DATA[data]

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    asked = Asked(root=options.root / folder, notice=tell)
    recipe = Recipe(f"{data}-seed{seed}", dataset, {**settings, "seed": seed, "epochs": options.epochs})
    new, started = not recipe.folder(options.out).exists(), time.monotonic()
    run = trained(recipe, options.out, asked).to(pick_device("auto"))
    took = options.out / f"{recipe.name}.seconds"  # training, calibration and fitting what scores; unknown where it was stopped
    if new:
        took.write_text(f"{time.monotonic() - started:.0f}\n")
    found = measured(run, options.localizers or suitable(run.config), options.out, asked)
    kept = {
        name: {**{f: figures[f] for f in (*FIGURES, *MORE)}, **of_kinds(figures)} for name, figures in found.localizers.items()
    }
    active = f"{int(run.active.sum())} of {len(run.active)}"
    return {
        "data": data,
        "seed": seed,
        "hardware": hardware(),
        "training_seconds": run.metrics["seconds"],
        "seconds": float(took.read_text()) if took.exists() else None,
        "active_latents": active,
        "localizers": kept,
    }


def hardware() -> str:
    """What figures depend on in their last digits, and times in all."""
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"torch {torch.__version__}, {threads}, {torch.backends.cpu.get_cpu_capability()}, {pick_device('auto')}"


def of_kinds(figures: Mapping[str, Any]) -> dict[str, float]:
    """Means over the kinds of defects, each beside all good images; nothing where there are not several."""
    kinds = [of for of in figures["per_defect"].values() if of["pixel_auroc"] is not None]
    return {f"{name}_of_kinds": fmean(of[name] for of in kinds) for name in FIGURES} if len(kinds) > 1 else {}


def print_tables(results: Sequence[Mapping[str, Any]]) -> None:
    """All localizers in the mean over seeds, and the first one in full."""
    columns = list(dict.fromkeys(one["data"] for one in results))
    names = list(dict.fromkeys(name for one in results for name in one["localizers"]))
    print("\nOver pixels, AUROC / average precision / best IoU (oracle), means over seeds\n")
    print("| localizer | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name in names:
        cells = []
        for data in columns:
            ours = [one["localizers"][name] for one in results if one["data"] == data and name in one["localizers"]]
            cells.append(" / ".join(short(fmean(one[f] for one in ours)) for f in FIGURES) if ours else "-")
        print(f"| {name} | " + " | ".join(cells) + " |")
    for data in columns:
        runs = [one for one in results if one["data"] == data]
        print(f"\n{data}, {names[0]}, seeds {', '.join(str(one['seed']) for one in runs)}")
        for figure in (*FIGURES, *MORE, *(f"{name}_of_kinds" for name in FIGURES)):
            values = [one["localizers"][names[0]].get(figure) for one in runs]
            known = [value for value in values if value is not None]
            if known:
                print(f"  {figure:22} {short(fmean(known))}   ({', '.join(short(value) for value in known)})")
        for what, name in (("active latents", "active_latents"), ("hardware", "hardware")):
            print(f"  {what:22} {'; '.join(dict.fromkeys(one[name] for one in runs))}")
        for what, name in (("minutes of training", "training_seconds"), ("with fitting", "seconds")):
            print(f"  {what:22} {', '.join('?' if one[name] is None else f'{one[name] / 60:.1f}' for one in runs)}")


def short(value: float) -> str:
    """Three digits, as tables have them."""
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder that holds the data sets' folders")
    parser.add_argument("--out", type=Path, default=Path("runs/localization"))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="for a trial; default: as vaelens train")
    parser.add_argument("--localizers", nargs="+", help="default: the run's own and the floors")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--from", dest="kept", type=Path, nargs="+", help="measure nothing: print what --json kept in these files"
    )
    options = parser.parse_args()
    if options.kept:
        print_tables([one for file in options.kept for one in json.loads(file.read_text())])
        return
    if options.root is None:
        parser.error("name the folder of the data sets by --root, or figures that are there by --from")
    print(hardware())
    results = []
    for seed in options.seeds:
        for data in options.data:
            try:
                results.append(measure(data, seed, options))
            except VaelensError as error:
                raise SystemExit(f"{error}; the same call goes on") from error
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n")
    print_tables(results)


if __name__ == "__main__":
    main()
