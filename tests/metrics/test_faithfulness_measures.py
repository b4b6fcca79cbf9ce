"""Pointing game, energy inside, similarity, overlap, agreement and randomization: by hand and against other computations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from vaelens import LatentAttention
from vaelens.errors import UsageError
from vaelens.metrics import agreement, energy_inside, map_similarity, pointing_game, randomization, saliency_overlap
from vaelens.metrics.faithfulness import SIMILARITIES
from vaelens.models import build

NAN = float("nan")


def test_pointing_game_and_energy_by_hand() -> None:
    """A hit, a miss, two highest pixels of which one is inside, an empty map (chance), and a mask without a pixel."""
    maps = torch.tensor([[[9.0, 1], [0, 0]], [[1, 2], [0, 5]], [[4, 0], [4, 2]], [[0, 0], [0, 0]], [[1, 2], [3, 4]]])
    masks = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 1]], [[0, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    assert pointing_game(maps, masks).tolist() == pytest.approx([1, 0, 0.5, 0.25, NAN], nan_ok=True)
    assert energy_inside(maps, masks).tolist() == pytest.approx([0.9, 3 / 8, 0.6, 0.25, NAN], nan_ok=True)
    assert pointing_game(maps, masks, tolerance=1)[1] == 1
    assert pointing_game(maps, masks, tolerance=1)[4].isnan()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_both_are_shares_and_know_no_scale(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(4, 3, 3, generator=generator)
    masks = torch.rand(4, 9, 9, generator=generator) > 0.5
    for figure in (pointing_game, energy_inside):
        found = figure(maps, masks)
        assert ((found >= 0) & (found <= 1)).all()
        assert torch.allclose(figure(maps * 1e30, masks), found)
        assert torch.allclose(found + figure(maps, ~masks), torch.ones(4, dtype=torch.float64))
        assert torch.allclose(figure(torch.ones(4, 3, 3), masks), masks.double().mean((1, 2)))


def test_what_has_no_mask_or_energy_is_refused() -> None:
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    for maps, given_masks, message in (
        (torch.rand(3, 2, 2), masks, "maps are of 3 images, and there are 2"),
        (torch.rand(2, 1, 2, 2), masks, r"maps are a tensor \(B, h, w\)"),
        (torch.rand(2, 2, 2), masks.float(), "masks are a bool tensor"),
        (torch.rand(2, 2, 2) - 2, masks, "values from 0 on"),
    ):
        with pytest.raises(UsageError, match=message):
            energy_inside(maps, given_masks)
    with pytest.raises(UsageError, match="tolerance must be"):
        pointing_game(torch.rand(2, 2, 2), masks, tolerance=-1)


def test_similarities_are_numpys_and_scipys() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((3, 5, 6)).round(1), rng.random((3, 5, 6)).round(1)  # with ties
    for i in range(3):
        a, b = one[i].ravel(), other[i].ravel()
        expected = {
            "pearson": np.corrcoef(a, b)[0, 1],
            "spearman": stats.spearmanr(a, b).statistic,
            "cosine": a @ b / np.linalg.norm(a) / np.linalg.norm(b),
        }
        for kind, value in expected.items():
            assert map_similarity(torch.tensor(one), torch.tensor(other), kind)[i].item() == pytest.approx(value)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_a_map_is_like_itself_and_like_nothing_where_it_is_empty(kind: str) -> None:
    maps = torch.rand(2, 3, 7, 7)
    assert torch.allclose(map_similarity(maps, maps * 3, kind), torch.ones(2, 3, dtype=torch.float64), atol=1e-6)
    assert map_similarity(maps, torch.zeros_like(maps), kind).isnan().all()
    assert map_similarity(torch.rand(2, 1, 1), torch.rand(2, 1, 1), kind).shape == (2,)
    with pytest.raises(UsageError, match="one shape"):
        map_similarity(maps, maps[..., :3], kind)


def test_constant_maps_do_not_correlate_by_rounding() -> None:
    assert map_similarity(torch.full((3, 3), 0.1), torch.rand(3, 3), "pearson").isnan()
    with pytest.raises(UsageError, match="unknown similarity 'iou'"):
        map_similarity(torch.rand(2, 2), torch.rand(2, 2), "iou")


def test_saliency_overlap_is_as_label_free_xai_defines_it() -> None:
    """Pearson and Spearman over images and pixels pooled, cosine in each image; all in the mean over pairs of latents."""
    rng = np.random.default_rng(0)
    maps = rng.random((4, 3, 5, 5)) * rng.random((4, 3, 1, 1))
    pairs = list(itertools.combinations(range(3), 2))
    flat = maps.swapaxes(0, 1).reshape(3, -1)
    cosines = [
        (maps[n, i] * maps[n, j]).sum() / np.sqrt((maps[n, i] ** 2).sum() * (maps[n, j] ** 2).sum())
        for i, j in pairs
        for n in range(4)
    ]
    found = saliency_overlap(torch.tensor(maps))
    assert found.pearson == pytest.approx(np.mean([np.corrcoef(flat[i], flat[j])[0, 1] for i, j in pairs]))
    assert found.spearman == pytest.approx(np.mean([stats.spearmanr(flat[i], flat[j]).statistic for i, j in pairs]))
    assert found.cosine == pytest.approx(np.mean(cosines))
    assert found.empty == 0


def test_overlap_of_equal_disjoint_and_empty_maps() -> None:
    same = torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1)
    assert list(saliency_overlap(same).to_dict().values()) == pytest.approx([1, 1, 1, 0])
    assert saliency_overlap(torch.eye(4).view(1, 4, 2, 2)).cosine == 0
    some = torch.rand(3, 3, 4, 4)
    some[0, 0] = 0  # the pairs of one image are left out of the cosine
    some[:, 2] = 0  # and this latent out of all
    found = saliency_overlap(some)
    assert found.empty == pytest.approx(4 / 9)
    assert found.cosine == pytest.approx(map_similarity(some[1:, 0], some[1:, 1], "cosine").mean().item())
    assert saliency_overlap(torch.zeros(2, 2, 3, 3)).pearson != 0  # it is NaN
    with pytest.raises(UsageError, match="2 or more"):
        saliency_overlap(torch.rand(2, 1, 3, 3))


def test_agreement_finds_a_permuted_and_flipped_model_again() -> None:
    """The second model is the first with its latents in another order, one of them turned round, and one that is new."""
    codes, maps, lowering = torch.randn(50, 3), torch.rand(6, 3, 5, 5), torch.rand(6, 3, 5, 5)
    others = torch.stack([codes[:, 2], -codes[:, 0], torch.randn(50), 2 * codes[:, 1] + 1], 1)
    noise = torch.rand(6, 5, 5)
    theirs = torch.stack([maps[:, 2], lowering[:, 0], noise, maps[:, 1]], 1)
    down = torch.stack([lowering[:, 2], maps[:, 0], noise, lowering[:, 1]], 1)
    found = agreement(codes, others, maps, theirs, down)
    assert sorted(found.pairs) == [(0, 1), (1, 3), (2, 0)]
    assert dict(zip(found.pairs, found.correlation, strict=True)) == pytest.approx({(0, 1): -1, (1, 3): 1, (2, 0): 1})
    assert (found.unmatched, found.unmatched_other) == ((), (2,))
    assert (found.pearson, found.spearman, found.cosine) == pytest.approx((1, 1, 1))
    assert found.by_chance["pearson"] < 0.5
    unsigned = agreement(codes, others, maps, theirs)  # as if maps had no sign: the flipped pair disagrees
    assert unsigned.pearson < 0.9
    named = found.named([7, 8, 9], [0, 2, 4, 6])
    assert sorted(named.pairs) == [(7, 2), (8, 6), (9, 0)]
    assert named.unmatched_other == (4,)


def test_unrelated_models_are_left_unmatched() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, others = torch.randn(400, 3, generator=generator), torch.randn(400, 2, generator=generator)
    others[:, 1] = 4  # one that never changes
    found = agreement(codes, others, torch.rand(4, 3, 2, 2), torch.rand(4, 2, 2, 2))
    assert found.pairs == ()
    assert (found.unmatched, found.unmatched_other) == ((0, 1, 2), (0, 1))
    assert found.pearson != found.pearson
    assert found.to_dict()["pairs"] == []
    for change in (
        *({"other_codes": others[:5]}, {"maps": torch.rand(4, 2, 2, 2)}, {"other_maps": torch.rand(4, 2, 3, 3)}),
        *({"least": least} for least in (1.5, -0.1, math.nan, "0.5", True)),
    ):
        given = {"codes": codes, "other_codes": others, "maps": torch.rand(4, 3, 2, 2), "other_maps": torch.rand(4, 2, 2, 2)}
        with pytest.raises(UsageError):
            agreement(**{**given, **change})


def explain(model: nn.Module, images: Tensor) -> Tensor:
    return LatentAttention(model, variant="expvae")(images).per_latent


def test_randomization_goes_from_the_head_back_and_leaves_the_model_as_it_is() -> None:
    model = build("dsprites", latent_dim=3).eval().requires_grad_(False)
    images = torch.rand(4, 1, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = randomization(model, images, explain)
    assert found.layers == (
        "mean",
        "encoder.conv5",
        "encoder.conv4",
        "encoder.conv3",
        "encoder.conv2",
        "encoder.conv1",
    )  # and not the log variance
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(p.requires_grad or p._forward_hooks for p in model.modules() if hasattr(p, "requires_grad"))
    assert all(not module._forward_hooks for module in model.modules())
    assert len(found.spearman) == len(found.ssim) == len(found.left_out) == 6
    assert max(found.spearman) < 0.99
    again = randomization(model, images, explain)
    assert again.spearman == found.spearman
    assert randomization(model, images, explain, seed=1).spearman != found.spearman


def test_maps_that_know_no_weights_pass_through_randomization_unchanged() -> None:
    """What an edge detector does, and what a map must not do."""
    model = build("dsprites", latent_dim=2).eval()
    images = torch.rand(3, 1, 64, 64)
    found = randomization(model, images, lambda _, given: given.expand(-1, 2, -1, -1))
    assert (*found.pearson, *found.spearman, *found.ssim) == pytest.approx((1,) * 18)
    assert found.left_out == (0,) * 6
    assert found.by_chance["pearson"] < 0.5
    assert randomization(model, images[:1], explain).by_chance["pearson"] != 0  # NaN


def test_empty_maps_are_left_out_of_randomization_and_told() -> None:
    maps = torch.rand(4, 2, 5, 5)
    maps[:, 1] = 0
    model = build("dsprites", latent_dim=2).eval()
    found = randomization(model, torch.rand(4, 1, 64, 64), lambda *_: maps)
    assert found.left_out == (0.5,) * 6
    assert found.pearson == pytest.approx((1,) * 6)
    none = randomization(model, torch.rand(2, 1, 64, 64), lambda *_: torch.zeros(2, 2, 3, 3))
    assert none.left_out == (1,) * 6
    assert np.isnan(none.pearson).all()
    assert set(none.to_dict()) == {"layers", "pearson", "spearman", "ssim", "left_out", "by_chance"}


def test_a_model_without_weights_is_refused() -> None:
    class Nothing(nn.Module):
        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images.flatten(1)[:, :2], images.flatten(1)[:, :2]

    with pytest.raises(UsageError, match="Identity has no encode"):
        randomization(torch.nn.Identity(), torch.rand(2, 1, 4, 4), lambda _, images: images)
    with pytest.raises(UsageError, match="depends on no parameters"):
        randomization(Nothing(), torch.rand(2, 1, 4, 4), lambda _, images: images)
