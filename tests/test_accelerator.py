"""Runs whose network is on another device give what they give on the processor; with a GPU where there is one."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelens import load_run
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.localizers.placed import Placed
from vaelens.training.device import pick_device

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA on this machine")
DEVICES = [pytest.param("cpu:0", id="cpu"), pytest.param("cuda", marks=needs_cuda, id="cuda")]  # cpu:0 is another than cpu
LOCALIZERS = [
    *("attention", "attention:layer=encoder.0", "attention:score=mean-sum", "deviation", "kl", "reconstruction"),
    *("matching", "matching:neighbours=5", "feature-dictionary", "learned"),
    *("floor-mean", "floor-neighbours", "floor-contrast"),
]


@pytest.fixture
def images(folder_run: Path) -> torch.Tensor:
    return to_float(load_run(folder_run).held_out_images[:8])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", LOCALIZERS)
def test_localizers_agree(spec: str, device: str, folder_copy: Path, images: torch.Tensor) -> None:
    here, there = load_run(folder_copy), load_run(folder_copy, device)
    if spec.endswith("encoder.0"):
        spec = spec.replace("encoder.0", next(iter(here.attention.layers)))
    assert isinstance(there.localizer(spec), Placed)
    expected, found = here.localize(images, spec), there.localize(images, spec)
    assert found.maps.device.type == found.score.device.type == "cpu"
    # Matrix products on a GPU round to ten bits unless told otherwise, and the unit of a map of so few images with them.
    close = {"atol": 3e-2, "rtol": 3e-2} if device == "cuda" else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(found.maps / found.maps.mean(), expected.maps / expected.maps.mean(), **close)
    torch.testing.assert_close(found.score / found.score.mean(), expected.score / expected.score.mean(), **close)
    assert there.localizer(spec).explains == here.localizer(spec).explains
    assert copy.copy(there.localizer(spec)).name == here.localizer(spec).name


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_run_keeps_serves_on_any_device(device: str, folder_copy: Path, images: torch.Tensor) -> None:
    (folder_copy / "localizers" / "learned.safetensors").unlink(missing_ok=True)
    fitted = load_run(folder_copy, device).localize(images, "learned")
    assert (folder_copy / "localizers" / "learned.safetensors").is_file()
    again, here = load_run(folder_copy, device).localize(images, "learned"), load_run(folder_copy).localize(images, "learned")
    torch.testing.assert_close(again.maps, fitted.maps, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(here.maps, fitted.maps, atol=2e-2 * float(fitted.maps.max()), rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_explains_and_reconstructs(device: str, folder_run: Path, images: torch.Tensor) -> None:
    run = load_run(folder_run)
    explained, made = run.explain(images), run.reconstruct(images)
    assert run.to(device) is run
    elsewhere = run.explain(images)
    assert elsewhere.maps.signed.device.type == "cpu"
    scale = float(explained.maps.signed.abs().max())
    torch.testing.assert_close(elsewhere.maps.signed, explained.maps.signed, atol=1e-2 * scale, rtol=0)
    torch.testing.assert_close(run.reconstruct(images), made, atol=1e-2, rtol=0)
    torch.testing.assert_close(run.reconstruct(images, explained.maps.mean), made, atol=1e-2, rtol=0)
    assert torch.equal(elsewhere.active, explained.active)


@needs_cuda
@pytest.mark.parametrize("objective", ["vae", "ae", "ae-ssim", "anogan"])
def test_the_commands_on_a_gpu(objective: str, defect_root: Path, tmp_path: Path) -> None:
    def vaelens(*arguments: str) -> str:
        command = [sys.executable, "-m", "vaelens", *arguments, "--accelerator", "cuda", "--json", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    out, size = tmp_path / "run", "64" if objective == "anogan" else "32"
    extra = ["--network", "compact", "--localizer", "learned:pool=64:steps=20"] if objective == "vae" else []
    size = "128" if objective in ("ae", "ae-ssim") else size
    options = ["--root", str(defect_root), "--size", size, "--held-out", "0.5", "--objective", objective, *extra]
    vaelens("train", "folder", "--out", str(out), "--epochs", "2", "--batch-size", "8", *options)
    found = json.loads(vaelens("evaluate", str(out)))["localizers"]
    assert all(0 <= one["pixel_auroc"] <= 1 for one in found.values())
    scored = json.loads(vaelens("score", str(out), str(defect_root / "test" / "spot"), "--out", str(tmp_path / "scored")))
    assert len(scored["images"]) == 4
    shutil.rmtree(out / "localizers", ignore_errors=True)
    here = json.loads(vaelens("evaluate", str(out), "--localizer", "floor-mean"))["localizers"]["floor-mean"]
    assert here["pixel_auroc"] == pytest.approx(found["floor-mean"]["pixel_auroc"], abs=1e-3)


@needs_cuda
def test_factor_vae_trains_and_is_measured_on_a_gpu(few_sprites: object, tmp_path: Path) -> None:
    """With all that its objective and recipe have: pairs of maps, two discriminators, latents turned and woken."""
    from vaelens.runs.train import train_run
    from vaelens.scoring.disentanglement import evaluate_disentanglement

    how: dict[str, Any] = {"objective": "ad-factor", "steps": 12, "batch_size": 8, "precision": "32", "progress": False}
    how |= {"kl_start": 200.0, "warmup_epochs": 0.2, "pooled_until": 0.5, "standardize_after": 0.5}
    how |= {"turn_after": 0.2, "wake_after": 0.4, "rate_warmup_epochs": 0.2, "rate_cooldown_epochs": 0.2}
    here, run = (
        train_run(tmp_path / name, "dsprites", accelerator=device, **how) for name, device in (("here", "cpu"), ("run", "cuda"))
    )
    assert run.metrics["losses"]["train/loss"] == pytest.approx(here.metrics["losses"]["train/loss"], rel=1e-2)
    # What is drawn is drawn on the CPU, so that runs differ by rounding alone.
    found, expected = (evaluate_disentanglement(one, ["mig"], repeats=1).to_dict() for one in (run, here))
    assert found["reconstruction"] == pytest.approx(expected["reconstruction"], rel=2e-2)
    assert found["kl"] == pytest.approx(expected["kl"], rel=0.1, abs=0.1)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="accelerator 'cuda' is not available"):
        pick_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == pick_device("auto") == torch.device("cpu")
