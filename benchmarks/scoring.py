"""How fast `vaelens score` goes, beside decoding and one encoder forward alone, on frames of UCSD Ped2.

    python benchmarks/scoring.py --root data --run runs/ped2

Rounds are interleaved: each decodes and encodes the same frames, with the network as torch lays it out and with the channels
last, as runs have it; then scores the folders that hold them with each localizer, table and report included. Without --run a
network is trained for one epoch first: what it has learned does not matter here.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from vaelens import Run, load_run, train_run
from vaelens.data.images import to_float
from vaelens.models import ConvVAE
from vaelens.scoring.local import score
from vaelens.scoring.sources import Source

BATCH = 64
BASES = ("decoding and one forward", "decoding and one forward, channels last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds UCSD_Anomaly_Dataset.v1p2")
    parser.add_argument("--run", type=Path, help="a run of ucsd-ped2")
    parser.add_argument("--localizers", default="deviation", help="separated by commas")
    parser.add_argument("--clips", type=int, default=12, help="how many of the twelve test clips")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path = arguments.run or train_run(place / "run", "ucsd-ped2", root=arguments.root, epochs=1).path
        frames, rows = measure(
            load_run(path), arguments.root, place, arguments.localizers.split(","), arguments.clips, arguments.rounds
        )
    bases = [rows[name] for name in BASES]
    print(f"{frames} frames, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rounds} rounds")
    for name, seconds in rows.items():
        rate = frames / seconds
        shares = ", ".join(f"{base / seconds:5.2f}" for base in bases)
        print(f"{name:40} {seconds:7.2f} s   {rate:5.0f} frames a second   {shares} of the first two")
    if arguments.json:
        arguments.json.write_text(json.dumps({"frames": frames, "seconds": rows}, indent=2) + "\n")


def measure(run: Run, root: Path, place: Path, localizers: list[str], clips: int, rounds: int) -> tuple[int, dict[str, float]]:
    """How many frames, and median seconds of decoding with one forward, in either layout, and of scoring by each localizer."""
    folders = sorted((root / "UCSD_Anomaly_Dataset.v1p2/UCSDped2/Test").glob("Test[0-9][0-9][0-9]"))[:clips]
    source = Source(run, [str(folder) for folder in folders])
    for localizer in localizers:
        run.calibration(localizer), run.localizer(localizer)  # fitted once, not in every round
    plain = copy.deepcopy(run.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    times: dict[str, list[float]] = {name: [] for name in (*BASES, *(f"score, {name}" for name in localizers))}
    for number in range(rounds):
        for base, model in zip(BASES, (plain, run.model), strict=True):
            started = time.perf_counter()
            bare(source, model)
            times[base].append(time.perf_counter() - started)
        for name in localizers:
            started = time.perf_counter()
            again = Source(run, [str(folder) for folder in folders])
            score(run, again, place / f"{name}-{number}", localizer=name, pictures=False)
            times[f"score, {name}"].append(time.perf_counter() - started)
    return len(source), {name: statistics.median(seconds) for name, seconds in times.items()}


def bare(source: Source, model: ConvVAE) -> None:
    """Decode the frames and encode them, and nothing else."""
    with torch.no_grad():
        for batch in source.batches(BATCH):
            images = torch.stack([one.image for one in batch if one.image is not None])
            model.encode(to_float(images))


if __name__ == "__main__":
    main()
