"""Latents that share what two could hold are gathered into two; codes of a square that lies askew come back to its axes."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.training.turning import STRONG, gather, rotation_to_independence, turn


def turned(angle: float, plane: tuple[int, int] = (0, 1), count: int = 2) -> np.ndarray:
    """The rotation by an angle, in radians, in the plane of two of so many axes."""
    rotation = np.eye(count)
    one, other = plane
    rotation[one, one] = rotation[other, other] = np.cos(angle)
    rotation[one, other], rotation[other, one] = -np.sin(angle), np.sin(angle)
    return rotation


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.7, 0.7), st.integers(0, 2**16))
def test_a_square_that_lies_askew_comes_back_to_its_axes(angle: float, seed: int) -> None:
    """By less than an eighth of a circle: the nearest axes are those it was turned from."""
    codes = np.random.default_rng(seed).uniform(-1, 1, (4000, 2))
    found = rotation_to_independence(codes @ turned(angle).T + 3.0)
    assert found == pytest.approx(turned(-angle), abs=0.06)


def test_of_three_latents_the_third_stays() -> None:
    random = np.random.default_rng(0)
    codes = np.stack([random.uniform(-1, 1, 4000), random.choice([-1.0, 1.0], 4000), random.uniform(-1, 1, 4000)], 1)
    found = rotation_to_independence(codes @ turned(0.5, (0, 2), 3).T)
    assert found == pytest.approx(turned(-0.5, (0, 2), 3), abs=0.06)
    assert found @ found.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(found) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_latents_are_left_alone(count: int) -> None:
    assert np.array_equal(rotation_to_independence(np.random.default_rng(0).normal(size=(50, count))), np.eye(count))


def test_one_image_tells_no_axes() -> None:
    assert np.array_equal(rotation_to_independence(np.ones((1, 3))), np.eye(3))


def test_latents_that_say_the_same_are_left_alone() -> None:
    one = np.random.default_rng(0).normal(size=(50, 1))
    assert np.array_equal(rotation_to_independence(np.concatenate([one, one], 1)), np.eye(2))


class Linear(nn.Module):
    """Pixels to units to latents; open are latents 0 and 2, which hold the two pixels, a square turned by half a radian."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.ReLU())
        self.mean, self.logvar = nn.Linear(4, 3), nn.Linear(4, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 2))
        with torch.no_grad():
            for layer in (self.encoder[1], self.mean, self.logvar, self.decoder[0]):
                layer.weight.zero_()
                layer.bias.zero_()
            self.encoder[1].weight[:2] = torch.eye(2)
            self.mean.weight[[0, 2], :2] = 2 * torch.from_numpy(turned(0.5)).float()
            self.mean.bias[[0, 2]] = torch.tensor([0.3, -0.2])
            self.logvar.bias[[0, 2]] = -4.0
            self.logvar.bias[1] = 0.1
            self.decoder[0].weight.copy_(torch.tensor([[1.0, 0.2, -3.0], [0.5, -0.1, 2.0]]))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        units = self.encoder(images)
        return self.mean(units), self.logvar(units)


