"""Autoencoders train without a posterior, with all else that training keeps: rows, guards, exact resumption."""

from __future__ import annotations

import csv
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vaelens.errors import TrainingError, UsageError
from vaelens.models import ConvVAE, build
from vaelens.objectives.ssim import ssim_error
from vaelens.training import TrainSettings
from vaelens.training.autoencoder import AutoencoderModule
from vaelens.training.fit import FitResult, fit

OBJECTIVES = ("ae", "ae-ssim")


def network(seed: int = 1) -> ConvVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build("ae", 6, (1, 32, 32))


def digits(small: ModuleType, first: int, last: int) -> Any:
    """Real digits at 32x32."""
    found = small.digits(first, last)
    return small.Digits(found.images.repeat_interleave(2, 2).repeat_interleave(2, 3), found.names)


def train(small: ModuleType, out: Path, objective: str, model: ConvVAE | None = None, **changes: Any) -> Any:
    resume = changes.pop("resume", False)
    values = {"epochs": 3, "batch_size": 12, "learning_rate": 2e-3, "weight_decay": 1e-5, "precision": "32", **changes}
    model = model or network()
    module = partial(AutoencoderModule, objective=objective)
    data = digits(small, 0, 40), digits(small, 40, 50)
    return model, fit(model, *data, TrainSettings(**values), out, resume=resume, progress=False, module=module)


def losses(result: FitResult) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def error(objective: str, model: ConvVAE, images: Tensor) -> float:
    with torch.no_grad():
        found = model(images)[0]
    return float(ssim_error(found, images).mean() if objective == "ae-ssim" else (found - images).square().sum() / len(images))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_falls_and_is_the_error_of_the_reconstruction(small: ModuleType, tmp_path: Path, objective: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no posterior that could collapse
        model, result = train(small, tmp_path, objective, epochs=12)
    held_out = digits(small, 40, 50).images / 255.0
    assert result.last_loss == pytest.approx(error(objective, model, held_out), rel=1e-4)
    assert result.last_loss < 0.7 * result.history[0]["train/loss"]
    assert result.mean_kl == ()
    assert set(result.history[0]) == {
        "epoch", "train/loss", "train/reconstruction", "val/loss", "val/reconstruction", "seconds"
    }  # fmt: skip
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        assert [row["train/loss"] for row in csv.DictReader(file)] == [str(row["train/loss"]) for row in result.history]


class Killed(BaseException):
    """Stands for a kill."""


def kill(*_: Any) -> None:
    raise Killed


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_killed_run_resumes_exactly(small: ModuleType, tmp_path: Path, objective: str) -> None:
    whole, expected = train(small, tmp_path / "whole", objective)
    broken = network()
    small.at_forward(broken, 2 * 5 + 2, kill)  # in the third epoch: each has four training batches and one held out
    with pytest.raises(Killed):
        train(small, tmp_path / "broken", objective, broken)
    resumed, result = train(small, tmp_path / "broken", objective, network(seed=9), resume=True)
    assert losses(result) == losses(expected)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_weight_decay_reaches_adam(small: ModuleType) -> None:
    data = digits(small, 0, 4)
    for decay in (0.0, 0.25):
        module = AutoencoderModule(network(), TrainSettings(weight_decay=decay), data, None)
        assert {group["weight_decay"] for group in module.configure_optimizers().param_groups} == {decay}
    assert TrainSettings.for_network("ae").weight_decay == 1e-5
    with pytest.raises(UsageError, match="weight_decay must be a number from 0 on"):
        TrainSettings(weight_decay=-1)


def test_a_loss_that_is_no_number_is_named(small: ModuleType, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch 1, batch 1 \(digit-"):
        train(small, tmp_path, "ae", model)


def test_an_unknown_objective_is_refused(small: ModuleType) -> None:
    with pytest.raises(UsageError, match="unknown objective 'ae-l1'; there are: ae, ae-ssim"):
        AutoencoderModule(network(), TrainSettings(), digits(small, 0, 4), None, objective="ae-l1")
