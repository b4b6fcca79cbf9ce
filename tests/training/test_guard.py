"""The guard names the first batch whose loss or gradient is no finite number."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vaelens.errors import TrainingError
from vaelens.training.checkpoint import read_checkpoint
from vaelens.training.fit import CHECKPOINT
from vaelens.training.guard import FiniteGuard
from vaelens.training.settings import TrainSettings

NAMES = tuple(f"{i:03d}.png" for i in range(100))


def test_the_message() -> None:
    guard = FiniteGuard(NAMES, TrainSettings(learning_rate=0.5))
    guard.check(torch.tensor(1.0), "loss", 0, 0, torch.tensor([1]))
    with pytest.raises(TrainingError) as caught:
        guard.check(torch.tensor(math.nan), "loss", 2, 6, torch.tensor([7, 3, 50, 51, 52]))
    assert str(caught.value) == (
        "the loss is nan at epoch 3, batch 7 (007.png, 003.png, 050.png and 2 more): lower learning_rate (now 0.5), "
        "set precision to 32, or check those images; a checkpoint saved before it is kept"
    )


def test_precision_32_is_not_advised_twice() -> None:
    guard = FiniteGuard(NAMES, TrainSettings(precision="32"))
    with pytest.raises(TrainingError, match=r"^the loss is -inf at .*\(004.png\): (?!.*precision)"):
        guard.check(torch.tensor(-math.inf), "loss", 0, 0, torch.tensor([4]))


def test_images_without_names_are_numbered() -> None:
    with pytest.raises(TrainingError, match=r"\(image 4\)"):
        FiniteGuard((), TrainSettings()).check(torch.tensor(math.inf), "loss", 0, 0, torch.tensor([4]))


@given(st.integers(1, 8), st.integers(0, 20), st.integers(0, 20))
def test_looking_late_still_names_the_first(every: int, bad: int, also_bad: int) -> None:
    guard = FiniteGuard(NAMES, TrainSettings(), every)

    def train() -> None:
        for batch in range(21):
            value = torch.tensor(math.nan if batch in (bad, also_bad) else 1.0)
            guard.check(value, "loss", 0, batch, torch.tensor([batch]))
        guard.flush()

    first = min(bad, also_bad)
    with pytest.raises(TrainingError, match=rf"batch {first + 1} \({first:03d}.png\)"):
        train()


def test_finite_numbers_pass() -> None:
    guard = FiniteGuard(NAMES, TrainSettings(), every=3)
    for batch in range(10):
        guard.check(torch.tensor(3e38), "loss", 0, batch, torch.tensor([0]))
    guard.flush()
    guard.flush()


def spoil(value: float) -> Any:
    return lambda images: images * value


def test_a_loss_that_is_no_number_stops_training(small: ModuleType, tmp_path: Path) -> None:
    network = small.model()
    small.at_forward(network, 7 + 3, spoil(math.nan))  # epoch 2, batch 4
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch 2, batch 4 \(digit-0\d\d, .* and 6 more\)"):
        small.train(tmp_path, network)
    assert read_checkpoint(tmp_path / CHECKPOINT)[1].epochs_done == 1
    assert all(weight.isfinite().all() for weight in network.state_dict().values())
    # The images are those of that batch, in the order that seed and epoch give.
    from vaelens.training.batches import Batches

    batch = Batches(small.digits(0, 40).images, 9, seed=0).order(1)[27:36]
    network = small.model()
    small.at_forward(network, 3, spoil(math.nan))
    with pytest.raises(TrainingError, match=f"digit-{batch[0]:03d}, digit-{batch[1]:03d}, digit-{batch[2]:03d} and"):
        small.train(tmp_path, network, resume=True)


def test_a_held_out_loss_that_is_no_number(small: ModuleType, tmp_path: Path) -> None:
    network = small.model()
    small.at_forward(network, 6, spoil(math.nan))
    with pytest.raises(TrainingError, match=r"the held-out loss is nan at epoch 1, batch 2 \(digit-049\)"):
        small.train(tmp_path, network)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_gradient_that_is_no_number_does_not_reach_the_weights(small: ModuleType, tmp_path: Path) -> None:
    class BadGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * math.inf

    network = small.model()
    heads = network.mean.register_forward_hook(lambda _, __, output: BadGradient.apply(output))
    with pytest.raises(TrainingError, match=r"the gradient norm is (nan|inf) at epoch 1, batch 1 \("):
        small.train(tmp_path, network)
    heads.remove()
    assert all(weight.isfinite().all() for weight in network.state_dict().values())


def test_a_learning_rate_far_too_high(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lower learning_rate \(now 1e\+06\)"):
        small.train(tmp_path, learning_rate=1e6)
