"""The tables of docs/judge.md, from what `vaelens evaluate RUN --faithfulness --json` printed and was kept.

    vaelens evaluate runs/ones --faithfulness --json > benchmarks/results/faithfulness_mnist.json    # and so on
    python benchmarks/faithfulness.py                                   # all that are there as tables in Markdown

Nothing is measured here: the commands are those of the page, and so are the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATA = ("mnist", "ped2", "screw", "dsprites")
CHANCE, BASELINES = ("random", "centre"), ("random", "centre", "difference")
KINDS = ("deletion", "insertion")


def kept(data: str) -> dict[str, Any]:
    """What the command printed for a data set."""
    values: dict[str, Any] = json.loads((RESULTS / f"faithfulness_{data}.json").read_text())["faithfulness"]
    return values


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals without the 0 before the point; "-" of none."""
    if value is None:
        return "-"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1)


def gain(values: Mapping[str, Any]) -> str:
    """A gain with half its interval."""
    if values["mean"] is None or values["high"] is None:
        return number(values["mean"], True)
    return f"{number(values['mean'], True)} ± {number(values['high'] - values['mean'])}"


def curve_rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of each kind of curve the maps that know nothing, then the methods: area, gains and verdict."""
    for kind in KINDS:
        for name in BASELINES:
            yield [kind, f"*{name}*", number(found["baselines"][name][kind]["area"]), "", "", "", ""]
        for name, method in found["methods"].items():
            one = method[kind]
            yield [kind, name, number(one["area"]), *(gain(one["gain"][base]) for base in BASELINES), one["verdict"]]


def map_rows(data: str, found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of each method: empty maps, overlap between latents, randomization, agreement with another seed."""
    for name, method in found["methods"].items():
        overlap, random = method["overlap"], method["randomization"]
        agreed = [f"{number(one['spearman'])} ({number(one['by_chance']['spearman'])})" for one in method["agreement"].values()]
        yield [
            data,
            name,
            number(method["empty_maps"]),
            *(number(overlap[kind]) if overlap else "-" for kind in ("pearson", "spearman", "cosine")),
            number(random["spearman"][0]),
            number(random["spearman"][-1]),
            number(random["by_chance"]["spearman"]),
            ", ".join(agreed) or "-",
        ]


def inside_rows(data: str, found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of each localizer, and of each method's maps in the mean over latents, what lies inside the masks."""
    anomalies = found["anomaly_maps"]
    if not anomalies or not anomalies["inside"]:
        return
    for name in CHANCE:
        one = anomalies["inside_by_chance"][name]
        yield [data, f"*{name}*", number(one["pointing"]), "", "", number(one["energy"]), "", ""]
    for name, one in anomalies["inside"].items():
        cells = []
        for figure, value in (("pointing", one["pointing_game"]), ("energy", one["energy_inside"])):
            cells += [number(value), *(gain(one["gain"][figure][base]) for base in CHANCE)]
        yield [data, name, *cells]


def score_rows(data: str, found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of each localizer deletion and insertion on its score."""
    anomalies = found["anomaly_maps"]
    for name, curves in anomalies["score_curves"].items() if anomalies else ():
        for kind in KINDS:
            one = curves[kind]
            yield [data, name, kind, number(one["area"]), *(gain(one["gain"][base]) for base in BASELINES), one["verdict"]]


OVER = [f"over {name}" for name in BASELINES]
HEADS = {
    "curves": ["curve", "maps", "area", *OVER, "verdict"],
    "maps": ["data", "maps", "empty", "Pearson", "Spearman", "cosine", "last layer", "all layers", "other image", "other seed"],
    "inside": ["data", "maps", "pointing game", *OVER[:2], "energy inside", *OVER[:2]],
    "scores": ["data", "anomaly maps of", "curve", "area", *OVER, "verdict"],
}


def tables() -> dict[str, list[list[str]]]:
    """Every table's rows by name: "curves DATA", "maps", "inside" and "scores"."""
    found = {data: kept(data) for data in DATA if (RESULTS / f"faithfulness_{data}.json").is_file()}
    made = {f"curves {data}": list(curve_rows(one)) for data, one in found.items()}
    for name, rows in (("maps", map_rows), ("inside", inside_rows), ("scores", score_rows)):
        made[name] = [row for data, one in found.items() for row in rows(data, one)]
    return made


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, rows in tables().items():
        head = HEADS[name.split()[0]]
        print(f"\n{name}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
