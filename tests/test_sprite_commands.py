"""`vaelens explain` on a run of dSprites, as a person types it: traversals beside maps, and what is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens.data.sprites import render
from vaelens.objectives import kl_per_latent
from vaelens.runs import load_run
from vaelens.scoring import traversal

FILES = {"square.png", "ellipse.png", "heart.png", "latents.json", "report.html"}


def vaelens(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaelens", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="session")
def sprite_run(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Path:
    """A run of dSprites of four steps."""
    out = tmp_path_factory.mktemp("dsprites") / "run"
    options = ("--objective", "ad-factor", "--steps", 4, "--batch-size", 8, "--quiet")
    done = cli("train", "dsprites", *options, "--out", out)
    assert done.code == 0, done.err
    return out


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traversal, "SAMPLE", 500)


def test_explaining_draws_a_sprite_of_each_shape(sprite_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = vaelens("explain", sprite_run, "--out", out, "--json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert {file.name for file in out.iterdir()} == {*FILES, ".vaelens"}
    kept = json.loads((out / "latents.json").read_text())
    assert kept["latents"] == told["latents"]
    assert [Path(image["picture"]).name for image in told["images"]] == [image["picture"] for image in kept["images"]]
    run = load_run(sprite_run)
    assert (told["layer"], told["method"], told["variant"]) == (run.attention.layer, run.attention.method, "cvpr")
    sprites = torch.from_numpy(render([[shape, *traversal.POSE] for shape in range(3)])).unsqueeze(1).float()
    mean, logvar = run.model.encode(sprites)
    for i, image in enumerate(told["images"]):
        assert image["mean"] == pytest.approx(mean[i].tolist(), abs=1e-5)
        assert image["logvar"] == pytest.approx(logvar[i].tolist(), abs=1e-5)
        assert image["kl"] == pytest.approx(kl_per_latent(mean, logvar)[i].tolist(), abs=1e-5)
        assert sorted(image["rows"]) == list(range(10))
        with Image.open(image["picture"]) as picture:
            page = np.asarray(picture.convert("RGB"))
        assert min(page.shape[:2]) > 500
        assert len(np.unique(page.reshape(-1, 3), axis=0)) > 50
    assert told["measured_on"] == 20_000
    few = traversal.knowledge_of(run, traversal.sprites_of(run), 2000)
    assert [one["kl"] for one in told["latents"]] == pytest.approx(few.kl.tolist(), rel=0.2)
    assert told["active_latents"] == [one["latent"] for one in told["latents"] if one["kl"] > 0.05]
    assert [one["active"] for one in told["latents"]] == [one["kl"] > 0.05 for one in told["latents"]]
    for one in told["latents"]:
        best = told["factors"][int(np.argmax(one["mutual_information"]))]
        assert one["knows_most_of"] == (best if one["active"] else None)


@pytest.mark.usefixtures("_few")
def test_in_words_and_with_options(sprite_run: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    done = cli("explain", sprite_run, "--out", tmp_path / "out", "--latents", "5")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:10]] == [f"z{d}" for d in range(10)]
    assert lines[-1] == f"report   {tmp_path / 'out' / 'report.html'}"
    assert f"square, scale 5, orientation 0, posX 16, posY 16: {tmp_path / 'out' / 'square.png'}" in lines
    options = ("--latents", "3,1", "--layer", "encoder.relu2", "--method", "vjp", "--variant", "expvae", "--json")
    done = cli("explain", sprite_run, "--out", tmp_path / "some", *options)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["layer"], told["method"], told["variant"]) == ("encoder.relu2", "vjp", "expvae")
    assert all(sorted(image["rows"]) == [1, 3] for image in told["images"])
    assert len(told["latents"]) == 10
    done = cli("explain", sprite_run, "--out", tmp_path / "top", "--latents", "top2", "--json")
    for image in json.loads(done.out)["images"]:
        assert set(image["rows"]) == set(np.argsort(-np.abs(image["mean"]))[:2].tolist())


@pytest.mark.usefixtures("_few")
def test_results_are_replaced_where_that_is_asked_for(
    sprite_run: Path, tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    assert cli("explain", sprite_run, "--out", out, "--latents", "0").code == 0
    small = (out / "heart.png").read_bytes()
    (out / "mine.txt").write_text("kept")
    assert "pass --overwrite" in fails("explain", sprite_run, "--out", out, code=2)
    assert (out / "heart.png").read_bytes() == small
    assert cli("explain", sprite_run, "--out", out, "--latents", "0,1", "--overwrite").code == 0
    assert (out / "heart.png").read_bytes() != small
    assert (out / "mine.txt").read_text() == "kept"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    assert "is left alone" in fails("explain", sprite_run, "--out", tmp_path / "other", "--overwrite", code=2)
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("heart.png",), "a run of dsprites is explained on sprites of its own; leave IMAGES out"),
        (("--convert",), "a run of dsprites is explained on sprites of its own; leave --convert out"),
        (("--latents", "10"), "latent 10 does not exist"),
        (("--latents", "x"), "--latents takes indices"),
        (("--layer", "conv9"), "conv9"),
        (("--layer", "mean"), "layer 'mean' gives a map of one pixel, where nothing can lie apart; take one of: encoder.conv1"),
        (("--variant", "nope"), "expvae"),
        (("--root", "nowhere"), "nowhere does not exist or is neither; name it by --root"),
    ],
    ids=" ".join,
)
def test_misuse_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], says: str, sprite_run: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    assert says in fails("explain", sprite_run, *arguments, "--out", tmp_path / "out", code=2)
    assert list(tmp_path.iterdir()) == []


def test_other_runs_need_images(tiny_run: Path, sprite_run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    assert fails("explain", tiny_run, "--out", tmp_path / "out", code=2).startswith("no images given: name image files")
    assert "there is no run at" in fails("explain", tmp_path / "nothing", "--out", tmp_path / "out", code=1)
    assert "--out" in fails("explain", sprite_run, code=2)
    assert "of dsprites" in vaelens("explain", "--help").stdout
    assert list(tmp_path.iterdir()) == []
