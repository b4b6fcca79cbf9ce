"""How far the maps of latents overlap, as training takes it: from the pass that encodes the batch, in closed form."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import LatentAttention
from vaelens.errors import UsageError
from vaelens.objectives import attention_disentanglement
from vaelens.training import overlap as overlap_module
from vaelens.training.batches import seeded
from vaelens.training.overlap import Overlap

pytestmark = pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")


class Plain(nn.Module):
    """A model of one's own, that says neither what it takes nor how many latents it has; with layers that draw and count."""

    def __init__(self, latents: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 6, 4, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 4, stride=2, padding=1)),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, 256), nn.Unflatten(1, (1, 16, 16)))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.head(self.trunk(images)).chunk(2, 1)
        return mean, logvar

    def decode_logits(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.decoder(latents)
        return logits


def images(drawn: ModuleType, scale: int = 1, count: int = 5) -> Tensor:
    found: Tensor = drawn.few(scale).take(torch.arange(count))
    return found


@pytest.mark.parametrize("pairs", ["all", "random", "top2"])
def test_the_loss_is_that_of_the_maps_and_comes_with_their_posterior(drawn: ModuleType, pairs: str) -> None:
    network, batch = drawn.model(32, seed=8), images(drawn, 2)
    calls: list[bool] = []
    network.encoder.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    overlap = Overlap(network, drawn.settings(ad_weight=1.0, ad_pairs=pairs), batch)
    calls.clear()
    generator = torch.Generator().manual_seed(5)
    mean, logvar, loss = overlap.loss(batch, generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state()), "the sample is the same for all"
    assert calls == [True]  # one pass for all of it
    for found, expected in zip((mean, logvar), network.encode(batch), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.requires_grad
    maps = LatentAttention(network)(batch)
    expected = attention_disentanglement(maps, pairs, seeded(5, "pairs", 0))
    torch.testing.assert_close(loss, expected)
    assert float(loss.detach()) > 0
    loss.backward()
    assert network.encoder.conv1.weight.grad.any()


def test_random_pairs_differ_from_step_to_step(drawn: ModuleType) -> None:
    network, batch = drawn.model(32, seed=8), images(drawn, 2)
    overlap = Overlap(network, drawn.settings(ad_weight=1.0, ad_pairs="random"), batch)
    found = [overlap.loss(batch, seeded(0, "noise", step))[2].detach() for step in range(40)]
    values = LatentAttention(network)(batch).per_latent.detach()
    each = {float(attention_disentanglement(values[:, [i, j]])) for i in range(4) for j in range(i)}
    assert len({round(float(one), 6) for one in found}) == len({round(one, 6) for one in each})  # every pair in its turn


def test_figures_are_of_all_pairs_and_leave_the_model_as_it_was(drawn: ModuleType) -> None:
    network, batch = Plain().train(), images(drawn)
    overlap = Overlap(network, drawn.settings(ad_weight=1.0, ad_pairs="random"), batch)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    found = overlap.figures(batch)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert overlap.figures(batch) == found
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.random.set_rng_state(state)
    maps = LatentAttention(network)(batch)
    assert found["attention_overlap"] == pytest.approx(float(attention_disentanglement(maps).detach()))
    assert found["empty_maps"] == pytest.approx(float((maps.per_latent.flatten(2).sum(2) == 0).float().mean()))


def test_a_first_look_at_a_model_that_does_not_say_what_it_takes_leaves_it_as_it_was(drawn: ModuleType) -> None:
    for shape in ("none", None):
        network = Plain().train()
        if shape is None:
            network.input_shape = None
        before = {name: value.clone() for name, value in network.state_dict().items()}
        state = torch.random.get_rng_state()
        overlap = Overlap(network, drawn.settings(ad_weight=1.0), images(drawn, count=2))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert overlap.attention.layer == "trunk"
        assert overlap.attention.plan.latent_dim == 3


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("encoder.conv9", "unknown layer 'encoder.conv9'; there are: encoder.conv1, "),
        (
            "encoder.conv5",
            "layer 'encoder.conv5' gives a map of one pixel, where nothing can lie apart; take one of: ",
        ),
        ("mean", "layer 'mean' gives a map of one pixel"),
        ("decoder.0", "layer 'decoder.0' is not called by encode"),
    ],
)
def test_a_layer_without_maps_to_keep_apart_is_refused_in_one_line(drawn: ModuleType, layer: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Overlap(drawn.model(32), drawn.settings(ad_weight=1.0, ad_layer=layer), images(drawn, 2))
    assert "\n" not in str(caught.value)
    if "one of:" in str(caught.value):
        assert str(caught.value).endswith(("encoder.relu4", "encoder.relu3"))


@pytest.mark.parametrize("says", [True, False])
def test_one_latent_is_refused(drawn: ModuleType, says: bool) -> None:
    network = drawn.model(latent_dim=1) if says else Plain(1)
    with pytest.raises(UsageError, match="maps of two latents are compared, and the model has one: take --latents 2 or more"):
        Overlap(network, drawn.settings(ad_weight=1.0), images(drawn))


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("gamma", [None, 4.0])
def test_training_stays_in_closed_form(
    drawn: ModuleType, small: ModuleType, tmp_path: Path, precision: str, gamma: float | None, caplog: Any, monkeypatch: Any
) -> None:
    """Also under autocast, with channels last, and without gradients on held-out images: nothing falls back unnoticed."""
    from vaelens.training.factor import FactorModule
    from vaelens.training.module import VAEModule

    caplog.set_level(logging.INFO, "vaelens.attention")
    methods: list[tuple[str, bool]] = []
    made: list[VAEModule] = []

    def seen(maps: Any, *others: Any) -> Tensor:
        methods.append((maps.method, torch.is_grad_enabled()))
        return attention_disentanglement(maps, *others)

    def module(*arguments: Any) -> VAEModule:
        made.append((VAEModule if gamma is None else FactorModule)(*arguments))
        return made[0]

    monkeypatch.setattr(overlap_module, "attention_disentanglement", seen)
    few = drawn.few(2)
    train, held_out = (small.Digits(few.images[a:b], few.names[a:b]) for a, b in ((0, 24), (24, 36)))
    settings = drawn.settings(epochs=2, steps_per_epoch=None, ad_weight=2.0, gamma=gamma, precision=precision)
    result = small.fit(drawn.model(32), train, held_out, settings, tmp_path, progress=False, module=module)
    assert {method for method, _ in methods} == {"closed_form"}
    assert len(methods) >= 2 * (3 + 2 + 1)  # training and validation batches, and the figure of each epoch
    assert {trains for _, trains in methods} == {True, False}
    attention = made[0]._overlap.attention  # type: ignore[union-attr]
    assert (attention.layer, attention.method) == ("encoder.relu4", "closed_form")
    assert attention._refused == {}
    said = [record.getMessage() for record in caplog.records if record.name == "vaelens.attention"]
    assert said
    assert all(line.endswith("closed_form") for line in said), said
    assert all(0 < row["val/overlap"] < 1 for row in result.history)


def test_half_precision_gives_nearly_the_same_gradient(drawn: ModuleType) -> None:
    batch = images(drawn, 2, count=8)
    found = []
    for half in (False, True):
        network = drawn.model(32)
        overlap = Overlap(network, drawn.settings(ad_weight=1.0), batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = overlap.loss(batch, torch.Generator())[2]
        assert loss.dtype == torch.float32
        loss.backward()
        assert overlap.attention.method == "closed_form"
        found.append({name: weight.grad.flatten() for name, weight in network.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name in ("encoder.conv1.weight", "encoder.conv4.weight", "encoder.conv5.weight", "mean.weight"):
        assert float(torch.cosine_similarity(found[0][name], found[1][name], dim=0)) > 0.97, name


def test_maps_are_drawn_apart_in_training(drawn: ModuleType, tmp_path: Path) -> None:
    """Through VAEModule, the beta-VAE's: with the weight the overlap of the last epoch is less than without."""
    last = {}
    for weight in (0.0, 20.0):
        options = {"ad_weight": weight, "kl_weight": 2.0, "steps_per_epoch": 12}
        _, result = drawn.train(tmp_path / str(weight), drawn.model(seed=8), module=None, **options)
        for row in result.history:
            parts = row["train/reconstruction"] + 2.0 * row["train/kl"] + weight * row["train/overlap"]
            assert row["train/loss"] == pytest.approx(parts, rel=1e-5)
            assert "train/total_correlation" not in row
        last[weight] = result.history[-1]["train/overlap"]
    assert 0 <= last[20.0] < 0.7 * last[0.0]


def test_a_weight_of_zero_changes_no_weight_of_the_model(drawn: ModuleType, tmp_path: Path) -> None:
    found = [
        drawn.train(tmp_path / str(weight), module=None, ad_weight=weight, epochs=2)[0].state_dict() for weight in (None, 0.0)
    ]
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6)


def test_a_model_of_ones_own_trains_with_maps_kept_apart_and_goes_on_exactly(drawn: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(2)
    first = Plain().state_dict()

    def network() -> Plain:
        made = Plain()
        made.load_state_dict(first)
        return made

    options: dict[str, Any] = {"ad_weight": 2.0, "epochs": 2, "kind": "memory"}
    whole, expected = drawn.train(tmp_path / "whole", network(), module=None, **options)
    drawn.train(tmp_path / "part", network(), module=None, **{**options, "epochs": 1})
    resumed, result = drawn.train(tmp_path / "part", network(), module=None, resume=True, **options)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert [row["train/loss"] for row in result.history] == [row["train/loss"] for row in expected.history]
    assert [row["attention_overlap"] for row in result.history] == [row["attention_overlap"] for row in expected.history]
    assert whole.trunk[1].num_batches_tracked == 2 * 5


def test_what_is_frozen_stays_as_it_was(drawn: ModuleType, tmp_path: Path) -> None:
    network = drawn.model(32)
    network.encoder.conv1.requires_grad_(False)
    network.mean.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    few = drawn.few(2)
    drawn.fit(network, few, None, drawn.settings(epochs=1, ad_weight=5.0), tmp_path / "a", progress=False)
    for name, value in network.state_dict().items():
        frozen = name.startswith(("encoder.conv1", "mean"))
        assert torch.equal(value, before[name]) == frozen, name
    with pytest.raises(UsageError, match="the model has no parameter to train: all are frozen"):
        drawn.fit(
            *(network.requires_grad_(False), few, None, drawn.settings(epochs=1, ad_weight=5.0), tmp_path / "b"), progress=False
        )


def test_an_encoder_that_is_wholly_frozen_lets_the_decoder_train(drawn: ModuleType, tmp_path: Path) -> None:
    network = drawn.model(32)
    for part in (network.encoder, network.mean, network.logvar):
        part.requires_grad_(False)
    few = drawn.few(2)
    result = drawn.fit(network, few, None, drawn.settings(ad_weight=5.0), tmp_path, progress=False)
    assert result.history[-1]["train/reconstruction"] < result.history[0]["train/reconstruction"]
    assert result.history[-1]["train/overlap"] > 0
