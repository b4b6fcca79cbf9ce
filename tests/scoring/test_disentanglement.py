"""Evaluating runs of dSprites: encoded once, every figure that of its own function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaelens.errors import UsageError
from vaelens.metrics import factor_vae_score, kl_parts, mutual_information_gap
from vaelens.metrics.disentanglement import METRICS
from vaelens.objectives import attention_disentanglement, kl_per_latent
from vaelens.runs import Run, load_run
from vaelens.runs.train import train_run
from vaelens.scoring import disentanglement
from vaelens.scoring.codes import encode_all
from vaelens.scoring.disentanglement import Disentanglement, evaluate_disentanglement, overlaps
from vaelens.scoring.disentanglement_report import write_disentanglement


@pytest.fixture(scope="module")
def run(shared_sprites: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"steps": 6, "batch_size": 8, "latent_dim": 4, "learning_rate": 1e-3, "precision": "32"}
    return train_run(tmp_path_factory.mktemp("sprites") / "run", "dsprites", objective="ad-factor", progress=False, **options)


@pytest.fixture(scope="module")
def result(run: Run) -> Disentanglement:
    return evaluate_disentanglement(run, repeats=2)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, few_sprites: Any) -> None:
    monkeypatch.setattr(disentanglement, "_RECONSTRUCTED", 64)


def test_all_images_are_encoded_in_order(run: Run, few_sprites: Any) -> None:
    seen: list[tuple[int, int]] = []
    mean, logvar = encode_all(run, few_sprites, lambda done, total: seen.append((done, total)), precision="32")
    with torch.no_grad():
        expected = run.model.encode(few_sprites.take(torch.arange(len(few_sprites))))
    torch.testing.assert_close(mean, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logvar, expected[1], rtol=1e-4, atol=1e-5)
    assert seen[-1] == (432, 432)
    assert mean.dtype == logvar.dtype == torch.float32


def test_half_precision_codes_are_close(run: Run, few_sprites: Any) -> None:
    exact, _ = encode_all(run, few_sprites, precision="32")
    rough, _ = encode_all(run, few_sprites, precision="bf16")
    assert float((exact - rough).abs().max()) < 0.03 * float(exact.abs().max())


def test_figures_are_those_of_the_codes(result: Disentanglement, run: Run, few_sprites: Any) -> None:
    mean, logvar = encode_all(run, few_sprites)
    codes, factors = mean.numpy(), few_sprites.factors()
    assert result.scores["factor_vae_score"].values == tuple(factor_vae_score(codes, factors, seed=s).score for s in (0, 1))
    assert result.scores["mig"].mean == mutual_information_gap(codes, factors).score
    np.testing.assert_array_equal(result.information, mutual_information_gap(codes, factors).mutual_information)
    parts = kl_parts(mean, logvar)
    assert result.parts.total_correlation == parts.total_correlation
    assert result.to_dict()["information"] == parts.information <= np.log(432)
    torch.testing.assert_close(result.kl.float(), kl_per_latent(mean, logvar).mean(0))
    assert set(result.scores) == set(METRICS) - {"dci"} | {
        f"dci_{n}" for n in ("disentanglement", "completeness", "informativeness")
    }
    assert result.overlaps.attention_overlap is not None
    assert 0 <= result.overlaps.attention_overlap <= 1


def test_the_overlap_of_active_latents_is_of_their_pairs_alone(run: Run, few_sprites: Any) -> None:
    active = torch.tensor([True, False, True, False])
    found = overlaps(run, few_sprites, active)
    indices = few_sprites.draw(2048, torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = run.attention(few_sprites.take(indices))
    assert found.attention_overlap == pytest.approx(float(attention_disentanglement(maps, "all")), abs=1e-5)
    of_two = float(attention_disentanglement(maps.per_latent[:, [0, 2]], "all"))
    assert found.attention_overlap_of_active == pytest.approx(of_two, abs=1e-5)
    assert overlaps(run, few_sprites, torch.tensor([True, False, False, False])).attention_overlap_of_active is None
    empty = maps.per_latent.flatten(2).sum(2) == 0
    assert found.empty_maps == pytest.approx(float(empty.float().mean()), abs=1e-6)
    assert found.empty_maps_of_active == pytest.approx(float(empty[:, [0, 2]].float().mean()), abs=1e-6)
    # Pairs of which neither map is empty, one by one.
    values = [
        float(attention_disentanglement(maps.per_latent[b : b + 1, [i, j]], "all"))
        for b in range(0, len(empty), 16)
        for i in range(4)
        for j in range(i)
        if not (empty[b, i] or empty[b, j])
    ]
    assert found.attention_overlap_of_drawn == pytest.approx(sum(values) / len(values), abs=0.05)


def test_the_report_and_the_json_have_the_figures(result: Disentanglement, run: Run) -> None:
    report = write_disentanglement(run, result)
    page = report.read_text()
    assert "is there one latent for each factor?" in page
    assert f"{result.parts.total_correlation:.1f} ± {result.parts.total_correlation_error:.1f} of total correlation" in page
    assert f"{result.scores['factor_vae_score'].mean:.3f}" in page
    kept = json.loads((report.parent / "evaluation.json").read_text())
    assert kept["disentanglement"]["mig"] == result.scores["mig"].mean
    assert kept["spread"]["mig"] is None
    assert len(kept["values"]["dci_completeness"]) == 2
    assert kept["latents"] == 4
    assert kept["images"] == 432


def test_metrics_can_be_chosen(run: Run) -> None:
    assert list(evaluate_disentanglement(run, ["mig"]).scores) == ["mig"]


def test_what_is_asked_amiss_is_told_before_the_images_are_encoded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelens.scoring.disentanglement.encode_all", lambda *_: pytest.fail("the images were encoded"))
    with pytest.raises(UsageError, match="unknown metric 'mug'; there are: factor_vae_score"):
        evaluate_disentanglement(run, ["mig", "mug"])
    with pytest.raises(UsageError, match="repeats"):
        evaluate_disentanglement(run, repeats=0)


def test_a_run_without_known_factors_is_refused(tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="digits has no known factors; this takes a run of dsprites"):
        evaluate_disentanglement(load_run(tiny_run))


def test_a_run_of_one_latent_is_refused_before_all_images_are_encoded(
    few_sprites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run(tmp_path / "one", "dsprites", objective="vae", steps=2, batch_size=8, latent_dim=1, progress=False)
    monkeypatch.setattr(disentanglement, "encode_all", lambda *_: pytest.fail("encoded"))
    for metrics in (None, ["modularity"]):
        with pytest.raises(UsageError, match="one has one latent, and this compares several: train with --latents 2"):
            evaluate_disentanglement(run, metrics)
