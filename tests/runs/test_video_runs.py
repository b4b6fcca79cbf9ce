"""Runs on video: neighbouring frames as channels, in training, in evaluation and in scoring a folder of frames."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.runs import Run, load_run
from vaelens.runs.data import load_defects
from vaelens.runs.train import train_run
from vaelens.scoring.faithfulness import evaluate_faithfulness
from vaelens.scoring.local import score
from vaelens.scoring.sources import Source
from vaelens.scoring.synthetic import evaluate_synthetic, synthetic_test

FRAMES = 8


def frame(at: int, speed: int = 2) -> np.ndarray[Any, Any]:
    """A grey street with a bright box that has moved on."""
    pixels = np.full((40, 60), 90, np.uint8)
    pixels[20:26] = 120
    left = (3 + speed * at) % 50
    pixels[12:20, left : left + 6] = 220
    return pixels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips to train on, two to test on; in the second the box is fast from its fifth frame on, and marked."""
    top = tmp_path_factory.mktemp("video")
    folder = top / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"
    for part, clips in (("Train", 3), ("Test", 2)):
        for clip in range(1, clips + 1):
            place = folder / part / f"{part}{clip:03d}"
            place.mkdir(parents=True)
            for at in range(FRAMES):
                fast = part == "Test" and clip == 2 and at >= 4
                image = frame(at + 3 * clip, speed=5 if fast else 2)
                Image.fromarray(image).save(place / f"{at + 1:03d}.tif")
                if part == "Test":
                    truth = folder / part / f"{part}{clip:03d}_gt"
                    truth.mkdir(exist_ok=True)
                    marked = (image == 220) if fast else np.zeros_like(image, bool)
                    Image.fromarray((marked * 255).astype(np.uint8)).save(truth / f"{at + 1:03d}.bmp")
            (place / "._001.tif").write_bytes(b"\0")
    return top


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("video-run") / "run"
    options: dict[str, Any] = {"size": (32, 48), "network": "compact", "frames": 3, "held_out": 0.4, "latent_dim": 4}
    return train_run(out, "ucsd-ped2", root=root, epochs=1, batch_size=8, progress=False, **options)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.path, tmp_path / "run"))


def test_three_frames_are_three_channels(run: Run) -> None:
    assert run.input_shape == (3, 32, 48)
    assert run.config.explain["fixed_camera"] is True
    split = load_defects(run.config)
    assert split.test is not None
    first, second = split.test.images[:2]
    assert torch.equal(first[0], first[1]), "before the first frame there is itself"
    assert torch.equal(first[2], second[1])
    assert torch.equal(second[0], first[1])
    assert torch.equal(run.visible(split.test.images)[:, 0], split.test.images[:, 1])
    assert split.counts["test_anomalous"] == 4
    assert run.metrics["images"]["calibration"] == FRAMES, "a whole clip"


def test_motion_is_among_the_floors(copy: Path, cli: Callable[..., Any]) -> None:
    done = cli("evaluate", copy, "--json", "--quiet")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert list(result["localizers"])[-1] == "floor-motion"
    assert result["localizers"]["floor-motion"]["pixel_auroc"] > 0.6
    assert all(0 <= one["pixel_auroc"] <= 1 for one in result["localizers"].values())
    assert (copy / "report" / "report.html").is_file()


def test_maps_of_clips_are_judged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "active", property(lambda self: torch.tensor([True, False, True, False])))
    found = evaluate_faithfulness(run, ["cvpr", "deviation"], 3, localizers=["deviation"], steps=2)
    assert found.latents == [0, 2]
    assert found.anomalies is not None
    assert found.anomalies.masked == 3
    assert all(len(one.curves["deletion"].curve.mean) == 3 for one in found.methods.values())


def test_of_how_few_clips_the_promise_is_is_said(copy: Path, root: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    caution = "The held-out images are frames of one clip, so what is promised"
    assert load_run(copy).caution.startswith(caution)
    clip = root / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2" / "Test" / "Test002"
    assert cli("score", copy, clip, "--no-pictures", "--out", tmp_path / "s", "--localizer", "floor-mean").code == 0
    assert caution in (tmp_path / "s" / "report.html").read_text()
    done = cli("evaluate", copy, "--localizer", "floor-mean")
    assert caution in done.out
    assert caution in (copy / "report" / "report.html").read_text()
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps(metrics | {"held_out_clips": 2}))
    assert "frames of 2 clips" in load_run(copy).caution
    (copy / "metrics.json").write_text(json.dumps({name: metrics[name] for name in metrics if name != "held_out_clips"}))
    assert load_run(copy).caution == ""  # of a run from before
    (copy / "metrics.json").write_text(json.dumps(metrics | {"held_out_clips": "many"}))
    damaged = cli("evaluate", copy)
    assert damaged.code == 1
    assert "metrics.json is damaged" in damaged.err


