"""Deletion and insertion against values worked out by hand on linear encoders, and what must change nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.metrics import deletion, insertion, paired_difference
from vaelens.metrics.faithfulness import BASELINES, blurred, centre_map, nearest_images
from vaelens.metrics.faithfulness.ranking import ranks_of

HALF = (1, 1, 2, 2)


def linear(weights: Tensor):
    """An encoder z = W x with weights (D, P), as a posterior."""
    return lambda images: (images.flatten(1) @ weights.T.to(images.dtype), torch.zeros(len(images), len(weights)))


def test_both_curves_of_a_linear_encoder_by_hand() -> None:
    """z = 4a - 2b + c + 0d of ones, replaced by zeros in the order b, a, c, d: z goes 3, 5, 1, 0, 0, so away from 3 by
    0, 2, 2, 3, 3. Put back in that order it goes 0, -2, 2, 3, 3, so by 3, 5, 1, 0, 0."""
    encode = linear(torch.tensor([[4.0, -2.0, 1.0, 0.0]]))
    images, maps = torch.ones(HALF), torch.tensor([[[[3.0, 4.0], [2.0, 1.0]]]])
    options = {"replacement": torch.zeros(HALF), "steps": 4}
    taken, put = deletion(encode, images, maps, **options), insertion(encode, images, maps, **options)
    assert taken.values.tolist() == [[[0, 2, 2, 3, 3]]]
    assert put.values.tolist() == [[[3, 5, 1, 0, 0]]]
    assert taken.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert taken.area.item() == pytest.approx((0 + 2 + 2 + 3 + 3 - 1.5) / 4)
    assert put.area.item() == pytest.approx((1.5 + 5 + 1 + 0 + 0) / 4)
    assert taken.effect.item() == put.effect.item() == 3
    assert taken.share.item() == pytest.approx(8.5 / 4 / 3)
    assert taken.mean.tolist() == pytest.approx([0, 2 / 3, 2 / 3, 1, 1])


def test_no_order_is_above_the_perfect_map_and_none_below_its_reverse() -> None:
    """Each of the 24 orders of four pixels, where all contributions pull one way; their mean is a straight line."""
    weights = torch.tensor([[0.5, 4.0, 1.0, 2.0]])
    images, replacement = torch.ones(HALF), torch.full(HALF, 0.25)
    options = {"replacement": replacement, "steps": 4}
    areas = {
        kind: [
            curve(linear(weights), images, torch.tensor(order, dtype=torch.float).view(HALF), **options).area.item()
            for order in itertools.permutations(range(4))
        ]
        for kind, curve in (("deletion", deletion), ("insertion", insertion))
    }
    perfect = (weights.view(HALF) * (images - replacement)).abs()
    best = deletion(linear(weights), images, perfect, **options), insertion(linear(weights), images, perfect, **options)
    worst = deletion(linear(weights), images, -perfect, **options), insertion(linear(weights), images, -perfect, **options)
    assert best[0].area.item() == pytest.approx(max(areas["deletion"]))
    assert worst[0].area.item() == pytest.approx(min(areas["deletion"]))
    assert best[1].area.item() == pytest.approx(min(areas["insertion"]))
    assert worst[1].area.item() == pytest.approx(max(areas["insertion"]))
    assert sum(areas["deletion"]) / 24 == pytest.approx(7.5 * 0.75 / 2)
    assert best[0].gain(worst[0]).mean == pytest.approx(best[1].gain(worst[1]).mean)
    assert best[0].gain(worst[0]).mean > 0


def test_random_orders_come_to_a_straight_line_and_a_random_map_to_no_gain() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(3, 64, generator=generator)
    images = torch.rand(40, 1, 8, 8, generator=generator) + 1
    options = {"replacement": images - 1, "steps": 8}
    baseline = deletion(linear(weights), images, "random", repeats=16, **options)
    assert baseline.share.mean().item() == pytest.approx(0.5, abs=0.005)
    maps = torch.rand(40, 3, 8, 8, generator=generator)
    gain = deletion(linear(weights), images, maps, **options).gain(baseline)
    assert abs(gain.mean) < 0.02
    assert gain.images == 40
    exact = weights.view(1, 3, 8, 8).expand(40, -1, -1, -1)
    assert deletion(linear(weights), images, exact, **options).gain(baseline).verdict == "better"
    assert deletion(linear(weights), images, -exact, **options).gain(baseline).verdict == "worse"
    assert (
        insertion(linear(weights), images, exact, **options)
        .gain(insertion(linear(weights), images, "random", **options))
        .verdict
        == "better"
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 3, 7, 64]), st.sampled_from([1, 3, 9, 16]))
def test_scale_of_the_map_order_of_the_batch_and_size_of_batches_change_nothing(seed: int, at_once: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    encode = linear(torch.randn(4, 16, generator=generator, dtype=torch.float64))  # in which rounding decides nothing
    images = torch.rand(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    replacement = torch.rand(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    maps = torch.rand(5, 2, 4, 4, generator=generator)
    options = {"replacement": replacement, "latents": [3, 1], "steps": steps}
    for curve in (deletion, insertion):
        found = curve(encode, images, maps, **options).values
        assert (found >= 0).all()
        assert found.shape == (5, 2, min(steps, 16) + 1)
        squeezed = curve(encode, images, maps.double().pow(3) * 7 + 2, batch_size=at_once, **options)
        assert torch.allclose(squeezed.values, found, rtol=0, atol=1e-12)
        mixed = torch.randperm(5, generator=generator)
        options["replacement"] = replacement[mixed]
        turned = curve(encode, images[mixed], maps[mixed], **options)
        assert torch.allclose(turned.values, found[mixed], rtol=0, atol=1e-12)
        options["replacement"] = replacement


def test_each_latent_is_followed_by_its_own_map() -> None:
    """Two latents that see one pixel each, with maps of the other's pixel: of their own the first step does it all."""
    encode = linear(torch.eye(4)[:2])
    images = torch.ones(1, 1, 2, 2)
    own = torch.eye(4)[:2].view(1, 2, 2, 2)
    options = {"replacement": torch.zeros(1, 1, 2, 2), "steps": 4}
    assert deletion(encode, images, own, **options).values.tolist() == [[[0, 1, 1, 1, 1]] * 2]
    swapped = deletion(encode, images, own.flip(1), latents=[1, 0], **options)
    assert swapped.values.tolist() == [[[0, 1, 1, 1, 1]] * 2]
    assert deletion(encode, images, own.flip(1), **options).values[:, :, 1].tolist() == [[0, 0]]


