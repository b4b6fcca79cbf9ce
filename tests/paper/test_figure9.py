"""Figure 9: which latents and sprites it shows, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens import LatentAttention
from vaelens.data.sprites import SHAPES, SIZES, Sprites, official, render
from vaelens.errors import UsageError
from vaelens.objectives import attention_disentanglement
from vaelens.paper import figure9, reproduce
from vaelens.runs import Run, load_run
from vaelens.runs.train import train_run


@pytest.fixture(scope="module", autouse=True)
def _drawn_once() -> Iterator[None]:
    """Every run here is trained on the same sprites in memory; drawing them anew takes seconds each time."""
    sprites = Sprites()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(official, "Sprites", lambda: sprites)
        yield


@pytest.fixture(scope="module")
def runs(_drawn_once: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Four steps of FactorVAE and six of AD-FactorVAE."""
    out = tmp_path_factory.mktemp("sprites")
    options: dict[str, Any] = {"batch_size": 8, "progress": False}
    return {
        objective: train_run(out / objective, "dsprites", objective=objective, steps=steps, seed=seed, **options)
        for objective, steps, seed in (("factor", 4, 5), ("ad-factor", 6, 7))
    }


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure9, "_AT_RANDOM", 300)


def test_the_two_strongest_latents_of_fixed_sprites_with_their_overlap(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    draws = figure9.figure9
    monkeypatch.setattr(figure9, "figure9", lambda *rest: drawn.append(rest) or draws(*rest))
    # given in the other order, FactorVAE is above all the same
    result = reproduce("figure9", tmp_path / "out", runs=[runs["ad-factor"].path, runs["factor"].path], progress=False)
    assert [file.name for file in result.files] == ["figure9.png", "figure9.json"]
    with Image.open(result.files[0]) as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    ((inputs, titles, blocks),) = drawn
    assert titles == SHAPES
    poses = [[shape, *pose] for pose in figure9.POSES for shape in range(3)]
    sprites = render(poses)
    assert np.array_equal(inputs.reshape(9, 64, 64), sprites)
    told = json.loads(result.files[1].read_text())["runs"]
    assert [one["label"] for one in told] == ["FactorVAE, gamma 40", "AD-FactorVAE, gamma 40, lambda 20, all pairs"]
    assert [(one["seed"], one["steps"], one["layer"]) for one in told] == [(5, 4, "encoder.relu4"), (7, 6, "encoder.relu4")]
    images = torch.from_numpy(sprites).unsqueeze(1).float()
    for objective, one, block in zip(("factor", "ad-factor"), told, blocks, strict=True):
        maps = LatentAttention(runs[objective].model, "encoder.relu4")(images)
        empty = 0
        for n, pair in enumerate(one["pairs"]):
            two = maps.mean[n].abs().topk(2).indices
            assert pair["latents"] == two.tolist()
            assert pair["means"] == pytest.approx(maps.mean[n, two].tolist(), rel=1e-4)
            # of the one image and the two latents alone, the loss is the overlap of the pair
            expected = float(attention_disentanglement(maps.per_latent[n : n + 1, two]))
            assert pair["overlap"] == pytest.approx(expected, abs=1e-5)
            row, column = divmod(n, 3)
            assert np.allclose(block.maps[row, column], maps.per_latent[n, two].detach().numpy(), atol=1e-6)
            assert block.notes[row][column] == f"overlap {expected:.2f}"
            nothing = (maps.per_latent[n, two].flatten(1).amax(1) == 0).tolist()
            assert [name.endswith(figure9.EMPTY) for name in block.names[row][column]] == nothing
            assert [name.split()[0] for name in block.names[row][column]] == [f"z{latent}" for latent in two.tolist()]
            empty += sum(nothing)
        assert one["empty_maps"] == empty
        nowhere = f"{empty} of these 18 maps are zero everywhere ({figure9.EMPTY})"
        for text in (f"seed {one['seed']}, {one['steps']} steps, layer encoder.relu4", nowhere):
            assert text in result.text
        by_shape = {shape: [pair["overlap"] for pair in one["pairs"][at::3]] for at, shape in enumerate(SHAPES)}
        for shape, values in by_shape.items():
            assert f"{shape} {', '.join(f'{value:.2f}' for value in values)}" in result.text
    assert [run["objective"] for run in result.to_dict()["runs"]] == ["factor", "ad-factor"]


def test_sprites_at_random_are_measured_likewise(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure9, "_AT_ONCE", 128)
    run = runs["factor"]
    draw = figure9.sprites_of(run)
    found = figure9.responses(run, draw, draw(np.array([[0, 5, 0, 16, 16]])))
    maps = run.explain(draw(figure9.random_poses(300, seed=1))).maps
    assert len(found.at_random) == 300
    assert float(found.at_random.mean()) == pytest.approx(float(attention_disentanglement(maps, "top2")), abs=1e-5)
    two = maps.mean.abs().topk(2, dim=1).indices
    empty = maps.per_latent.flatten(2).amax(2).gather(1, two) == 0
    assert found.empty == pytest.approx(float(empty.float().mean()), abs=0.01)


def test_poses_differ_and_can_be() -> None:
    poses = np.array(figure9.POSES)
    assert poses.shape == (3, 4)
    assert (poses < np.array(SIZES[1:])).all()
    assert [len(set(factor)) for factor in poses.T.tolist()] == [3] * 4


def test_runs_are_trained_where_none_are_given(tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    options = ("--steps", 2, "--seed", 3, "--preset", "small", "--quiet")
    done = cli("reproduce", "figure9", *options, "--out", out)
    assert done.code == 0, done.err
    trained = [load_run(folder) for folder in sorted((out / "runs").iterdir())]
    assert [run.config.objective for run in trained] == ["ad-factor", "factor"]
    assert {run.config.training["seed"] for run in trained} == {3}
    told = json.loads((out / "figure9.json").read_text())
    assert [(one["seed"], one["steps"]) for one in told["runs"]] == [(3, 2), (3, 2)]
    assert done.out.count("seed 3, 2 steps") == 2
    assert done.out.splitlines()[-2:] == [f"wrote    {out / name}" for name in ("figure9.png", "figure9.json")]


@pytest.mark.parametrize("given", [("factor",), ("ad-factor", "ad-factor"), ("factor", "ad-factor", "factor")], ids=",".join)
def test_other_runs_are_refused(given: tuple[str, ...], runs: dict[str, Run], tmp_path: Path) -> None:
    paths = []
    for at, objective in enumerate(given):
        paths.append(tmp_path / f"run{at}")
        paths[-1].symlink_to(runs[objective].path)
    listed = ", ".join(given)
    with pytest.raises(UsageError, match=f"one of objective factor and one of ad-factor; given: {listed}$"):
        reproduce("figure9", tmp_path / "out", runs=paths, progress=False)
    assert not (tmp_path / "out").exists()


def test_what_it_does_not_take_is_refused(
    runs: dict[str, Run], tiny_run: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    out = ("--out", tmp_path / "out", "--quiet")
    assert "is of digits" in fails("reproduce", "figure9", "--run", tiny_run, "--run", runs["factor"].path, *out, code=2)
    assert fails("reproduce", "figure9", "--seeds", "0,1", *out, code=2) == "figure9 takes no --seeds; leave it out"
    assert "--steps" in fails("reproduce", "figure9", "--epochs", 3, *out, code=2)
    assert not (tmp_path / "out").exists()
