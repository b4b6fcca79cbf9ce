"""The benchmarks run, and what they promise holds."""

from __future__ import annotations

import json
import os
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, timeout: int = 600) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=os.environ.copy()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_attention_benchmark_prints_every_method_and_its_methods_agree(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    arguments = ("--network", "dsprites", "--batch", "4", "--latents", "4", "--rounds", "1", "--json", str(figures))
    printed = run("benchmarks/attention.py", *arguments)
    for method in ("one encoder forward", "closed form", "batched VJP", "one backward per latent"):
        assert method in printed
    result = json.loads(figures.read_text())["dsprites"]
    assert result["difference"] < 1e-5
    assert all(t["seconds"] > 0 and t["peak_bytes"] > 0 for t in result["methods"].values())


def test_disentanglement_benchmark_prints_every_way_and_ours_is_the_quicker(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    arguments = (
        "--steps",
        "4",
        "--rounds",
        "3",
        "--loss-steps",
        "6",
        "--array",
        "256",
        "--encoded",
        "512",
        "--json",
        str(figures),
    )
    printed = run("benchmarks/disentanglement.py", *arguments)
    result = json.loads(figures.read_text())
    seconds = result["seconds_per_step"]
    assert list(seconds) == [
        "common",
        "ours",
        "ours, random pair in closed form",
        "ours, all pairs in closed form",
        "ours in float32",
        "common, random pair by double backward",
        "common, all pairs by double backward",
    ]
    assert all(f"| {name} " in printed and value > 0 for name, value in seconds.items())
    assert "ours: " in printed
    assert seconds["ours, all pairs in closed form"] < seconds["common, all pairs by double backward"]
    # Both start from the same weights, on images drawn from the same set.
    assert result["losses"]["ours"] == pytest.approx(result["losses"]["common"], rel=0.3)
    assert result["batch_seconds"] < 0.005
    assert result["images_per_second"]["encoded"] > 0.5 * result["images_per_second"]["forward"]
    assert result["score_seconds"] < 5


def test_export_benchmark_prints_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    few = ["--latents", "4", "--normals", "24", "--rounds", "1", "--batch", "1", "2", "--no-compile"]
    monkeypatch.setattr(sys, "argv", ["export.py", "--network", "dsprites", *few, "--json", str(figures)])
    runpy.run_path(str(ROOT / "benchmarks/export.py"))["main"]()
    printed = capsys.readouterr().out
    result = json.loads(figures.read_text())["dsprites"]
    assert set(result["seconds"]) == {"1", "2"}
    assert all(set(each) == {"torch eager", "onnxruntime"} and min(each.values()) > 0 for each in result["seconds"].values())
    assert max(result["checked"].values()) < 1e-4
    assert "| dsprites | 2 | " in printed
    assert "torch.compile is missing: left out" in printed


def test_metrics_benchmark_prints_both_and_its_bounds_hold(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    scores = "tied to 0.1, float32"
    arguments = ("--images", "1", "--rounds", "1", "--scores", scores, "--memory", "3000000", "--json", str(figures))
    printed = run("benchmarks/metrics.py", *arguments)
    assert scores in printed
    assert "3 million pixels: peak" in printed
    result = json.loads(figures.read_text())
    timing = result["scores"][scores]
    assert timing["auroc_off"] <= max(timing["auroc_bound"], 1e-9) < 1e-4
    assert timing["precision_off"] <= max(timing["precision_bound"], 1e-9)
    assert timing["metrics_seconds"] < timing["sklearn_seconds"]
    assert result["memory"]["peak_bytes"] < 300e6


def test_localization_benchmark_prints_means_over_seeds_and_goes_on_where_it_stopped(
    defect_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "magnetic_tile").symlink_to(defect_root)
    figures, out = tmp_path / "figures.json", tmp_path / "out"
    chosen = ["--data", "tile", "--epochs", "1", "--localizers", "learned", "floor-mean"]
    arguments = ["localization.py", "--root", str(tmp_path), "--out", str(out), "--json", str(figures), *chosen]
    main = runpy.run_path(str(ROOT / "benchmarks/localization.py"))["main"]  # in this process, where `learned` learns quickly

    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "0"])
    main()
    first = json.loads(figures.read_text())
    trained = (out / "runs" / "tile-seed0" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()

    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "0", "1"])
    main()
    printed = capsys.readouterr().out
    both = json.loads(figures.read_text())
    assert both[0] == first[0]
    assert [one["seed"] for one in both] == [0, 1]
    assert (out / "runs" / "tile-seed0" / "model.safetensors").stat().st_mtime_ns == trained
    for name in ("learned", "floor-mean"):
        found = [statistics.fmean(one["localizers"][name][f] for one in both) for f in ("pixel_auroc", "pixel_ap", "best_iou")]
        assert f"| {name} | " + " / ".join(f"{value:.3f}".removeprefix("0") for value in found) + " |" in printed
    (kept,) = (json.loads(file.read_text())["localizers"]["learned"] for file in (out / "results").glob("tile-seed0-*.json"))
    kinds = [of["pixel_auroc"] for kind, of in kept["per_defect"].items() if kind != "good"]
    assert first[0]["localizers"]["learned"]["pixel_auroc_of_kinds"] == pytest.approx(statistics.fmean(kinds))
    assert "minutes of training" in printed
    assert run("benchmarks/localization.py", "--from", str(figures)).strip() == printed.partition("\n")[2].strip()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_models_of_others_are_explained_faster_than_latent_by_latent(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    run("benchmarks/attention.py", "--network", "others", "--batch", "16", "--json", str(figures), timeout=900)
    for result in json.loads(figures.read_text()).values():
        seconds = {name: method["seconds"] for name, method in result["methods"].items()}
        assert result["difference"] < 1e-5
        assert seconds["one backward per latent"] >= 1.5 * seconds["closed form"]
        assert seconds["captum LayerGradCam"] >= 10 * seconds["closed form"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("network", "most"), [("mnist", 1.8), ("ucsd", 1.2), ("mvtec", 1.1)])
def test_all_maps_cost_little_more_than_one_forward(network: str, most: float, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    run("benchmarks/attention.py", "--network", network, "--json", str(figures), timeout=900)
    methods = json.loads(figures.read_text())[network]["methods"]
    forward, closed, loop = (methods[name] for name in ("one encoder forward", "closed form", "one backward per latent"))
    assert closed["seconds"] <= most * forward["seconds"]
    assert closed["peak_bytes"] <= 1.5 * forward["peak_bytes"]
    if network == "mnist":
        assert loop["seconds"] >= 12 * closed["seconds"]
