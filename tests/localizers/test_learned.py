"""The head that learns from synthetic defects: it finds a planted defect, keeps what it learned, and is the same each time."""

from __future__ import annotations

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.localizers.examples import Drawing
from vaelens.localizers.head import Head, train_head
from vaelens.localizers.learned import LearnedLocalizer
from vaelens.localizers.matching import MatchingLocalizer
from vaelens.localizers.signals import Signals
from vaelens.models import build


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("compact", 4, (1, 32, 32)).eval()


@pytest.fixture(scope="module")
def normal() -> torch.Tensor:
    """Stripes of differing phase with a little noise, (40, 1, 32, 32), uint8."""
    generator = torch.Generator().manual_seed(1)
    phase = torch.rand(40, 1, 1, 1, generator=generator) * 6.28
    stripes = 0.5 + 0.2 * torch.sin(torch.arange(32)[None, None, None, :] * 0.8 + phase)
    noise = 0.02 * torch.randn(40, 1, 32, 32, generator=generator)
    return ((stripes + noise).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def learned(model: torch.nn.Module, normal: torch.Tensor) -> LearnedLocalizer:
    return LearnedLocalizer(model, pool=96, steps=60).fit(normal)


def test_a_planted_defect_stands_out(learned: LearnedLocalizer, normal: torch.Tensor) -> None:
    images = normal[:4].float() / 255
    images[:, :, 10:16, 18:24] = 0.95
    maps = learned.anomaly_map(images)
    assert maps.shape == (4, 32, 32)
    assert bool((maps > 0).all() and maps.isfinite().all())
    inside, outside = maps[:, 11:15, 19:23], torch.cat([maps[:, :6].flatten(1), maps[:, 20:].flatten(1)], 1)
    assert bool((inside.flatten(1).amin(1) > outside.quantile(0.95, dim=1)).all())


def test_fitting_tells_how_far_it_is(model: torch.nn.Module, normal: torch.Tensor) -> None:
    told: list[tuple[int, int]] = []
    localizer = LearnedLocalizer(model, pool=8, steps=5)
    localizer.progress = lambda done, total: told.append((done, total))
    localizer.fit(normal)
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((0, 1000), (1000, 1000))
    assert len(set(told)) >= 6


def test_what_is_kept_gives_the_same_maps(learned: LearnedLocalizer, model: torch.nn.Module, normal: torch.Tensor) -> None:
    images = normal[:3].float() / 255
    again = LearnedLocalizer(model).restore(normal, learned.state())
    torch.testing.assert_close(again.anomaly_map(images), learned.anomaly_map(images))
    assert all(value.dtype in (torch.float32, torch.int64) for value in learned.state().values())


def test_a_state_of_other_images_is_refused(learned: LearnedLocalizer, model: torch.nn.Module, normal: torch.Tensor) -> None:
    state = learned.state()
    with pytest.raises(UsageError, match="not one of these images"):
        LearnedLocalizer(model).restore(normal, {**state, "scale": state["scale"][:-1]})
    with pytest.raises(UsageError, match="not that of its head"):
        LearnedLocalizer(model).restore(normal, {name: state[name] for name in ("scale", "unit", "combined")})
    with pytest.raises(UsageError, match="not whole, or of an earlier version"):
        LearnedLocalizer(model).restore(normal, {name: value for name, value in state.items() if name != "combined"})


def test_the_maps_do_not_depend_on_the_batch(learned: LearnedLocalizer, normal: torch.Tensor) -> None:
    images = normal[:5].float().roll(1, dims=2) / 255  # that it has not met: distances of 0 come from cancellation
    one_by_one = torch.cat([learned.anomaly_map(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, learned.anomaly_map(images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [32, 31])
def test_the_head_reads_signals_and_their_mirror_image_alike(learned: LearnedLocalizer, width: int) -> None:
    signals = torch.rand(2, 4, 30, width, generator=torch.Generator().manual_seed(3))
    straight, mirrored = (learned._both(signals, signals[:, -1])[0] for signals in (signals, signals.flip(-1)))
    assert float(straight.std()) > 0.01  # it says something
    torch.testing.assert_close(mirrored.flip(-1), straight, rtol=1e-4, atol=1e-5)


def test_training_depends_on_the_seed_alone_and_leaves_the_random_state() -> None:
    signals = torch.rand(8, 9, 17, 16)
    masks = signals[:, 0] > 0.5
    before = torch.get_rng_state()
    one, same, other = (train_head(signals, masks, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one(signals).shape == (8, 17, 16)
    assert torch.equal(one(signals), same(signals))
    assert not torch.equal(one(signals), other(signals))


def test_a_head_learns_what_one_signal_says() -> None:
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn(64, 9, 16, 16, generator=generator)
    masks = torch.nn.functional.avg_pool2d(signals[:, 3:4], 5, stride=1, padding=2)[:, 0] > 0.25
    found = train_head(signals, masks, 150, seed=0)(signals) > 0
    overlap = (found & masks).sum() / (found | masks).sum()
    assert overlap > 0.5
    assert isinstance(Head(3), torch.nn.Module)


def test_signals_by_hand(model: torch.nn.Module, normal: torch.Tensor) -> None:
    """Images that are among the normal ones: no neighbour differs least, and no patch is farther than itself."""
    images = normal[:3].float() / 255
    with torch.no_grad():
        mean, logvar = model.encode(images)  # type: ignore[operator]
        every = model.encode(normal.float() / 255)[0]  # type: ignore[operator]
    signals, posterior = Signals(model).fit(normal)(images)
    assert signals.shape == (3, 4, 32, 32) == (3, Signals(model).count(1), 32, 32)
    torch.testing.assert_close(posterior, (mean, logvar))
    low, middle, high = (images.flatten(1).kthvalue(round(share * 1024), dim=1).values for share in (0.1, 0.5, 0.9))
    spread = ((high - low) / 2.56)[:, None, None]
    torch.testing.assert_close(signals[:, 0], (images[:, 0] - middle[:, None, None]) / spread)
    for i in range(3):
        five = (every - mean[i]).square().sum(1).argsort()[:5]
        usual = normal[five, 0].float().mean(0) / 255
        torch.testing.assert_close(signals[i, 1], (images[i, 0] - usual) / spread[i], rtol=1e-4, atol=1e-5)
    assert float(signals[:, 2].abs().max()) == 0  # the least difference from a neighbour
    fresh = Signals(model).fit(normal[3:])(images)[0]
    assert float(signals[:, 3].abs().max()) < 0.1 * float(fresh[:, 3].mean())  # the matched deviation


def test_for_a_fixed_camera_it_is_the_mean_image_that_counts(model: torch.nn.Module, normal: torch.Tensor) -> None:
    images = normal[:3].float() / 255
    signals = Signals(model, fixed_camera=True).fit(normal)(images)[0]
    assert signals.shape == (3, 3, 32, 32)
    away = images[:, 0] - normal[:, 0].float().mean(0) / 255
    away, found = (one - one.mean((1, 2), keepdim=True) for one in (away, signals[:, 1]))
    ratio = (away * found).sum((1, 2)) / away.square().sum((1, 2))
    torch.testing.assert_close(found, ratio[:, None, None] * away, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_deviation_beside_the_head_is_of_the_nearest_images_unless_the_camera_is_fixed(
    model: torch.nn.Module, normal: torch.Tensor, fixed: bool
) -> None:
    images = normal[:3].float().roll(1, dims=2) / 255
    compared = Signals(model, fixed_camera=fixed).fit(normal)
    expected = MatchingLocalizer(model, neighbours=None if fixed else 20).fit(normal).anomaly_map(images)
    torch.testing.assert_close(compared.matched(images, compared(images)[0]), expected)


def test_what_the_head_is_judged_by_is_new_to_it_and_changes_nothing_that_it_learns_from(
    model: torch.nn.Module, normal: torch.Tensor
) -> None:
    drawing = Drawing(lambda: Signals(model), prior=None, frames=1, brightness=False)
    (few, judges), (same, more) = (drawing.draw(normal, 12, count, 0, lambda share: None) for count in (4, 12))
    assert torch.equal(few.signals, same.signals)
    assert torch.equal(few.masks, same.masks)
    assert (len(few.masks), len(judges.masks), len(more.masks), len(more.matched)) == (12, 4, 12, 12)
    of_both = [part.masks[part.masks.flatten(1).any(1)] for part in (few, more)]
    assert min(map(len, of_both)) > 3
    assert not any(torch.equal(one, other) for one in of_both[0] for other in of_both[1])


def test_examples_that_all_have_a_defect_are_refused_before_the_head_is_trained(
    model: torch.nn.Module, normal: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked(images: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor]:
        return images, torch.ones(len(images), *images.shape[2:], dtype=torch.bool)

    monkeypatch.setattr("vaelens.localizers.examples.with_defects", marked)
    monkeypatch.setattr("vaelens.localizers.learned.train_head", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(UsageError, match="drew a defect on each of 16 images; raise pool"):
        LearnedLocalizer(model, pool=8, steps=2).fit(normal)


def test_what_cannot_be_is_refused(model: torch.nn.Module, normal: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="at least 4 normal images, got 3"):
        LearnedLocalizer(model).fit(normal[:3])
    with pytest.raises(UsageError, match="has not been fitted"):
        LearnedLocalizer(model).localize(normal[:3].float() / 255)
