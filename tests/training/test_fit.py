"""Training on real digits: what it learns, what it records and what it leaves behind."""

from __future__ import annotations

import csv
import gzip
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.models import build
from vaelens.objectives import elbo, kl_per_latent, reparameterize
from vaelens.training.batches import seeded
from vaelens.training.fit import CHECKPOINT, FitResult, fit
from vaelens.training.settings import TrainSettings

FIELDS = "epoch,train/loss,train/reconstruction,train/kl,val/loss,val/reconstruction,val/kl,active_latents,kl_weight,seconds"


@pytest.fixture(scope="module")
def done(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, FitResult, Path]:
    out = tmp_path_factory.mktemp("run")
    return *small.train(out, epochs=3, warmup_epochs=2, kl_weight=0.5, logger="both"), out


def test_the_loss_falls(done: tuple[nn.Module, FitResult, Path]) -> None:
    history = done[1].history
    assert history[-1]["train/loss"] < 0.9 * history[0]["train/loss"]
    assert history[-1]["val/loss"] < 0.9 * history[0]["val/loss"]
    assert any(done[1].active)


def test_the_result(done: tuple[nn.Module, FitResult, Path]) -> None:
    result, out = done[1:]
    assert result.epochs == 3
    assert result.checkpoint == out / CHECKPOINT
    assert (result.interrupted, result.stopped_early) == (False, False)
    losses = [row["val/loss"] for row in result.history]
    assert (result.last_loss, result.best_loss) == (losses[-1], min(losses))
    assert losses[result.best_epoch - 1] == result.best_loss
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in result.history))
    assert len(result.mean_kl) == 4
    assert sum(result.active) == result.history[-1]["active_latents"]
    assert sum(result.mean_kl) == pytest.approx(result.history[-1]["val/kl"])


def test_the_figures_agree_with_the_model(small: ModuleType, done: tuple[nn.Module, FitResult, Path]) -> None:
    """The last epoch's held-out figures, worked out from the final weights, batch by batch."""
    model, result, _ = done
    images = small.digits(40, 50).images.float() / 255
    totals = torch.zeros(2)
    kl = torch.zeros(4)
    with torch.no_grad():
        for number, batch in enumerate(images.split(9)):
            mean, logvar = model.encode(batch)
            logits = model.decode_logits(reparameterize(mean, logvar, seeded(0, "held-out", number)))
            terms = elbo(logits, batch, mean, logvar, kl_weight=0.5)
            totals += torch.stack([terms.loss * len(batch), terms.reconstruction.sum()])
            kl += kl_per_latent(mean, logvar).sum(0)
    row = result.history[-1]
    assert row["val/loss"] == pytest.approx(float(totals[0]) / 10, rel=1e-5)
    assert row["val/reconstruction"] == pytest.approx(float(totals[1]) / 10, rel=1e-5)
    torch.testing.assert_close(torch.tensor(result.mean_kl), kl / 10, rtol=1e-4, atol=1e-6)
    assert row["val/loss"] == pytest.approx(row["val/reconstruction"] + 0.5 * row["val/kl"], rel=1e-6)


def test_the_kl_weight_rises_and_stays(done: tuple[nn.Module, FitResult, Path]) -> None:
    # 5 batches per epoch, warm-up of 10 steps: the last steps of the epochs are 4, 9 and 14.
    assert [row["kl_weight"] for row in done[1].history] == pytest.approx([0.5 * 0.4, 0.5 * 0.9, 0.5])


@pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")
def test_the_kl_weight_falls_where_it_starts_above(small: ModuleType, tmp_path: Path) -> None:
    """From 4 to 1 over two epochs of five batches, by the same factor a step: halved once an epoch."""
    result = small.train(tmp_path, epochs=3, warmup_epochs=2, kl_start=4.0)[1]
    assert [row["kl_weight"] for row in result.history] == pytest.approx([4 * 0.25**0.4, 4 * 0.25**0.9, 1.0])
    for row in result.history[:2]:
        assert row["kl_weight"] * row["train/kl"] < row["train/loss"] - row["train/reconstruction"] < 4 * row["train/kl"]
    last = result.history[-1]
    assert last["train/loss"] == pytest.approx(last["train/reconstruction"] + last["train/kl"], rel=1e-6)


@pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")
def test_to_nothing_it_falls_in_a_line(small: ModuleType, tmp_path: Path) -> None:
    result = small.train(tmp_path, epochs=2, warmup_epochs=2, kl_start=4.0, kl_weight=0.0)[1]
    assert [row["kl_weight"] for row in result.history] == pytest.approx([4 - 4 * 0.4, 4 - 4 * 0.9])


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step of Adam."""
    seen, step = list[float](), torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *args: Any, **options: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    return seen


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"rate_warmup_epochs": 1.2}, [0.001, 0.002, 0.003, 0.004, 0.005, *[0.006] * 5]),
        ({"rate_cooldown_epochs": 0.6}, [*[0.006] * 8, 0.004, 0.002]),
        (
            {"rate_warmup_epochs": 1.2, "rate_cooldown_epochs": 1.2},
            [0.001, 0.002, 0.003, 0.004, 0.005, 0.005, 0.004, 0.003, 0.002, 0.001],
        ),
    ],
)
def test_the_learning_rate_rises_in_a_line_stays_and_falls(
    small: ModuleType, tmp_path: Path, rates: list[float], over: dict[str, float], expected: list[float]
) -> None:
    """Over so many of ten steps, which are two epochs."""
    small.train(tmp_path, epochs=2, learning_rate=0.006, **over)
    assert rates == pytest.approx(expected)


def test_of_a_run_that_is_raised_in_length_the_rate_falls_at_the_new_end(
    small: ModuleType, tmp_path: Path, rates: list[float]
) -> None:
    small.train(tmp_path, epochs=1, learning_rate=0.006, rate_cooldown_epochs=0.6, warmup_epochs=1)
    small.train(tmp_path, epochs=2, learning_rate=0.006, rate_cooldown_epochs=0.6, warmup_epochs=1, resume=True)
    assert rates == pytest.approx([0.006, 0.006, 0.006, 0.004, 0.002] * 2)


def test_the_csv_has_one_row_per_epoch(done: tuple[nn.Module, FitResult, Path]) -> None:
    text = (done[2] / "logs" / "metrics.csv").read_text()
    assert text.splitlines()[0] == FIELDS
    rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]
    assert rows == list(done[1].history)


def test_the_model_is_left_ready_to_use(done: tuple[nn.Module, FitResult, Path]) -> None:
    model = done[0]
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_a_run_is_repeatable_and_leaves_the_process_as_it_was(
    small: ModuleType, done: tuple[nn.Module, FitResult, Path], tmp_path: Path
) -> None:
    torch.manual_seed(777)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        model, result = small.train(tmp_path, epochs=3, warmup_epochs=2, kl_weight=0.5)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, done[0].state_dict()[name])
    assert result.mean_kl == done[1].mean_kl
    other = small.train(tmp_path / "other", epochs=1, seed=1)[1]
    assert other.history[0]["train/loss"] != result.history[0]["train/loss"]


def test_without_held_out_images(small: ModuleType, tmp_path: Path) -> None:
    result = fit(small.model(), small.digits(0, 40), None, small.settings(epochs=2), tmp_path, progress=False)
    assert not [name for name in result.history[0] if name.startswith("val/")]
    assert result.last_loss == result.history[-1]["train/loss"]
    assert sum(result.mean_kl) == pytest.approx(result.history[-1]["train/kl"])


@pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")
def test_gaussian_likelihood(small: ModuleType, tmp_path: Path) -> None:
    result = small.train(tmp_path, epochs=2, likelihood="gaussian", warmup_epochs=0)[1]
    # Half the summed squared error of 256 pixels that differ by less than one.
    assert 0 < result.history[-1]["train/reconstruction"] < 128
    assert result.history[1]["train/reconstruction"] < result.history[0]["train/reconstruction"]


class Fixed(nn.Module):
    """Learns nothing that the held-out images show: its loss there stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(images), 2)
        return zeros + self.unused * 0, zeros

    def decode_logits(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), 1, 16, 16) + self.unused * 0


@pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")
@pytest.mark.parametrize(("warmup", "epochs"), [(0, 3), (4, 6)])
def test_patience_stops_after_the_warmup(small: ModuleType, tmp_path: Path, warmup: int, epochs: int) -> None:
    """Without a warm-up the first epoch sets the best loss and two more exhaust the patience; else the fourth sets it."""
    settings = {"epochs": 20, "patience": 2, "warmup_epochs": warmup}
    result = small.train(tmp_path, Fixed(), **settings)[1]
    assert result.epochs == epochs
    assert result.stopped_early
    assert result.last_loss == pytest.approx(256 * math.log(2), rel=1e-5)
    again = small.train(tmp_path, Fixed(), **settings, resume=True)[1]
    assert (again.epochs, again.stopped_early) == (epochs, True)


