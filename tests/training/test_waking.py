"""Waking: what is closed or off gets fresh weights and nothing else does; the steps after it are those written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import LatentAttention
from vaelens.errors import UsageError
from vaelens.models import build
from vaelens.objectives import (
    attention_disentanglement,
    discriminator_loss,
    elbo,
    permute_latents,
    reparameterize,
)
from vaelens.training import waking
from vaelens.training.batches import seeded
from vaelens.training.drawn import DrawnBatches
from vaelens.training.factor import FactorModule
from vaelens.training.fit import fit
from vaelens.training.module import VAEModule
from vaelens.training.waking import Waking

pytestmark = [
    pytest.mark.usefixtures("small_discriminator"),
    pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning"),
]

CLOSED, OFF = [1, 3], [7, 9, 100]


def shut(network: Any, closed: Sequence[int] = CLOSED, off: Sequence[int] = OFF) -> Any:
    """Of four latents two closed and the others open; of the 128 units below the heads three off."""
    with torch.no_grad():
        network.mean.weight *= 10
        for head in (network.mean, network.logvar):
            head.weight[list(closed)] = 0.0
        network.encoder.conv5.bias[list(off)] = -1e4
    return network


def stepped(network: nn.Module, images: Tensor) -> torch.optim.Optimizer:
    """Adam, after one step that leaves the weights as they are."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
    mean, logvar = network.encode(images)  # type: ignore[operator]
    elbo(network.decode_logits(reparameterize(mean, logvar)), images, mean, logvar).loss.backward()  # type: ignore[operator]
    optimizer.step()
    return optimizer


def test_closed_latents_and_dead_units_get_fresh_weights_and_nothing_else_does(drawn: ModuleType) -> None:
    network, images = shut(drawn.model(seed=8)), drawn.few().take(torch.arange(60))
    optimizer = stepped(network, images)
    before, units, posterior = copy.deepcopy(network.state_dict()), network.encoder(images), network.encode(images)
    kept = {name: copy.deepcopy(optimizer.state[p]) for name, p in network.named_parameters()}
    one = Waking(network, 5, 10)
    one.wake(network, optimizer, images, torch.Generator().manual_seed(0))
    assert one.woken.nonzero()[:, 0].tolist() == CLOSED

    # Open latents are what they were. Woken ones have mean 0 and spread 1 over the images, and one narrow posterior.
    mean, logvar = network.encode(images)
    for found, was in zip((mean, logvar), posterior, strict=True):
        assert torch.allclose(found[:, [0, 2]], was[:, [0, 2]], atol=1e-5)
    assert torch.allclose(mean[:, CLOSED].mean(0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(mean[:, CLOSED].std(0), torch.ones(2), atol=1e-4)
    assert torch.equal(logvar[:, CLOSED], torch.full((60, 2), -1.0))
    assert abs(float(torch.corrcoef(mean[:, CLOSED].detach().T)[0, 1])) < 0.999  # each its own

    # Units that were off are on, the others as they were.
    now, off = network.encoder(images), [unit for unit in range(128) if not bool(units[:, unit].any())]
    assert set(OFF) <= set(off)
    assert bool((now[:, off].amax(0) > 0).all())
    alive = [unit for unit in range(128) if unit not in off]
    assert torch.allclose(now[:, alive], units[:, alive])

    # Adam knows nothing of what was replaced, and of all else what it knew.
    fresh = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in network.named_parameters()}
    for name in ("encoder.conv5.weight", "encoder.conv5.bias"):
        fresh[name][off] = True
    for name in ("mean", "logvar"):
        fresh[f"{name}.weight"][:, off] = fresh[f"{name}.weight"][CLOSED] = fresh[f"{name}.bias"][CLOSED] = True
    fresh["decoder.1.weight"][:, CLOSED] = True
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter[~fresh[name]], before[name][~fresh[name]]), name
        for moment in ("exp_avg", "exp_avg_sq"):
            there, was = optimizer.state[parameter][moment], kept[name][moment]
            assert torch.equal(there, was.masked_fill(fresh[name], 0.0)), name
    column = network.decoder[1].weight[:, CLOSED]
    assert float(column.detach().std()) == pytest.approx((2 / 4) ** 0.5, rel=0.15)  # He's, of four latents
    assert not torch.equal(column, before["decoder.1.weight"][:, CLOSED])


def test_where_all_latents_are_open_only_dead_units_are_replaced(drawn: ModuleType) -> None:
    network, images = shut(drawn.model(seed=8), closed=()), drawn.few().take(torch.arange(60))
    before, posterior = copy.deepcopy(network.state_dict()), network.encode(images)
    one = Waking(network, 5, 10)
    one.wake(network, torch.optim.Adam(network.parameters()), images, torch.Generator().manual_seed(0))
    assert not bool(one.woken.any())
    assert all(torch.allclose(now, was, atol=1e-5) for now, was in zip(network.encode(images), posterior, strict=True))
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["encoder.conv5.weight", "encoder.conv5.bias", "mean.weight", "logvar.weight"]


def test_one_image_wakes_latents_with_finite_weights(drawn: ModuleType) -> None:
    network, image = shut(drawn.model(seed=8)), drawn.few().take(torch.arange(1))
    one = Waking(network, 5, 10)
    one.wake(network, torch.optim.Adam(network.parameters()), image, torch.Generator().manual_seed(0))
    assert one.woken[CLOSED].all()
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    assert float(network.encode(image)[0].detach()[:, CLOSED].abs().max()) < 1e-4


