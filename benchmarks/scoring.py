"""How fast `vaelens score` goes, beside decoding and one encoder forward alone, on frames of UCSD Ped2.

    python benchmarks/scoring.py --root data --run runs/ped2

Rounds are interleaved: each decodes and encodes the same frames, one batch after the other, with the network as torch lays it
out and with the channels last, as runs have it; the latter once more, with the next batch read meanwhile, as scoring does; then
scores them with each localizer, table and report included. Without --run a network is trained for one epoch first: what it has
learned does not matter here.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vaelens import Run, load_run, train_run
from vaelens.data.images import to_float
from vaelens.models import ConvVAE
from vaelens.scoring.local import score
from vaelens.scoring.sources import Source

BATCH = 64
BASES = (
    "decoding and one forward",
    "decoding and one forward, channels last",
    "the same, reading ahead",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds UCSD_Anomaly_Dataset.v1p2")
    parser.add_argument("--run", type=Path, help="a run of ucsd-ped2")
    parser.add_argument("--localizers", default="deviation", help="separated by commas")
    parser.add_argument("--frames", type=int, default=2010)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path = arguments.run or train_run(place / "run", "ucsd-ped2", root=arguments.root, epochs=1).path
        rows = measure(
            load_run(path), arguments.root, place, arguments.localizers.split(","), arguments.frames, arguments.rounds
        )
    bases = [rows[name] for name in BASES]
    print(f"{arguments.frames} frames, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rounds} rounds")
    for name, seconds in rows.items():
        rate = arguments.frames / seconds
        shares = ", ".join(f"{base / seconds:5.2f}" for base in bases)
        print(f"{name:40} {seconds:7.2f} s   {rate:5.0f} frames a second   {shares} of the first three")
    if arguments.json:
        arguments.json.write_text(json.dumps({"frames": arguments.frames, "seconds": rows}, indent=2) + "\n")


def measure(run: Run, root: Path, place: Path, localizers: list[str], frames: int, rounds: int) -> dict[str, float]:
    """Median seconds of decoding with one forward, in three ways (`BASES`), and of scoring by each localizer."""
    clips = sorted((root / "UCSD_Anomaly_Dataset.v1p2/UCSDped2/Test").glob("Test[0-9][0-9][0-9]"))
    files = [str(file) for clip in clips for file in sorted(clip.glob("[0-9]*.tif"))][:frames]
    assert len(files) == frames, f"there are {len(files)} frames below {root}"
    for localizer in localizers:
        run.calibration(localizer), run.localizer(localizer)  # fitted once, not in every round
    plain = copy.deepcopy(run.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    times: dict[str, list[float]] = {name: [] for name in (*BASES, *(f"score, {name}" for name in localizers))}
    for number in range(rounds):
        for base, model, ahead in zip(BASES, (plain, run.model, run.model), (False, False, True), strict=True):
            started = time.perf_counter()
            bare(run, model, files, ahead)
            times[base].append(time.perf_counter() - started)
        for name in localizers:
            started = time.perf_counter()
            score(run, Source(run, files), place / f"{name}-{number}", localizer=name, pictures=False)
            times[f"score, {name}"].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def bare(run: Run, model: ConvVAE, files: list[str], ahead: bool) -> None:
    """Decode the frames and encode them, and nothing else; `ahead`: the next batch is read meanwhile."""
    with torch.no_grad():
        for images in read_ahead(run, files) if ahead else read(run, files):
            model.encode(to_float(images))


def read(run: Run, files: list[str]) -> Iterator[torch.Tensor]:
    assert run.preparation is not None
    for start in range(0, len(files), BATCH):
        yield torch.stack([run.preparation.read(file) for file in files[start : start + BATCH]])


def read_ahead(run: Run, files: list[str]) -> Iterator[torch.Tensor]:
    for batch in Source(run, files).batches(BATCH):
        yield torch.stack([one.image for one in batch if one.image is not None])


if __name__ == "__main__":
    main()
