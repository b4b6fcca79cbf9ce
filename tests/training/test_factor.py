"""FactorVAE's training: its gradients are those of steps written out by hand, and a killed run resumes exactly."""

from __future__ import annotations

import copy
import csv
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.attention import LatentAttention
from vaelens.errors import TrainingError, UsageError
from vaelens.objectives import (
    Discriminator,
    attention_disentanglement,
    discriminator_loss,
    elbo,
    permute_latents,
    reparameterize,
    standardized,
)
from vaelens.training import pooled
from vaelens.training.batches import seeded
from vaelens.training.drawn import DrawnBatches
from vaelens.training.factor import FactorModule
from vaelens.training.fit import CHECKPOINT, FitResult, fit
from vaelens.training.module import VAEModule
from vaelens.training.settings import GAMMA

pytestmark = [
    pytest.mark.usefixtures("small_discriminator"),
    pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning"),
]


class Watched(FactorModule):
    """Keeps the discriminator's first weights, and all gradients as they are before each step of an optimiser."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.first = copy.deepcopy(self.discriminator)
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.stepped: list[torch.optim.Optimizer] = []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append((gradients(self.model), gradients(self.discriminator)))
        self.stepped.append(optimizer)
        super().on_before_optimizer_step(optimizer)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def one_step(drawn: ModuleType, out: Path, network: nn.Module, **changes: Any) -> Watched:
    made: list[Watched] = []

    def module(*arguments: Any) -> Watched:
        made.append(Watched(*arguments))
        return made[0]

    drawn.train(out, network, module=module, **{"epochs": 1, "steps_per_epoch": 1, **changes})
    return made[0]


def close(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= limit * float(value.abs().max()), name


def in_units_of_their_spread(codes: Tensor) -> Tensor:
    return (codes - codes.mean(0)) / (codes.var(0, correction=0) + 1e-5).sqrt()


@pytest.mark.parametrize(("ad_weight", "after"), [(None, None), (30.0, 0.6), (None, 0.4)])  # 0.4 steps: from the first on
def test_the_gradients_of_a_step_are_those_written_out_by_hand(
    drawn: ModuleType, tmp_path: Path, ad_weight: float | None, after: float | None
) -> None:
    changes = {"gamma": 100.0, "ad_weight": ad_weight, "kl_weight": 2.0, "seed": 3, "standardize_after": after}
    seen_as = in_units_of_their_spread if after == 0.4 else torch.Tensor.clone
    network = drawn.model(seed=8)
    vae = copy.deepcopy(network)
    module = one_step(drawn, tmp_path, network, **changes)
    assert len(module.seen) == 2  # the encoder's and decoder's optimiser, then the discriminator's
    batches = DrawnBatches(drawn.few(), 8, 1, seed=3)
    (batch,) = batches
    judge = module.first

    # The model: the evidence lower bound, gamma times the total correlation as a frozen discriminator has it, the overlap.
    frozen = copy.deepcopy(judge).requires_grad_(False)

    def of_model(gamma: float, weight: float) -> dict[str, Tensor]:
        vae.zero_grad(set_to_none=True)
        mean, logvar = vae.encode(batch.images)
        codes = reparameterize(mean, logvar, seeded(3, "noise", 0))
        logits = frozen(seen_as(codes))
        loss = elbo(vae.decode_logits(codes), batch.images, mean, logvar, kl_weight=2.0).loss
        loss = loss + gamma * (logits[:, 0] - logits[:, 1]).mean()
        (loss + weight * attention_disentanglement(LatentAttention(vae)(batch.images))).backward()
        return gradients(vae)

    expected = of_model(100.0, ad_weight or 0.0)
    close(module.seen[0][0], expected)
    # Each term has its part in it, so that a step without one, or with it turned round, would not do.
    for other in [(0.0, ad_weight or 0.0), *([] if ad_weight is None else [(100.0, 0.0)])]:
        part = of_model(*other)["encoder.conv1.weight"]
        assert float((expected["encoder.conv1.weight"] - part).norm()) > 0.02 * float(part.norm())
    # Of what the discriminator learns nothing has come to the model by the second step.
    close(module.seen[1][0], module.seen[0][0], 0.0)

    # The discriminator: the cross entropy alone, of codes without a way back and of a second batch's, permuted.
    with torch.no_grad():
        codes = reparameterize(*vae.encode(batch.images), seeded(3, "noise", 0))
        generator = seeded(3, "permutation", 0)
        permuted = permute_latents(reparameterize(*vae.encode(batches.another(0)), generator), generator)
    assert module.seen[0][1] == {}  # nothing of the total correlation has come to it
    judge.zero_grad(set_to_none=True)
    logits = judge(torch.cat([seen_as(codes), seen_as(permuted)]))
    functional.cross_entropy(logits, torch.tensor([0] * 8 + [1] * 8)).backward()
    close(module.seen[1][1], gradients(judge), 1e-3)


def test_the_steps_are_those_of_a_plain_loop(drawn: ModuleType, tmp_path: Path) -> None:
    """With the two Adams of FactorVAE's authors, and batches whose last is smaller."""
    network = drawn.model(seed=8)
    vae, made = copy.deepcopy(network), []

    def module(*arguments: Any) -> Watched:
        made.append(Watched(*arguments))
        return made[0]

    train = drawn.small_run.digits(0, 20)
    settings = drawn.settings(epochs=2, steps_per_epoch=None, gamma=10.0, learning_rate=1e-3)
    result = fit(network, train, None, settings, tmp_path, progress=False, module=module)
    judge, batches = made[0].first, VAEModule(vae, settings, train, None).batches
    one = torch.optim.Adam(vae.parameters(), 1e-3, betas=(0.9, 0.999))
    other = torch.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.9))
    step = 0
    for row in result.history:
        batches.set_epoch(int(row["epoch"]) - 1)
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            mean, logvar = vae.encode(batch.images)
            codes = reparameterize(mean, logvar, seeded(0, "noise", step))
            with torch.no_grad():
                generator = seeded(0, "permutation", step)
                permuted = permute_latents(reparameterize(*vae.encode(batches.another(step)), generator), generator)
            logits = judge(codes)
            correlation = (logits[:, 0] - logits[:, 1]).mean()
            loss = elbo(vae.decode_logits(codes), batch.images, mean, logvar).loss + 10 * correlation
            against = discriminator_loss(judge(codes.detach()), judge(permuted))
            one.zero_grad()
            loss.backward()
            other.zero_grad()  # of what the total correlation left there
            against.backward()
            one.step()
            other.step()
            sums += len(batch.images) * torch.stack([loss, correlation, against]).detach()
            step += 1
        for name, value in zip(("loss", "total_correlation", "discriminator"), sums / 20, strict=True):
            assert row[f"train/{name}"] == pytest.approx(float(value), rel=2e-3, abs=2e-4), name
    assert step == 6
    for name, weight in vae.state_dict().items():
        assert torch.allclose(network.state_dict()[name], weight, atol=2e-4), name