def test_matching_remembers_every_place(run: Run) -> None:
    localizer = run.localizer("matching")
    assert (localizer.neighbours, localizer.window) == (None, 1)  # type: ignore[attr-defined]


def test_a_folder_of_frames_is_scored_as_the_data_set_is(run: Run, root: Path, tmp_path: Path) -> None:
    clip = root / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2" / "Test" / "Test002"
    result = score(run, Source(run, [str(clip)]), tmp_path / "out", false_alarms=0.2)
    split = load_defects(run.config)
    assert split.test is not None
    expected = run.localize(to_float(split.test.images[FRAMES:]), false_alarms=0.2)
    assert [row.path for row in result.rows] == [f"{at:03d}.tif" for at in range(1, FRAMES + 1)]
    assert [row.score for row in result.rows] == pytest.approx(expected.score.tolist(), rel=1e-4)
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "003.tif.png"))
    assert overlay.shape[:2] == (32, 48)
    named = score(run, Source(run, ["ucsd-ped2/test/Test002"]), tmp_path / "named", pictures=False)
    assert [row.score for row in named.rows] == pytest.approx(expected.score.tolist(), rel=1e-4)
    assert [row.label for row in named.rows] == ["good"] * 4 + ["anomalous"] * 4


def test_one_frame_by_its_name_has_its_neighbours(run: Run, root: Path, tmp_path: Path) -> None:
    clip = root / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2" / "Test" / "Test002"
    whole = score(run, Source(run, [str(clip)]), tmp_path / "whole", pictures=False)
    for given in (clip / "004.tif", clip / ".." / "Test002" / "004.tif"):
        one = score(run, Source(run, [str(given)]), tmp_path / "one", pictures=False, overwrite=True)
        assert one.rows[0].score == pytest.approx(whole.rows[3].score, rel=1e-4)


def test_a_damaged_frame_is_named_where_it_is_needed(run: Run, root: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    shutil.copytree(root / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2" / "Test" / "Test001", clip)
    (clip / "005.tif").write_bytes(b"no image")
    result = score(run, Source(run, [str(clip)]), tmp_path / "out", pictures=False)
    failed = [row.path for row in result.rows if row.error]
    assert failed == ["004.tif", "005.tif", "006.tif"]
    assert all("005.tif" in (row.error or "") for row in result.rows if row.error)


def test_synthetic_defects_move_through_the_frames(run: Run) -> None:
    test, masks = synthetic_test(run, images=20)
    result = evaluate_synthetic(run, ["matching", "learned"], images=20)
    assert test.images.shape == (20, 3, 32, 48)
    assert masks.shape == (20, 32, 48)
    assert result.counts["test"] == 20
    assert 0 < result.counts["test_anomalous"] < 20
    assert set(result.localizers) == {"matching", "learned"}
    assert all(one.figures.auroc is not None for one in result.localizers.values())


def test_an_even_number_of_frames_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="frames must be odd"):
        train_run(tmp_path / "run", "ucsd-ped2", root=root, frames=4, progress=False)


def test_without_frames_every_image_is_by_itself(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = {"size": 32, "network": "compact", "fixed_camera": False, "latent_dim": 4}
    run = train_run(out, "ucsd-ped2", root=root, epochs=1, batch_size=16, progress=False, **options)
    assert run.input_shape == (1, 32, 32)
    assert run.localizer("matching").neighbours == 20  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="--frames 3"):
        run.localizer("floor-motion")


def test_the_scoring_benchmark_runs(root: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options: dict[str, Any] = {"size": 32, "network": "compact", "latent_dim": 4, "held_out": 0.4}
    train_run(tmp_path / "run", "ucsd-ped2", root=root, epochs=1, batch_size=16, progress=False, **options)
    command = [sys.executable, "benchmarks/scoring.py", "--root", str(root), "--run", str(tmp_path / "run")]
    command += ["--clips", "1", "--rounds", "1", "--json", str(figures)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{FRAMES} frames, ")
    seconds = json.loads(figures.read_text())["seconds"]
    base = "decoding and one forward"
    assert set(seconds) == {base, f"{base}, channels last", "score, deviation"}
    assert all(value > 0 for value in seconds.values())