def test_ties_are_broken_at_random_and_not_from_the_top_down() -> None:
    flat = torch.zeros(2000, 9)
    flat[:, 4] = 1
    ranks = ranks_of(flat, torch.Generator().manual_seed(0))
    assert (ranks[:, 4] == 0).all()
    assert (ranks.sort(1).values == torch.arange(9)).all()
    others = ranks[:, [0, 1, 2, 3, 5, 6, 7, 8]].double().mean(0)
    assert torch.allclose(others, torch.full((8,), 4.5, dtype=torch.float64), atol=0.2)
    again = ranks_of(flat, torch.Generator().manual_seed(0))
    assert torch.equal(ranks, again)
    assert not torch.equal(ranks, ranks_of(flat, torch.Generator().manual_seed(1)))


def test_an_empty_map_counts_nowhere_and_its_share_is_told() -> None:
    encode = linear(torch.ones(2, 4))
    images, options = torch.ones(3, 1, 2, 2), {"replacement": torch.zeros(3, 1, 2, 2), "steps": 2}
    maps = torch.rand(3, 2, 2, 2)
    maps[0] = 0  # neither of the first image's
    maps[1, 0] = 0.3
    found = deletion(encode, images, maps, **options)
    assert found.drawn.tolist() == [[False, False], [False, True], [True, True]]
    assert found.empty == pytest.approx(0.5)
    assert found.share.isnan().tolist() == [[True, True], [True, False], [False, False]]
    assert found.gain(deletion(encode, images, "random", **options)).images == 2
    nothing = deletion(encode, images, torch.zeros(3, 2, 2, 2), **options)
    gain = nothing.gain(deletion(encode, images, "centre", **options))
    assert (gain.images, gain.verdict) == (0, "too few images")
    assert gain.mean != gain.mean


def test_a_latent_that_replacing_leaves_where_it_is_counts_nowhere() -> None:
    encode = linear(torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]]))
    found = deletion(encode, torch.ones(3, 1, 2, 2), torch.rand(3, 2, 2, 2), replacement=torch.zeros(3, 1, 2, 2))
    assert found.share[:, 1].isnan().all()
    assert not found.share[:, 0].isnan().any()
    assert found.mean[-1] == 1


def test_baselines_and_all_channels_at_once() -> None:
    """The centre's four pixels go first; |image - replacement| is over all channels, which are replaced together."""
    weights = torch.zeros(1, 2 * 16)
    weights[0, [5, 6, 9, 10, 21, 22, 25, 26]] = 1
    images, replacement = torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    replacement[0, 1, 0, 0] = -3
    replacement[0, :, 1:3, 1:3] = 0
    taken = {name: deletion(linear(weights), images, name, replacement=replacement, steps=4) for name in BASELINES}
    assert taken["centre"].values.tolist() == [[[0, 8, 8, 8, 8]]]
    assert taken["difference"].values[0, 0, 1].item() == 6  # the corner was the first of four
    assert taken["random"].values.shape == (1, 1, 5)
    grid = centre_map((3, 5))
    assert grid[1, 2] == 1 == grid.max()
    assert torch.allclose(grid, grid.flip(0, 1))


def test_more_steps_than_pixels_and_a_single_step() -> None:
    encode = linear(torch.ones(1, 4))
    options = {"replacement": torch.zeros(1, 1, 2, 2)}
    many = deletion(encode, torch.ones(1, 1, 2, 2), torch.rand(1, 1, 2, 2), steps=50, **options)
    assert many.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    one = insertion(encode, torch.ones(1, 1, 2, 2), torch.rand(1, 1, 2, 2), steps=1, **options)
    assert one.values.tolist() == [[[4, 0]]]