def test_the_first_steps_are_those_of_a_plain_loop_with_codes_of_many_batches(
    drawn: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps: four with the pooled discriminator, whose posteriors begin to be replaced, then FactorVAE's from its start."""
    monkeypatch.setattr(pooled, "POSTERIORS", 40)
    monkeypatch.setattr(pooled, "CODES", 12)
    network = drawn.model(seed=8)
    vae, made = copy.deepcopy(network), []

    def module(*arguments: Any) -> Any:
        made.append(FactorModule(*arguments))
        made.append(copy.deepcopy(made[0].pooled.discriminator))
        made.append(copy.deepcopy(made[0].discriminator))
        return made[0]

    settings = drawn.settings(epochs=1, steps_per_epoch=6, gamma=10.0, learning_rate=1e-3, pooled_until=2 / 3)
    result = fit(network, drawn.few(), None, settings, tmp_path, progress=False, module=module)
    first, later = made[1:]
    one = torch.optim.Adam(vae.parameters(), 1e-3, betas=(0.9, 0.999))
    others = [torch.optim.Adam(each.parameters(), rate, betas=(0.5, 0.9)) for each, rate in ((first, 1e-3), (later, 1e-3))]
    batches, shown, sums = DrawnBatches(drawn.few(), 8, 6, seed=0), torch.empty(0, 2, 4), torch.zeros(2)
    for step, batch in enumerate(batches):
        mean, logvar = vae.encode(batch.images)
        codes = reparameterize(mean, logvar, seeded(0, "noise", step))
        generator = seeded(0, "permutation", step)
        with torch.no_grad():
            another = vae.encode(batches.another(step))
        if step < 4:
            judge, other = first, others[0]
            for posterior in ((mean, logvar), another):
                shown = torch.cat([shown, torch.stack(posterior, 1).detach()])
            # The place in the ring of the posterior shown as number n is n modulo 40.
            ring = torch.stack([shown[place::40][-1] for place in range(min(len(shown), 40))])
            drawn_ones = ring[torch.randint(len(ring), (24,), generator=generator)]
            sampled = reparameterize(drawn_ones[:, 0], drawn_ones[:, 1], generator)
            correlation = -judge(in_units_of_their_spread(codes)).diff(dim=1).mean()
            joint = in_units_of_their_spread(sampled[:12])
            product = in_units_of_their_spread(permute_latents(sampled[12:], generator))
        else:
            judge, other = later, others[1]
            joint, product = codes.detach(), permute_latents(reparameterize(*another, generator), generator)
            correlation = -judge(codes).diff(dim=1).mean()
        against = discriminator_loss(judge(joint), judge(product))
        one.zero_grad()
        (elbo(vae.decode_logits(codes), batch.images, mean, logvar).loss + 10 * correlation).backward()
        other.zero_grad()
        against.backward()
        one.step()
        other.step()
        sums += torch.stack([correlation, against]).detach() / 6
    assert len(shown) == 64
    assert result.history[0]["train/total_correlation"] == pytest.approx(float(sums[0]), rel=2e-3, abs=2e-4)
    assert result.history[0]["train/discriminator"] == pytest.approx(float(sums[1]), rel=2e-3)
    for name, weight in vae.state_dict().items():
        assert torch.allclose(network.state_dict()[name], weight, atol=2e-4), name
    for name, weight in first.state_dict().items():
        assert torch.allclose(made[0].pooled.discriminator.state_dict()[name], weight, atol=2e-4), name


def test_of_a_batch_larger_than_the_ring_the_last_posteriors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "POSTERIORS", 4)
    judge, mean = pooled.PooledDiscriminator(2), torch.arange(22.0).reshape(11, 2)
    judge.show(mean[:3], -mean[:3])
    judge.show(mean[3:], -mean[3:])
    assert sorted(judge.mean[:, 0].tolist()) == [14, 16, 18, 20]
    assert torch.equal(judge.logvar, -judge.mean)