def stepped(network: Any, images: Tensor) -> torch.optim.Optimizer:
    """Adam, after a step that leaves the weights as they are."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
    mean, logvar = network.encode(images)
    (network.decoder(mean + logvar).square().sum() + mean.sum()).backward()
    optimizer.step()
    return optimizer


def test_open_latents_are_turned_and_decode_to_the_same() -> None:
    network = Linear()
    images = torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(network)
    optimizer = stepped(network, images)
    kept = copy.deepcopy({name: optimizer.state[p] for name, p in network.named_parameters()})
    rotation = turn(network, optimizer, images)
    assert rotation.numpy() == pytest.approx(turned(-0.5), abs=0.06)
    mean, logvar = network.encode(images)
    found = torch.corrcoef(torch.cat([mean[:, [0, 2]], images.flatten(1)], 1).detach().T)[:2, 2:]
    assert found.numpy() == pytest.approx(np.eye(2), abs=0.05)  # each has a pixel to itself
    was, variance = before.encode(images)
    assert torch.allclose(network.decoder(mean), before.decoder(was), atol=1e-4)
    assert torch.allclose(logvar, variance, atol=1e-5)  # equal ones stay equal
    assert torch.equal(mean[:, 1], was[:, 1])
    # Adam has forgotten what it knew of what was turned, and of nothing else.
    for name, parameter in network.named_parameters():
        there, known = optimizer.state[parameter]["exp_avg"], kept[name]["exp_avg"]
        if name.startswith(("mean", "logvar")):
            assert not bool(there[[0, 2]].any()), name
            assert torch.equal(there[1], known[1]), name
        elif name == "decoder.0.weight":
            assert not bool(there[:, [0, 2]].any())
            assert torch.equal(there[:, 1], known[:, 1])
        else:
            assert torch.equal(there, known), name


def test_where_nothing_is_open_nothing_changes() -> None:
    network = Linear()
    with torch.no_grad():
        network.mean.weight *= 0.01
        network.logvar.bias.zero_()
    before = copy.deepcopy(network.state_dict())
    assert turn(network, torch.optim.Adam(network.parameters()), torch.rand(100, 1, 1, 2)).shape == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_variances_of_turned_latents_are_mixed() -> None:
    """Log variances of -4 and -2, turned by half a radian: weighted by squared cosine and sine."""
    network = Linear()
    with torch.no_grad():
        network.logvar.bias[2] = -2.0
    images = torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    rotation = turn(network, torch.optim.Adam(network.parameters()), images)
    share = float(rotation[0, 1]) ** 2
    assert share == pytest.approx(np.sin(0.5) ** 2, abs=0.05)
    expected = [-4 * (1 - share) - 2 * share, 0.1, -2 * (1 - share) - 4 * share]
    assert network.logvar.bias.tolist() == pytest.approx(expected, abs=1e-5)


def test_what_is_frozen_is_not_turned(drawn: ModuleType) -> None:
    network = Linear()
    network.decoder.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    assert turn(network, torch.optim.Adam(network.mean.parameters()), torch.rand(100, 1, 1, 2)).shape == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def sharing(among: np.ndarray) -> Linear:
    """A network whose three latents hold the two pixels as the rows (3, 2) say."""
    network = Linear()
    with torch.no_grad():
        network.mean.weight[:, :2] = torch.from_numpy(among).float()
        network.mean.bias.zero_()
        network.logvar.bias.fill_(-1.0)
    return network


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.3, 1.0))
def test_what_three_latents_share_is_gathered_into_two(seed: int, second: float) -> None:
    """Two pixels, spread over three latents along orthogonal directions, the second by `second` as far as the first."""
    random = np.random.default_rng(seed)
    frame = np.linalg.qr(random.normal(size=(3, 3)))[0]
    network = sharing(frame[:, :2] * [2.0, 2.0 * second])
    images = torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(seed))
    images -= images.mean(0)  # means of 0, so that nothing constant is lost with a closed latent
    before = copy.deepcopy(network)
    with torch.no_grad():  # units that pass negative numbers, too
        for one in (network, before):
            one.encoder = nn.Sequential(nn.Flatten(), one.encoder[1])
    variances = gather(network, torch.optim.Adam(network.parameters()), images).numpy()
    expected = 4 / 12 * np.array([0.0, second**2, 1.0])
    assert np.sort(variances) == pytest.approx(expected, abs=0.03)
    kept = variances > 1e-6 if second**2 > STRONG * 1.2 else variances == variances.max()
    if abs(second**2 / STRONG - 1) > 0.2:  # beyond chance
        mean, logvar = network.encode(images)
        assert not bool(mean[:, torch.from_numpy(~kept)].any() or logvar[:, torch.from_numpy(~kept)].any())
        assert mean.var(0, correction=0)[torch.from_numpy(kept)].detach().numpy() == pytest.approx(variances[kept], rel=1e-3)
        assert logvar[:, torch.from_numpy(kept)].detach().numpy() == pytest.approx(-1.0, abs=1e-5)
    if second**2 > STRONG * 1.2:  # no mean is lost, and none is decoded otherwise
        assert torch.allclose(network.decoder(mean), before.decoder(before.encode(images)[0]), atol=1e-4)
        assert np.corrcoef(mean.detach().numpy()[:, kept].T)[0, 1] == pytest.approx(0.0, abs=1e-3)


def test_the_decoder_keeps_the_weights_of_a_weak_latent_and_adam_forgets() -> None:
    network = sharing(np.array([[1.0, 0.0], [0.0, 0.3], [0.0, 0.0]]))
    images = torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    column = network.decoder[0].weight[:, 1].tolist()
    optimizer = stepped(network, images)
    gather(network, optimizer, images)
    mean, logvar = network.encode(images)
    assert mean.std(0).tolist() == pytest.approx([12**-0.5, 0.0, 0.0], abs=0.01)
    assert logvar[0].tolist() == pytest.approx([-1.0, 0.0, 0.0], abs=1e-5)
    assert network.decoder[0].weight[:, 1].tolist() == pytest.approx(column, abs=0.05)
    for layer in (network.mean, network.logvar, network.decoder[0]):
        assert not bool(optimizer.state[layer.weight]["exp_avg"].any())
    assert bool(optimizer.state[network.encoder[1].weight]["exp_avg"].any())


def test_where_no_mean_varies_or_a_layer_is_frozen_nothing_is_gathered() -> None:
    network = Linear()
    images = torch.rand(100, 1, 1, 2)
    network.mean.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    assert gather(network, torch.optim.Adam(network.logvar.parameters()), images).shape == (0,)
    network.mean.requires_grad_(True)
    with torch.no_grad():
        network.mean.weight.zero_()
        before["mean.weight"].zero_()
    assert gather(network, torch.optim.Adam(network.parameters()), images).shape == (0,)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_one_latent_is_its_own_axis() -> None:
    network = Linear()
    network.mean, network.logvar, network.decoder = nn.Linear(4, 1), nn.Linear(4, 1), nn.Sequential(nn.Linear(1, 2))
    before = copy.deepcopy(network.state_dict())
    images = torch.rand(100, 1, 1, 2)
    assert gather(network, torch.optim.Adam(network.parameters()), images).shape == (1,)
    assert all(torch.allclose(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["gather", "turn"])
def test_training_gathers_and_turns_at_the_step_asked_for(
    drawn: ModuleType, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from vaelens.training import module

    seen: list[tuple[int, tuple[int, ...]]] = []
    steps: list[int] = []
    network = drawn.model()
    network.decoder.register_forward_pre_hook(lambda decoder, args: steps.append(len(steps)) if decoder.training else None)
    monkeypatch.setattr(module, name, lambda model, optimizer, images: seen.append((len(steps), tuple(images.shape))))
    drawn.train(tmp_path, network, **{f"{name}_after": 1.5})
    assert seen == [(6, (48, 1, 16, 16))]  # before the seventh step, by the six batches that were there


@pytest.mark.parametrize(("after", "step"), [(0.01, 1), (1.0, 4), (1.9, 7), (2.99, 11)])
def test_what_is_asked_for_in_an_epoch_is_done_in_it(
    drawn: ModuleType, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, after: float, step: int
) -> None:
    """At the last step of three epochs of four, though 2.99 of them round to the end; and after a step at least."""
    from vaelens.training import module

    seen: list[int] = []
    monkeypatch.setattr(module, "gather", lambda model, optimizer, images: seen.append(len(images)))
    drawn.train(tmp_path, drawn.model(), gather_after=after)
    assert seen == [8 * step]


@pytest.mark.parametrize("name", ["gather_after", "turn_after"])
def test_a_model_of_another_build_is_refused_before_it_is_trained(drawn: ModuleType, tmp_path: Any, name: str) -> None:
    network = drawn.model()
    network.decoder = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 1, 16))
    with pytest.raises(UsageError, match="latents of DspritesVAE cannot be"):
        drawn.train(tmp_path, network, **{name: 1.0})
