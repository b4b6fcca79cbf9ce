"""Runs of the compared methods: each trains, loads back, evaluates and scores; there are no latents to explain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vaelens.errors import UsageError
from vaelens.localizers.anogan import AnoGANLocalizer
from vaelens.runs import Run, load_run
from vaelens.runs.train import train_run

OBJECTIVES = {"ae": ("ae", "ae-l2"), "ae-ssim": ("ae", "ae-ssim"), "anogan": ("dcgan", "anogan")}
OPTIONS: dict[str, Any] = {"size": 32, "held_out": 0.1, "latent_dim": 4, "batch_size": 12, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def _short_search() -> Iterator[None]:
    """The search of AnoGAN takes 3 steps instead of 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnoGANLocalizer.__init__, "__defaults__", (3, 0.1, 0.1, 0))
        yield


@pytest.fixture(scope="module", params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(objective: str, defect_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp(objective) / "run"
    train_run(out, "folder", root=defect_root, objective=objective, epochs=2, **OPTIONS)
    return load_run(out)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.path, tmp_path / "run"))


def test_it_says_what_it_is(run: Run, objective: str) -> None:
    network, main = OBJECTIVES[objective]
    assert run.config.objective == objective
    assert run.config.network["name"] == network
    assert run.main_localizer == main
    assert not run.has_posterior
    assert run.reconstructs == (objective != "anogan")
    assert run.active.shape == (0,)
    assert run.metrics["mean_kl"] == []
    assert run.metrics["active_latents"] == 0
    assert run.settings()["layer"] is None
    assert len(run.calibration(main).scores) == 4


def test_it_localizes_and_its_floors_stand_beside(run: Run, objective: str) -> None:
    images = torch.rand(2, 1, 32, 32)
    for name in (run.main_localizer, "floor-mean"):
        verdict = run.localize(images, name)
        assert verdict.maps.shape == (2, 32, 32)
        assert bool(verdict.maps.isfinite().all())
    for name in ("deviation", "matching", "kl", "attention", "feature-dictionary"):
        with pytest.raises(
            UsageError, match=f"'{name}' takes a VAE, not a run of objective '{objective}'; this one has: "
        ) as error:
            run.localize(images, name)
        assert run.main_localizer in str(error.value)
    for call in (lambda: run.explain(images), run.attend, lambda: run.attention):
        with pytest.raises(UsageError, match="no latents to explain"):
            call()
    if objective == "anogan":
        with pytest.raises(UsageError, match="reconstructs nothing"):
            run.reconstruct(images)
    else:
        assert run.reconstruct(images).shape == images.shape


def test_the_commands(
    copy: Path, objective: str, defect_root: Path, tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]
) -> None:
    main = OBJECTIVES[objective][1]
    done = cli("evaluate", copy, "--localizer", f"{main},floor-mean", "--json", "--quiet")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert set(result["localizers"]) == {main, "floor-mean"}
    assert (result["latents"], result["active_latents"]) == (0, 0)
    assert 0 <= result["localizers"][main]["pixel_auroc"] <= 1
    scored = cli(
        "score", copy, defect_root / "test" / "spot", "--localizer", main, "--out", tmp_path / "s", "--json", "--quiet"
    )
    assert scored.code == 0, scored.err
    rows = json.loads(scored.out)["images"]
    assert len(rows) == 4
    assert all(row["fired"] is None and row["score"] >= 0 and row["error"] is None for row in rows)
    assert (tmp_path / "s" / "masks" / "000.png.png").is_file()
    image = defect_root / "test" / "spot" / "000.png"
    said = fails("explain", copy, image, "--out", tmp_path / "e", code=2)
    assert said == f"a run of objective '{objective}' has no latents to explain; train a VAE for that"
    assert not (tmp_path / "e").exists()


def test_it_has_no_maps_to_judge(copy: Path, fails: Callable[..., str]) -> None:
    assert "has no latents to explain" in fails("evaluate", copy, "--faithfulness", code=2)


def test_it_goes_on_to_the_same_weights(run: Run, objective: str, defect_root: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    train_run(part, "folder", root=defect_root, objective=objective, epochs=1, **OPTIONS, warmup_epochs=0.2)
    longer = train_run(part, "folder", resume=True, epochs=2, progress=False)
    assert longer.metrics["epochs"] == 2
    assert longer.main_localizer == run.main_localizer
    whole, parts = load_file(run.path / "model.safetensors"), load_file(part / "model.safetensors")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    with pytest.raises(UsageError, match="has objective"):
        train_run(part, "folder", resume=True, objective="vae", progress=False)


def test_what_cannot_be(defect_root: Path, tmp_path: Path, objective: str, fails: Callable[..., str]) -> None:
    out = tmp_path / "run"
    given = ("--root", defect_root, "--objective", objective, "--out", out)
    assert OBJECTIVES[objective][0] in fails("train", "folder", *given, "--network", "compact", code=2)
    assert "mvtec" in fails("train", "digits", "--objective", objective, "--out", out, code=2)
    assert not out.exists()