def test_the_schedule_by_hand(drawn: ModuleType) -> None:
    """Woken at step 40 of epochs of ten: 15 free steps, then 20 in which 50 and 1/20 come to 1; and again, from 5."""
    one = Waking(drawn.model(), 40, 10)
    one.woken[2] = True
    assert [(step, one.begins(step)) for step in range(200) if one.begins(step) is not None] == [(40, 0), (75, 1)]
    assert [step for step in range(200) if one.is_free(step)] == [*range(40, 55), *range(75, 90)]
    fall = [(55, 50, 0.05), (65, 50**0.5, 0.05**0.5)]
    for step, weight, rate in [(0, 1, 1), (54, 1, 1), *fall, (75, 1, 1), (90, 5, 0.05), (110, 1, 1), (500, 1, 1)]:
        assert one.kl_factors(step).tolist() == pytest.approx([1, 1, weight, 1])
        assert one.encoder_rate(step) == pytest.approx(rate)


@pytest.mark.parametrize("kind", [FactorModule, VAEModule])
def test_training_is_what_it_is_by_hand(
    drawn: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[VAEModule]
) -> None:
    """Ten steps: two as ever, with latents woken after them; two without gamma; three of the fall; woken again: two and one."""
    monkeypatch.setattr(waking, "FREE", 0.2)
    monkeypatch.setattr(waking, "FALL", 0.3)
    network = shut(drawn.model(side=32, seed=8))
    vae, first, made = copy.deepcopy(network), copy.deepcopy(network.state_dict()), []

    def module(*arguments: Any) -> Any:
        made.append(kind(*arguments))
        made.append(copy.deepcopy(getattr(made[0], "discriminator", None)))
        return made[0]

    gamma = 10.0 if kind is FactorModule else None
    changes: dict[str, Any] = {"gamma": gamma, "ad_weight": 5.0, "wake_after": 0.2, "kl_weight": 2.0}
    settings = drawn.settings(epochs=1, steps_per_epoch=10, learning_rate=1e-3, seed=4, **changes)
    fit(network, drawn.few(2), None, settings, tmp_path, progress=False, module=module)

    judge, batches = made[1], DrawnBatches(drawn.few(2), 8, 10, seed=4)
    layers = [[p for name, p in vae.named_parameters() if name.startswith("encoder.") is own] for own in (False, True)]
    one = torch.optim.Adam([{"params": of} for of in layers], 1e-3)
    other = None if judge is None else torch.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.9))
    by_hand, woken = Waking(vae, 2, 10), []
    for step, batch in enumerate(batches):
        if step in (2, 7):
            images = torch.cat([batches.another(number) for number in range(step)])
            by_hand.wake(vae, one, images, seeded(4, "waking", (2, 7).index(step)))
            woken.append(by_hand.woken.tolist())
        factor = {4: 50.0, 5: 50 ** (2 / 3), 6: 50 ** (1 / 3), 9: 5.0}.get(step, 1.0)
        one.param_groups[1]["lr"] = 1e-3 * {4: 0.05, 5: 0.05 ** (2 / 3), 6: 0.05 ** (1 / 3), 9: 0.05}.get(step, 1.0)
        mean, logvar = vae.encode(batch.images)
        codes = reparameterize(mean, logvar, seeded(4, "noise", step))
        terms = elbo(vae.decode_logits(codes), batch.images, mean, logvar)
        weights = torch.where(by_hand.woken, 2.0 * factor, 2.0)
        loss = (terms.reconstruction + (weights * terms.kl).sum(1)).mean()
        loss = loss + 5 * attention_disentanglement(LatentAttention(vae)(batch.images))
        if judge is not None and other is not None:
            with torch.no_grad():
                another = vae.encode(batches.another(step))
            generator = seeded(4, "permutation", step)
            permuted = permute_latents(reparameterize(*another, generator), generator)
            if step not in (2, 3, 7, 8):
                loss = loss - 10 * judge(codes).diff(dim=1).mean()
            against = discriminator_loss(judge(codes.detach()), judge(permuted))
            other.zero_grad()
            against.backward()
        one.zero_grad()
        # The discriminator's own gradients come from its loss alone.
        for parameter, slope in zip(vae.parameters(), torch.autograd.grad(loss, list(vae.parameters())), strict=True):
            parameter.grad = slope
        one.step()
        if other is not None:
            other.step()
    assert len(woken) == 2
    assert any(woken[0])
    assert made[0].waking.woken.tolist() == woken[1]
    for name, weight in vae.state_dict().items():
        way = float((weight - first[name]).norm())
        assert float((network.state_dict()[name] - weight).norm()) < 0.03 * way, name


def test_models_of_another_build_are_refused(drawn: ModuleType) -> None:
    for network in ("mnist", "ucsd"):
        Waking(build(network, latent_dim=4), 1, 1)  # which have such heads

    class Other(nn.Module):
        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

    with pytest.raises(
        UsageError, match=r"latents of Other cannot be gathered, turned or woken: that takes linear heads .* leave gather_after"
    ):
        Waking(Other(), 1, 1)
    broken = drawn.model()
    broken.decoder = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 8, 4))
    with pytest.raises(UsageError, match="latents of DspritesVAE cannot be gathered"):
        Waking(broken, 1, 1)