def test_patience_without_held_out_images(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no held-out images"):
        fit(small.model(), small.digits(0, 40), None, small.settings(patience=2), tmp_path)


def test_images_that_do_not_fit_the_model(small: ModuleType, tmp_path: Path) -> None:
    model = build("dsprites", latent_dim=2, input_shape=(1, 32, 32))
    message = r"takes images \(C, H, W\) of \(1, 32, 32\), these are \(1, 16, 16\)"
    with pytest.raises(UsageError, match=message):
        fit(model, small.digits(0, 40), None, small.settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_frozen_model(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no parameter to train"):
        small.train(tmp_path, small.model().requires_grad_(False))


def test_frozen_parts_stay(small: ModuleType, tmp_path: Path) -> None:
    model = small.model()
    model.decoder.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    small.train(tmp_path, model, epochs=1)
    changed = {name.split(".")[0] for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"encoder", "mean", "logvar"}


def tensorboard(out: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows: the figures by name and step, less those that a later file takes back."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the module that defines the framing)

    found: dict[tuple[str, int], float] = {}
    for file in sorted((out / "logs" / "tensorboard").glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:  # length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
            data = data[16 + length :]
    return found


@pytest.mark.parametrize("every", [1, 5])
def test_tensorboard_has_every_epoch_once_after_resuming(small: ModuleType, tmp_path: Path, every: int) -> None:
    """Also at once, within the second that names its files, and after a stop before the first checkpoint."""

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    network = small.model()
    small.at_forward(network, 15, kill)
    with pytest.raises(Killed):
        small.train(tmp_path, network, epochs=5, logger="both", checkpoint_every=every)
    for epochs in (5, 6):
        result = small.train(tmp_path, epochs=epochs, logger="both", checkpoint_every=every, resume=True)[1]
    found = tensorboard(tmp_path)
    assert sorted(step for name, step in found if name == "train/loss") == [1, 2, 3, 4, 5, 6]
    for row in result.history:
        assert found["train/loss", int(row["epoch"])] == pytest.approx(row["train/loss"], rel=1e-6)


def test_what_belongs_to_the_process_is_as_before(small: ModuleType, tmp_path: Path) -> None:
    code = (
        "import sys, warnings, torch; sys.path.insert(0, sys.argv[1]); import small_run; from pathlib import Path\n"
        "small_run.digits(0, 2)\n"
        "torch.backends.cudnn.benchmark = True\n"
        "before = warnings.formatwarning, list(warnings.filters)\n"
        "small_run.train(Path(sys.argv[2]), epochs=1)\n"
        "assert (warnings.formatwarning, list(warnings.filters)) == before\n"
        "assert torch.backends.cudnn.benchmark"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensorboard_gets_the_same_figures(done: tuple[nn.Module, FitResult, Path]) -> None:
    found = tensorboard(done[2])
    for row in done[1].history:
        for name, value in row.items():
            if name != "epoch":
                assert found[name, int(row["epoch"])] == pytest.approx(value, rel=1e-6)
    assert len(found) == 3 * 9


def test_real_mnist(real_data: Path, tmp_path: Path) -> None:
    """Three epochs over 160 real ones: the loss falls, latents are active, the ones look like ones."""
    with gzip.open(real_data / "mnist" / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + 2000 * 784)[16:], np.uint8).reshape(-1, 1, 28, 28)
    with gzip.open(real_data / "mnist" / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + 2000)[8:], np.uint8)
    ones = torch.from_numpy(pixels[labels == 1].copy())

    class Ones:
        def __init__(self, images: Tensor) -> None:
            self.images = images
            self.names = tuple(map(str, range(len(images))))

    torch.manual_seed(0)
    model = build("mnist", latent_dim=8)
    settings = TrainSettings.for_network("mnist", epochs=3, batch_size=32, precision="32", checkpoint_every=3)
    result = fit(model, Ones(ones[:160]), Ones(ones[160:200]), settings, tmp_path, progress=False)
    assert result.last_loss < 0.8 * result.history[0]["train/loss"]
    assert sum(result.active) >= 4
    with torch.no_grad():
        images = ones[160:200].float() / 255
        rebuilt = model(images)[0]
    constant = (images - images.mean(0)).square().mean()
    assert (images - rebuilt).square().mean() < 0.8 * constant
