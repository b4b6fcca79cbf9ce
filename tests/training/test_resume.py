"""A run that was killed and resumed equals one that was not, to the last bit."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.training import callbacks, checkpoint
from vaelens.training.fit import CHECKPOINT, FitResult

EPOCHS = 3
FORWARDS = 7  # per epoch: 5 training batches, 2 held-out batches


class Killed(BaseException):
    """Stands for a kill: nothing catches it and nothing cleans up."""


def rows(out: Path) -> list[dict[str, str]]:
    """The CSV without the column that no two runs share."""
    with (out / "logs" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def losses(result: FitResult) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def whole(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, FitResult, Path]:
    """The uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    return *small.train(out, epochs=EPOCHS), out


def check_equal(whole: tuple[nn.Module, FitResult, Path], network: nn.Module, result: FitResult, out: Path) -> None:
    assert_same_weights(network, whole[0])
    assert losses(result) == losses(whole[1])
    assert result.mean_kl == whole[1].mean_kl
    assert rows(out) == rows(whole[2])
    assert [row["epoch"] for row in rows(out)] == [str(i + 1) for i in range(EPOCHS)]


def test_a_killed_process_resumes_exactly(small: ModuleType, whole: tuple[nn.Module, FitResult, Path], tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("small_run.py")), str(tmp_path), str(EPOCHS)]
    killed = subprocess.run(
        [*program, str(int(signal.SIGKILL)), str(2 * FORWARDS + 3)], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(rows(tmp_path)) == 2
    # Other first weights: those of the checkpoint must replace them.
    network, result = small.train(tmp_path, small.model(seed=99), epochs=EPOCHS, resume=True)
    check_equal(whole, network, result, tmp_path)


def raise_killed(*_: Any, **__: Any) -> None:
    raise Killed


def half_written(content: Any, file: Any) -> None:
    file.write(b"PK\x03\x04 the beginning of a checkpoint")
    file.flush()
    raise Killed


@pytest.mark.parametrize(
    ("moment", "patch", "epochs_kept"),
    [
        ("in the first epoch", lambda _: None, 0),
        ("before a checkpoint", lambda m: m.setattr(callbacks, "write_checkpoint", raise_killed), 0),
        ("in the middle of a checkpoint", lambda m: m.setattr(checkpoint.torch, "save", half_written), 0),
        ("before the checkpoint is in place", lambda m: m.setattr(checkpoint.Path, "replace", raise_killed), 0),
        ("after the checkpoint", lambda m: m.setattr(callbacks.TrainingProgress, "epoch_done", raise_killed), 1),
    ],
)
def test_any_moment_resumes_exactly(
    small: ModuleType,
    whole: tuple[nn.Module, FitResult, Path],
    tmp_path: Path,
    moment: str,
    patch: Callable[[pytest.MonkeyPatch], None],
    epochs_kept: int,
) -> None:
    network = small.model()
    if moment == "in the first epoch":
        small.at_forward(network, 3, raise_killed)
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        with pytest.raises(Killed):
            small.train(tmp_path, network, epochs=EPOCHS)
    assert (tmp_path / CHECKPOINT).exists() == bool(epochs_kept)
    resumed, result = small.train(tmp_path, epochs=EPOCHS, resume=True)
    check_equal(whole, resumed, result, tmp_path)
    assert list(tmp_path.rglob("*.partial")) == []


def test_killed_again_and_again(small: ModuleType, whole: tuple[nn.Module, FitResult, Path], tmp_path: Path) -> None:
    for done in range(EPOCHS):
        network = small.model()
        small.at_forward(network, FORWARDS + done, raise_killed)
        if done < EPOCHS - 1:
            with pytest.raises(Killed):
                small.train(tmp_path, network, epochs=EPOCHS, resume=True)
        else:
            network, result = small.train(tmp_path, network, epochs=EPOCHS, resume=True)
    check_equal(whole, network, result, tmp_path)


def test_checkpoints_every_few_epochs(small: ModuleType, whole: tuple[nn.Module, FitResult, Path], tmp_path: Path) -> None:
    small.train(tmp_path, epochs=1)
    network = small.model()
    small.at_forward(network, FORWARDS, raise_killed)
    with pytest.raises(Killed):
        small.train(tmp_path, network, epochs=EPOCHS, checkpoint_every=3, resume=True)
    assert len(rows(tmp_path)) == 2  # one more than the checkpoint has: it must not stand twice
    assert checkpoint.read_checkpoint(tmp_path / CHECKPOINT)[1].epochs_done == 1
    network, result = small.train(tmp_path, epochs=EPOCHS, checkpoint_every=3, resume=True)
    check_equal(whole, network, result, tmp_path)


def test_epochs_may_be_raised(small: ModuleType, whole: tuple[nn.Module, FitResult, Path], tmp_path: Path) -> None:
    small.train(tmp_path, epochs=2)
    network, result = small.train(tmp_path, epochs=EPOCHS, resume=True)
    check_equal(whole, network, result, tmp_path)


def test_a_finished_run_resumes_to_itself(
    small: ModuleType, whole: tuple[nn.Module, FitResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small.model(seed=99)
    small.at_forward(network, 0, raise_killed)  # no image may pass
    network, result = small.train(whole[2], network, epochs=EPOCHS, resume=True)
    check_equal(whole, network, result, whole[2])
    assert not network.training


class Noisy(nn.Module):
    """Dropout and batch norm: random numbers and running averages that belong to neither weights nor optimiser."""

    input_shape = (1, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.4))
        self.heads = nn.Linear(32, 6)
        self.decoder = nn.Sequential(nn.Linear(3, 256), nn.Dropout(0.1), nn.Unflatten(1, (1, 16, 16)))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.heads(self.encoder(images)).chunk(2, 1)
        return mean, logvar

    def decode_logits(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits


@pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")
def test_layers_with_random_numbers_and_buffers_resume_exactly(small: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = Noisy().state_dict()

    def network() -> Noisy:
        made = Noisy()
        made.load_state_dict(first)
        return made

    whole = *small.train(tmp_path / "whole", network(), epochs=EPOCHS), tmp_path / "whole"
    assert whole[0].encoder[2].num_batches_tracked == 5 * EPOCHS
    broken = network()
    small.at_forward(broken, 2 * FORWARDS + 1, raise_killed)
    with pytest.raises(Killed):
        small.train(tmp_path / "resumed", broken, epochs=EPOCHS)
    torch.manual_seed(1234)
    resumed, result = small.train(tmp_path / "resumed", network(), epochs=EPOCHS, resume=True)
    check_equal(whole, resumed, result, tmp_path / "resumed")


@pytest.fixture(scope="module")
def started(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of four, with patience."""
    out = tmp_path_factory.mktemp("started")
    network = small.model()
    small.at_forward(network, 2 * FORWARDS, raise_killed)
    with pytest.raises(Killed):
        small.train(out, network, epochs=EPOCHS, patience=3)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 2e-3}, r"learning_rate is 0\.002, but the run in .*last\.ckpt was started with 0\.001"),
        ({"batch_size": 8}, r"batch_size is 8, but .* with 9"),
        ({"seed": 7}, r"seed is 7"),
        ({"kl_weight": 4.0}, r"kl_weight is 4\.0"),
        ({"warmup_epochs": 2}, r"warmup_epochs is 2"),
        ({"patience": None}, r"patience is None"),
        ({"likelihood": "gaussian"}, r"likelihood is 'gaussian', but .* 'bernoulli'"),
        ({"epochs": 1}, r"epochs is 1, but .* has 2 epochs behind it"),
    ],
)
def test_other_settings_are_refused(small: ModuleType, started: Path, change: dict[str, Any], message: str) -> None:
    before = (started / CHECKPOINT).read_bytes()
    with pytest.raises(UsageError, match=message) as caught:
        small.train(started, resume=True, **{"epochs": EPOCHS, "patience": 3, **change})
    assert "\n" not in str(caught.value)
    assert (started / CHECKPOINT).read_bytes() == before


def test_another_network_or_other_images_are_refused(small: ModuleType, started: Path) -> None:
    same = {"epochs": EPOCHS, "patience": 3, "resume": True}
    with pytest.raises(UsageError, match=r"not the one in .*model\.\S+ is .* here and .* there; .*same latent_dim"):
        small.train(started, small.model(latent_dim=5), **same)
    settings = small.settings(epochs=EPOCHS, patience=3)
    with pytest.raises(UsageError, match=r"training images \(39x1x16x16-.*40x1x16x16-"):
        small.fit(small.model(), small.digits(0, 39), small.digits(40, 50), settings, started, resume=True)
    with pytest.raises(UsageError, match=r"held-out images"):
        small.fit(small.model(), small.digits(0, 40), small.digits(41, 51), settings, started, resume=True)


def test_an_old_run_is_not_overwritten(small: ModuleType, started: Path) -> None:
    before = (started / CHECKPOINT).read_bytes()
    with pytest.raises(UsageError, match=r"last\.ckpt exists: resume"):
        small.train(started, epochs=EPOCHS)
    assert (started / CHECKPOINT).read_bytes() == before