def test_codes_of_many_batches_show_what_those_of_one_do_not() -> None:
    """A third latent that depends on two others, which none of the three pairs shows: each judge after 100 steps."""
    generator = torch.Generator().manual_seed(0)

    def posteriors(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        plane = 3 * torch.rand(count, 2, generator=generator) - 1.5
        return torch.cat([plane, (2 * plane).sin().prod(1, keepdim=True)], 1), torch.full((count, 3), -5.0)

    many, usual = pooled.PooledDiscriminator(3), Discriminator(3, 256)
    optimizers = [torch.optim.Adam(each.parameters(), 1e-3, betas=(0.5, 0.9)) for each in (many, usual)]
    for _ in range(100):
        for optimizer in optimizers:
            optimizer.zero_grad()
        one, another = posteriors(64), posteriors(64)
        many.show(*one)
        many.show(*another)
        many.loss(generator).backward()
        product = permute_latents(reparameterize(*another, generator), generator)
        discriminator_loss(usual(standardized(reparameterize(*one, generator))), usual(standardized(product))).backward()
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        joint = reparameterize(*posteriors(2000), generator)
        product = permute_latents(reparameterize(*posteriors(2000), generator), generator)
        found = float(discriminator_loss(many(joint), many(product)))
        usually = float(discriminator_loss(usual(standardized(joint)), usual(standardized(product))))
    assert found < 0.46 < 0.51 < usually, (found, usually)


def test_the_optimisers_are_those_of_the_appendix(drawn: ModuleType, tmp_path: Path) -> None:
    network = drawn.model()
    module = one_step(drawn, tmp_path, network, learning_rate=3e-4, weight_decay=1e-3)
    one, other = (step if isinstance(step, torch.optim.Adam) else step.optimizer for step in module.stepped)
    assert (one.defaults["betas"], one.defaults["lr"], one.defaults["weight_decay"]) == ((0.9, 0.999), 3e-4, 1e-3)
    assert (other.defaults["betas"], other.defaults["lr"], other.defaults["weight_decay"]) == ((0.5, 0.9), 3e-4, 1e-3)
    whose = [{id(p) for group in each.param_groups for p in group["params"]} for each in (one, other)]
    assert whose[0] == {id(p) for p in network.parameters()}
    assert whose[1] == {id(p) for p in module.discriminator.parameters()}
    assert not whose[0] & whose[1]
    module = one_step(drawn, tmp_path / "own", drawn.model(), learning_rate=3e-4, discriminator_learning_rate=1e-5)
    one, other = (step if isinstance(step, torch.optim.Adam) else step.optimizer for step in module.stepped)
    assert (one.defaults["lr"], other.defaults["lr"]) == (3e-4, 1e-5)
    module = one_step(drawn, tmp_path / "warm", drawn.model(), learning_rate=3e-4, rate_warmup_epochs=4.0)
    one, other = (step if isinstance(step, torch.optim.Adam) else step.optimizer for step in module.stepped)
    assert one.param_groups[0]["lr"] == pytest.approx(3e-4 / 4)  # the model's alone rises
    assert other.param_groups[0]["lr"] == 3e-4
    module = one_step(drawn, tmp_path / "cool", drawn.model(), steps_per_epoch=2, learning_rate=3e-4, rate_cooldown_epochs=1.0)
    one, other = (step if isinstance(step, torch.optim.Adam) else step.optimizer for step in module.stepped[-2:])
    assert (one.param_groups[0]["lr"], other.param_groups[0]["lr"]) == (3e-4 / 2, 3e-4)  # and falls


@pytest.mark.parametrize("kind", ["drawn", "memory"])
def test_the_second_batch_is_another_and_is_encoded_without_gradients(drawn: ModuleType, tmp_path: Path, kind: str) -> None:
    network, calls = drawn.model(), []
    encode = network.encode

    def seen(images: Tensor) -> Any:
        calls.append((images.clone(), torch.is_grad_enabled()))
        return encode(images)

    class Module(FactorModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            calls.clear()
            network.encode = seen
            super().training_step(batch, batch_idx)
            del network.encode
            steps.append(list(calls))

    steps: list[list[tuple[Tensor, bool]]] = []
    drawn.train(tmp_path, network, kind, module=Module, epochs=1)
    assert len(steps) == (4 if kind == "drawn" else 5)
    for step in steps:
        assert [trains for _, trains in step] == [True, False]
        first, second = (images for images, _ in step)
        assert not torch.equal(first, second[: len(first)])
        assert second.shape == (8, 1, 16, 16)
    assert not torch.equal(steps[0][1][0], steps[1][1][0])


def test_a_row_has_what_there_is_to_see(drawn: ModuleType, tmp_path: Path) -> None:
    _, result = drawn.train(tmp_path, **{**drawn.ALL_TERMS, "kl_weight": 3.0, "kl_start": 3.0, "wake_after": None})
    of_latents = [f"kl/z{latent}" for latent in range(4)]
    parts = ["loss", "reconstruction", "kl", "overlap", "total_correlation", "discriminator"]
    expected = [
        "epoch",
        *(f"train/{part}" for part in parts),
        "active_latents",
        "kl_weight",
        "attention_overlap",
        "empty_maps",
        *of_latents,
    ]
    assert list(result.history[0]) == [*expected, "seconds"]
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row, written in zip(result.history, rows, strict=True):
        assert {name: float(value) for name, value in written.items()} == row
        found = row["train/reconstruction"] + 3 * row["train/kl"]
        found += 5 * row["train/total_correlation"] + 3 * row["train/overlap"]
        assert row["train/loss"] == pytest.approx(found, rel=1e-5)
        assert row["train/discriminator"] > 0
        assert 0 <= row["attention_overlap"] <= 1
        assert sum(row[name] for name in of_latents) == pytest.approx(row["train/kl"], rel=1e-5)


@pytest.mark.parametrize("kind", ["drawn", "memory"])
def test_a_weight_of_zero_is_the_vae(drawn: ModuleType, tmp_path: Path, kind: str) -> None:
    vae, plain = drawn.train(tmp_path / "vae", None, kind, module=VAEModule)
    factor, result = drawn.train(tmp_path / "factor", None, kind, gamma=0.0)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, factor.state_dict()[name]), name
    for row, other in zip(plain.history, result.history, strict=True):
        shared = {name: value for name, value in row.items() if name != "seconds"}
        assert {name: other[name] for name in shared} == shared
        assert set(other) - set(row) >= {"train/total_correlation", "train/discriminator"}
    assert result.mean_kl == plain.mean_kl


def test_the_default_weight_is_that_of_the_figures_reported(drawn: ModuleType) -> None:
    assert FactorModule(drawn.model(), drawn.settings(), drawn.few(), None).gamma == GAMMA == 40
    assert FactorModule(drawn.model(), drawn.settings(gamma=3.0), drawn.few(), None).gamma == 3


def test_the_discriminators_first_weights_depend_on_the_seed_alone(drawn: ModuleType) -> None:
    def weights(seed: int) -> Tensor:
        torch.rand(5)
        module = FactorModule(drawn.model(), drawn.settings(seed=seed), drawn.few(), None)
        return torch.cat([p.detach().flatten() for p in module.discriminator.parameters()])

    before = torch.random.get_rng_state()
    FactorModule(drawn.model(), drawn.settings(), drawn.few(), None)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_it_finds_and_lowers_the_correlation_of_latents(drawn: ModuleType, tmp_path: Path) -> None:
    """Two latents that are the same are as correlated as can be: the discriminator sees it, and gamma undoes it."""

    class Twins(nn.Module):
        latent_dim = 2

        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(256, 1)
            self.apart = nn.Parameter(torch.zeros(2))
            self.decoder = nn.Sequential(nn.Linear(2, 256), nn.Unflatten(1, (1, 16, 16)))

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            code = 40 * self.encoder(images.flatten(1))
            mean = code * (1 + self.apart) - code.mean()
            return mean, torch.full_like(mean, -6.0)

        def decode_logits(self, latents: Tensor) -> Tensor:
            logits: Tensor = self.decoder(latents)
            return logits

    last = {}
    for gamma in (0.0, 100.0):
        torch.manual_seed(0)
        options = {"gamma": gamma, "epochs": 1, "steps_per_epoch": 150, "kl_weight": 0.0, "batch_size": 48}
        _, result = drawn.train(tmp_path / str(gamma), Twins(), learning_rate=2e-3, **options)
        last[gamma] = result.history[-1]
    assert last[0.0]["train/total_correlation"] > 0.3
    assert last[0.0]["train/discriminator"] < 0.65
    assert last[100.0]["train/total_correlation"] < 0.7 * last[0.0]["train/total_correlation"]


def losses(result: FitResult) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def same(one: tuple[nn.Module, FitResult], other: tuple[nn.Module, FitResult]) -> None:
    assert losses(one[1]) == losses(other[1])
    assert one[1].mean_kl == other[1].mean_kl
    weights = other[0].state_dict()
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.fixture(scope="module", params=["drawn", "memory"])
def whole(request: pytest.FixtureRequest, drawn: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kind of images and the uninterrupted run."""
    return request.param, drawn.train(tmp_path_factory.mktemp("whole"), None, request.param, **drawn.ALL_TERMS)


def test_a_killed_process_resumes_exactly(drawn: ModuleType, whole: Any, tmp_path: Path) -> None:
    kind, expected = whole
    step = 2 + 2 * (5 if kind == "memory" else drawn.STEPS)  # the third of the last epoch
    program = [sys.executable, str(Path(__file__).with_name("drawn_run.py")), str(tmp_path), kind, str(step)]
    killed = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len((tmp_path / "logs" / "metrics.csv").read_text().splitlines()) == 1 + 2
    # Other first weights: those of the checkpoint must replace them.
    same(drawn.train(tmp_path, drawn.model(seed=99), kind, resume=True, **drawn.ALL_TERMS), expected)


def test_a_run_that_goes_on_after_an_epoch_resumes_exactly(drawn: ModuleType, whole: Any, tmp_path: Path) -> None:
    kind, expected = whole
    drawn.train(tmp_path, None, kind, epochs=1, **drawn.ALL_TERMS)
    torch.rand(7)
    same(drawn.train(tmp_path, drawn.model(seed=99), kind, resume=True, **drawn.ALL_TERMS), expected)
    same(drawn.train(tmp_path, drawn.model(seed=98), kind, resume=True, **drawn.ALL_TERMS), expected)  # it is complete


def test_the_checkpoint_holds_the_discriminator_and_both_optimisers(drawn: ModuleType, tmp_path: Path) -> None:
    drawn.train(tmp_path, epochs=1, gamma=5.0)
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    names = set(content["state_dict"])
    assert {"discriminator.layers.0.weight", "model.encoder.conv1.weight"} <= names
    assert len(content["optimizer_states"]) == 2
    with pytest.raises(UsageError, match=r"gamma is 6\.0, but the run in .* was started with 5\.0"):
        drawn.train(tmp_path, resume=True, gamma=6.0)
    with pytest.raises(UsageError, match="gamma is None, but"):
        drawn.train(tmp_path, module=None, resume=True)
    with pytest.raises(UsageError, match=r"the model is not the one in .*: discriminator\.layers\.0\.bias is missing here"):
        drawn.train(tmp_path, module=VAEModule, resume=True, gamma=5.0)


def test_a_checkpoint_of_before_these_settings_goes_on(
    drawn: ModuleType, tmp_path: Path, younger_settings: dict[str, Any]
) -> None:
    expected = drawn.train(tmp_path / "whole", None, "memory", module=None)
    drawn.train(tmp_path / "part", None, "memory", module=None, epochs=1)
    content = torch.load(tmp_path / "part" / CHECKPOINT, weights_only=True)
    for name in younger_settings:
        del content["vaelens"]["settings"][name]
    torch.save(content, tmp_path / "part" / CHECKPOINT)
    with pytest.raises(UsageError, match=r"ad_weight is 1\.0, but the run in .* was started with None"):
        drawn.train(tmp_path / "part", None, "memory", module=None, resume=True, ad_weight=1.0)
    same(drawn.train(tmp_path / "part", drawn.model(seed=9), "memory", module=None, resume=True), expected)


def test_it_works_on_ordinary_images_with_held_out_ones(drawn: ModuleType, tmp_path: Path) -> None:
    _, result = drawn.train(tmp_path, None, "memory", patience=5, **drawn.ALL_TERMS)
    for row in result.history:
        # The held-out loss is without the total correlation, which two batches of it would not tell.
        assert row["val/loss"] == pytest.approx(row["val/reconstruction"] + row["val/kl"] + 3 * row["val/overlap"], rel=1e-5)
        assert {"val/total_correlation", "val/discriminator"}.isdisjoint(row)
        assert 0 <= row["attention_overlap"] <= 1
    assert result.last_loss == result.history[-1]["val/loss"]
    assert result.history[-1]["val/loss"] < result.history[0]["val/loss"]
    assert len(result.mean_kl) == 4


def test_a_loss_that_is_no_number_is_named(drawn: ModuleType, tmp_path: Path) -> None:
    network = drawn.model()
    with torch.no_grad():
        next(network.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch 1, batch 1 \(digit-\d+, .* and 5 more\)"):
        drawn.train(tmp_path / "a", network)

    class Broken(FactorModule):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.discriminator.layers[-1].weight.register_hook(lambda gradient: gradient * torch.nan)

    with pytest.raises(TrainingError, match="the gradient norm is nan at epoch 1, batch 1"):
        drawn.train(tmp_path / "b", module=Broken)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_it_learns_in_either_precision(drawn: ModuleType, tmp_path: Path, precision: str) -> None:
    _, result = drawn.train(tmp_path, None, "memory", precision=precision, learning_rate=3e-3, gamma=2.0, ad_weight=1.0)
    assert result.history[-1]["train/reconstruction"] < 0.9 * result.history[0]["train/reconstruction"]
    assert all(isinstance(value, int | float) for value in result.history[-1].values())


class Own(nn.Module):
    """A model of one's own, that says neither what it takes nor how many latents it has; no map in it."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.Linear(24, 2 * latents)
        self.decoder = nn.Sequential(nn.Linear(latents, 256), nn.Unflatten(1, (1, 16, 16)))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.heads(self.encoder(images)).chunk(2, 1)
        return mean, logvar

    def decode_logits(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits


def test_a_model_of_ones_own_trains_and_resumes_exactly(drawn: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = Own(3).state_dict()

    def network() -> Own:
        made = Own(3)
        made.load_state_dict(first)
        return made

    state = torch.random.get_rng_state()
    module = FactorModule(network().train(), drawn.settings(), drawn.few(), None)
    assert module.discriminator.layers[0].in_features == 3
    assert module.model.encoder[2].num_batches_tracked == 0  # the look at it was undone
    torch.random.set_rng_state(state)
    expected = drawn.train(tmp_path / "whole", network(), gamma=2.0)
    assert "attention_overlap" not in expected[1].history[0]
    assert len(expected[1].mean_kl) == 3
    drawn.train(tmp_path / "part", network(), gamma=2.0, epochs=1)
    same(drawn.train(tmp_path / "part", network(), gamma=2.0, resume=True), expected)


def test_what_is_frozen_stays_as_it_was_and_nothing_to_train_is_refused(drawn: ModuleType, tmp_path: Path) -> None:
    network = drawn.model()
    network.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn.train(tmp_path / "a", network, epochs=1, **drawn.ALL_TERMS)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder"), name
    for part in (network.mean, network.logvar):  # then no gradient comes from the discriminator at all
        part.requires_grad_(False)
    _, result = drawn.train(tmp_path / "b", network, epochs=1, **drawn.ALL_TERMS)
    assert result.epochs == 1
    with pytest.raises(UsageError, match="the model has no parameter to train: all are frozen"):
        drawn.train(tmp_path / "c", network.requires_grad_(False), epochs=1)


@pytest.mark.parametrize("own", [True, False])
def test_one_latent_is_refused(drawn: ModuleType, tmp_path: Path, own: bool) -> None:
    with pytest.raises(UsageError, match="total correlation is between latents, and there is one: take --latents 2 or more"):
        drawn.train(tmp_path, Own(1) if own else drawn.model(latent_dim=1))


def test_batches_of_one_image_are_refused(drawn: ModuleType) -> None:
    with pytest.raises(UsageError, match="shuffles latents over a batch, which takes a batch_size of 2 or more, got 1"):
        FactorModule(drawn.model(), drawn.settings(batch_size=1), drawn.few(), None)


def test_settings_with_a_gamma_are_enough(drawn: ModuleType, tmp_path: Path) -> None:
    settings = drawn.settings(gamma=2.0, epochs=1)
    assert "train/discriminator" in fit(drawn.model(), drawn.few(), None, settings, tmp_path, progress=False).history[0]