def test_images_are_blurred_where_nothing_else_replaces_them() -> None:
    images = torch.rand(2, 1, 8, 8)
    encode, maps = linear(torch.rand(1, 64)), torch.rand(2, 1, 4, 4)
    assert torch.equal(
        deletion(encode, images, maps).values, deletion(encode, images, maps, replacement=blurred(images)).values
    )
    constant = torch.full((1, 3, 5, 9), 0.4)
    assert torch.allclose(blurred(constant), constant, atol=1e-6)
    assert torch.allclose(blurred(images, 1000.0).std((2, 3)), torch.zeros(2, 1), atol=0.05)
    assert blurred(torch.rand(1, 1, 1, 1)).shape == (1, 1, 1, 1)
    assert blurred(images.half()).dtype == torch.half


def test_the_nearest_image_is_another() -> None:
    among = torch.tensor([0.0, 0.4, 0.9, 0.4]).view(4, 1, 1, 1)
    encode = linear(torch.ones(1, 1))
    assert nearest_images(encode, torch.tensor([[[[0.4]]], [[[0.8]]]]), among).flatten().tolist() == pytest.approx([0.0, 0.9])
    with pytest.raises(UsageError, match="image 0 has only copies of itself"):
        nearest_images(encode, among[:1], among[:1])


def test_half_precision_bfloat_and_noncontiguous_images() -> None:
    encode = linear(torch.rand(2, 16))
    images = torch.rand(3, 4, 4, 1).permute(0, 3, 1, 2)
    for dtype in (torch.bfloat16, torch.float64):
        found = deletion(encode, images.to(dtype), torch.rand(3, 2, 2, 2).to(dtype), steps=4)
        assert found.values.dtype == torch.float64


def test_interval_is_students() -> None:
    values = torch.tensor([0.1, 0.4, -0.2, 0.3, 0.6, float("nan")])
    found = paired_difference(values)
    low, high = stats.t.interval(0.95, 4, loc=values[:5].mean().item(), scale=stats.sem(values[:5].double().numpy()))
    assert (found.low, found.high, found.images) == (pytest.approx(low), pytest.approx(high), 5)
    assert found.verdict == "no better"
    assert paired_difference(torch.full((4,), 0.2)).verdict == "better"
    assert paired_difference(torch.zeros(4)).verdict == "no better"
    assert paired_difference(torch.tensor([0.3])).verdict == "too few images"
    wide = paired_difference(values, least_spread=2.0)
    assert (wide.mean, wide.high - wide.mean) == (found.mean, pytest.approx(stats.t.ppf(0.975, 4) * 2 / 5**0.5))
    assert paired_difference(values, least_spread=0.1) == found
    assert paired_difference(torch.tensor([0.3])).to_dict()["mean"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.rand(3, 2, 2, 2)}, "maps are of 3 images, and there are 2"),
        ({"maps": torch.rand(2, 2, 2)}, r"maps are a tensor \(B, K, h, w\)"),
        ({"maps": torch.rand(2, 1, 2, 2)}, "1 maps of each image need as many latents, got 2"),
        ({"maps": torch.full((2, 2, 2, 2), float("nan"))}, "maps must be finite"),
        ({"maps": "edges"}, "unknown baseline 'edges'; there are: random, centre, difference"),
        ({"latents": [0, 2]}, r"latents must be from 0 to 1, got \[0, 2\]"),
        ({"latents": [0.5, 1.0]}, "latents are indices"),
        ({"replacement": torch.rand(2, 1, 3, 2)}, "replacements are"),
        ({"steps": 0}, "steps must be a whole number from 1 on"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
        ({"seed": 10**20}, "seed must be at most"),
        ({"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}, "floating-point numbers"),
        ({"images": torch.rand(0, 1, 2, 2)}, "at least one"),
        ({"images": torch.full((2, 1, 2, 2), float("inf"))}, "images must be finite"),
        ({"encode": lambda images: images}, r"encode must return values \(B, D\)"),
        ({"encode": lambda images: torch.full((len(images), 2), torch.nan)}, "no finite number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    given = {"encode": linear(torch.rand(2, 4)), "images": torch.rand(2, 1, 2, 2), "maps": torch.rand(2, 2, 2, 2), **change}
    with pytest.raises(UsageError, match=message):
        deletion(given.pop("encode"), given.pop("images"), given.pop("maps"), **given)


def test_curves_of_other_things_are_not_compared() -> None:
    encode, images = linear(torch.rand(1, 4)), torch.rand(2, 1, 2, 2)
    taken = deletion(encode, images, "random")
    with pytest.raises(UsageError, match="same kind"):
        taken.gain(insertion(encode, images, "random"))
    with pytest.raises(UsageError, match="replaced by the same image"):
        taken.gain(deletion(encode, images, "random", replacement=images + 1))
