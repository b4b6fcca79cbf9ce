"""Adversarial training: its steps are those of a plain loop, and a killed run resumes exactly, both optimisers with it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vaelens.errors import TrainingError, UsageError
from vaelens.models import DCGAN, build
from vaelens.training import TrainSettings
from vaelens.training.batches import Batches, seeded
from vaelens.training.fit import FitResult, fit
from vaelens.training.gan import GANModule

EPOCHS, BATCHES = 2, 3


def network(seed: int = 1) -> DCGAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build("dcgan", 5, (1, 32, 32))
    assert isinstance(model, DCGAN)
    return model


def digits(small: ModuleType) -> Any:
    """Twenty real digits at 32x32: three batches, the last of which is smaller."""
    found = small.digits(0, 20)
    return small.Digits(found.images.repeat_interleave(2, 2).repeat_interleave(2, 3), found.names)


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(
        **{"epochs": EPOCHS, "batch_size": 8, "learning_rate": 2e-4, "precision": "32", "warmup_epochs": 0, **changes}
    )


def train(small: ModuleType, out: Path, model: DCGAN | None = None, resume: bool = False, **changes: Any) -> Any:
    model = model or network()
    data = digits(small)
    return model, fit(model, data, data, settings(**changes), out, resume=resume, progress=False, module=GANModule)


def losses(result: FitResult) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


@pytest.fixture(scope="module")
def whole(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[DCGAN, FitResult]:
    """The uninterrupted run."""
    return train(small, tmp_path_factory.mktemp("whole"))  # type: ignore[no-any-return]


def entropy(logits: Tensor, label: int) -> Tensor:
    """Binary cross entropy. Written so that it rounds as the module's does: Adam makes whole steps of what rounding leaves."""
    found = functional.softplus(-logits if label else logits).mean()
    expected = functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
    assert torch.isclose(found, expected, rtol=1e-4)
    return found


def test_the_steps_are_those_of_a_plain_loop(small: ModuleType, whole: tuple[DCGAN, FitResult]) -> None:
    model = network()
    judging = [*model.features.parameters(), *model.judge.parameters()]
    both = (list(model.decoder.parameters()), judging)
    one, other = (torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True) for parameters in both)
    batches = Batches(digits(small).images, 8, seed=0)
    step, sums = 0, []
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        for batch in batches:
            count = len(batch.images)
            made = model.decode(model.noise(count, seeded(0, "noise", step)))
            other.zero_grad()
            real, wrong = model.discriminate(batch.images)[0], model.discriminate(made.detach())[0]
            against = entropy(real, 1) + entropy(wrong, 0)
            against.backward()
            other.step()
            one.zero_grad()
            towards = entropy(model.discriminate(made)[0], 1)
            towards.backward()
            one.step()
            sums.append((epoch, count, towards.item(), against.item()))
            step += 1
    found, result = whole
    for name, weight in model.state_dict().items():
        assert torch.allclose(found.state_dict()[name], weight, atol=1e-7), name
    for epoch, row in enumerate(result.history):
        for place, name in ((2, "train/generator"), (3, "train/discriminator")):
            mean = sum(each[1] * each[place] for each in sums if each[0] == epoch) / 20
            assert row[name] == pytest.approx(mean, rel=1e-4)
        assert row["train/loss"] == pytest.approx(row["train/generator"] + row["train/discriminator"])


def test_what_a_run_leaves(small: ModuleType, whole: tuple[DCGAN, FitResult]) -> None:
    model, result = whole
    assert set(result.history[0]) == {"epoch", "train/loss", "train/generator", "train/discriminator", "seconds"}
    assert result.history[1]["train/discriminator"] < result.history[0]["train/discriminator"]
    assert result.mean_kl == ()
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


class Killed(BaseException):
    """Stands for a kill."""


def test_a_killed_run_resumes_exactly(small: ModuleType, whole: tuple[DCGAN, FitResult], tmp_path: Path) -> None:
    broken, calls = network(), 0

    def hook(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == BATCHES + 2:
            raise Killed

    broken.decoder.register_forward_pre_hook(hook)
    with pytest.raises(Killed):
        train(small, tmp_path, broken)
    resumed, result = train(small, tmp_path, network(seed=9), resume=True)
    assert losses(result) == losses(whole[1])
    pairs = zip(whole[0].state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("part", ["features", "decoder"])
def test_a_loss_that_is_no_number_is_named(small: ModuleType, tmp_path: Path, part: str) -> None:
    model = network()
    with torch.no_grad():
        next(getattr(model, part).parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the discriminator loss is nan at epoch 1, batch 1 \(digit-"):
        train(small, tmp_path, model)


def test_gradients_of_both_are_looked_at(small: ModuleType, tmp_path: Path) -> None:
    model = network()
    # The output's bias alone gets no number for a gradient: the loss stays one.
    model.decoder[-1].bias.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingError, match="the gradient norm is nan at epoch 1, batch 1"):
        train(small, tmp_path, model)


def test_misuse_is_refused(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="adversarial training has none: leave patience out"):
        train(small, tmp_path, patience=2)
    with pytest.raises(UsageError, match="takes network 'dcgan', got DspritesVAE"):
        GANModule(small.model(), settings(), digits(small), None)
