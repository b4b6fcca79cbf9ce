"""Several first weights, of which a run goes on with the ones of least objective."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelens.errors import RunError, UsageError
from vaelens.metrics import kl_parts
from vaelens.objectives import kl_per_latent
from vaelens.runs import new, starts
from vaelens.runs.train import train_run
from vaelens.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")

OPTIONS: dict[str, Any] = {
    **{"objective": "ad-factor", "steps": 6, "batch_size": 4, "latent_dim": 3, "learning_rate": 1e-3},
    **{"precision": "32", "progress": False},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, few_sprites: Any) -> None:
    monkeypatch.setattr(new, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(starts, "_IMAGES", 128)


def chosen(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / starts.FILE).read_text()))


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_the_one_of_least_objective_goes_on_and_is_as_if_it_had_been_alone(tmp_path: Path) -> None:
    said = list[str]()
    run = train_run(tmp_path / "run", "dsprites", starts=4, **{**OPTIONS, "progress": True}, notice=said.append)
    found = chosen(run.path)
    objectives = [one["objective"] for one in found["starts"]]
    assert len(objectives) == len(set(objectives)) == 4
    assert found["start"] == objectives.index(min(objectives))
    assert said[-1].startswith("of 4 starts, with objectives of ")
    assert said[-1].endswith(f" nats, number {found['start'] + 1} goes on")
    assert found["seed"] == found["starts"][found["start"]]["seed"]
    assert found["starts"][0]["seed"] == 0  # the run's own
    for one in found["starts"]:
        assert one["objective"] == pytest.approx(one["reconstruction"] + one["kl"] + 40 * one["total_correlation"])
    assert run.config.training["starts"] == 4
    assert run.config.training["seed"] == 0
    assert run.metrics["epochs"] == 3
    assert not (run.path / starts.FOLDER).exists()
    alone = train_run(tmp_path / "alone", "dsprites", seed=found["seed"], **OPTIONS)
    assert weights(alone.path) == weights(run.path)
    assert len((run.path / "logs" / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_another_than_the_first_can_be_chosen(tmp_path: Path) -> None:
    picked = {chosen(train_run(tmp_path / str(s), "dsprites", starts=3, seed=s, **OPTIONS).path)["start"] for s in range(3)}
    assert picked != {0}


def test_the_figures_are_those_of_the_codes_after_an_epoch(tmp_path: Path, few_sprites: Any) -> None:
    one = train_run(tmp_path / "one", "dsprites", starts=2, **{**OPTIONS, "steps": 2})
    found = chosen(one.path)["starts"][chosen(one.path)["start"]]
    # After a single epoch the run's model is what was measured.
    indices = few_sprites.draw(128, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mean, logvar = one.model.encode(few_sprites.take(indices))
    assert found["kl"] == pytest.approx(float(kl_per_latent(mean, logvar).sum(1).mean()), rel=1e-4)
    assert found["total_correlation"] == pytest.approx(kl_parts(mean, logvar).total_correlation, abs=1e-3)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_stopped_at_a_start_it_goes_on_and_chooses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = train_run(tmp_path / "whole", "dsprites", starts=3, **OPTIONS)
    calls = 0

    def stopped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop_at + 1:
            raise KeyboardInterrupt
        return fit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("vaelens.training.fit.fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_run(tmp_path / "part", "dsprites", starts=3, **OPTIONS)
    assert (tmp_path / "part" / starts.FILE).exists() == (stop_at == 3)
    part = train_run(tmp_path / "part", "dsprites", resume=True, progress=False)
    assert weights(part.path) == weights(whole.path)
    assert chosen(part.path) == chosen(whole.path)
    longer = train_run(tmp_path / "part", "dsprites", resume=True, steps=8, progress=False)
    assert longer.metrics["epochs"] == 4
    assert chosen(longer.path) == chosen(whole.path)  # it stays
    with pytest.raises(UsageError, match="has starts 3, not 2"):
        train_run(tmp_path / "part", "dsprites", resume=True, starts=2, progress=False)


def test_one_start_leaves_no_trace_and_images_in_memory_have_starts_too(tmp_path: Path) -> None:
    assert not (train_run(tmp_path / "one", "dsprites", **OPTIONS).path / starts.FILE).exists()
    options = {"objective": "vae", "epochs": 2, "batch_size": 32, "latent_dim": 4, "progress": False}
    run = train_run(tmp_path / "digits", "digits", starts=2, **options)
    found = chosen(run.path)["starts"]
    assert all(math.isfinite(one["total_correlation"]) for one in found)
    for one in found:  # of which nothing weighs the total correlation
        assert one["objective"] == pytest.approx(one["reconstruction"] + one["kl"])


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="starts must be a whole number from 1 on, got 0"):
        train_run(tmp_path / "none", "dsprites", starts=0, **OPTIONS)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="objective 'ae' has no posterior to choose among 2 starts by; leave that out"):
        train_run(tmp_path / "none", "folder", root=tmp_path, objective="ae", starts=2)
    run = train_run(tmp_path / "run", "dsprites", starts=2, **OPTIONS)
    (run.path / starts.FILE).write_text("[]")
    with pytest.raises(RunError, match=r"starts\.json is damaged .*; train the run again"):
        train_run(run.path, "dsprites", resume=True, steps=8, progress=False)
