"""The attention disentanglement loss (eq. 5) against sums worked by hand, plain loops, and double backward written out."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaelens.attention import LatentAttention, LatentMaps
from vaelens.data.sprites import render
from vaelens.errors import UsageError
from vaelens.models import ConvVAE, build
from vaelens.objectives import attention_disentanglement, elbo, empty_maps, reparameterize
from vaelens.objectives.attention_disentanglement import PAIRS

# Two images of three latents. In the first
#   pair 0, 1: min is 1 + 0 + 0 + 1 = 2, both sum to 4: 2 * 2 / (4 + 4) = 0.5; latent 2 shares no pixel with either: 0
# and in the second
#   pair 0, 1: min 1, sums 2 and 2: 2 * 1 / 4 = 0.5;  pair 0, 2: 0;  pair 1, 2: min 1, sums 2 and 3: 2 * 1 / 5 = 0.4
BY_HAND = torch.tensor(
    [
        [[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [4.0, 0.0]]],
        [[[2.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], [[0.0, 3.0], [0.0, 0.0]]],
    ]
)


def eq5(one: Tensor, other: Tensor) -> float:
    """One pair of maps (h, w), pixel by pixel."""
    a, b = one.double().flatten().tolist(), other.double().flatten().tolist()
    both = sum(a) + sum(b)
    return 2 * sum(min(x, y) for x, y in zip(a, b, strict=True)) / both if both else 0.0


def looped(maps: Tensor) -> float:
    """The mean over images and all pairs."""
    each = [eq5(image[i], image[j]) for image in maps for i, j in itertools.combinations(range(len(image)), 2)]
    return sum(each) / len(each)


def as_latent_maps(maps: Tensor, mean: Tensor, latents: Tensor | None = None) -> LatentMaps:
    """Maps (B, K, h, w) as those of a model with posterior means (B, D)."""
    return LatentMaps(
        signed=maps,
        weights=torch.zeros(*maps.shape[:2], 1),
        mean=mean,
        logvar=torch.zeros_like(mean),
        latents=torch.arange(maps.shape[1]) if latents is None else latents,
        layer="trunk",
        method="vjp",
    )


def sprites(count: int) -> Tensor:
    """Real sprites (count, 1, 64, 64) of different shapes, sizes, orientations and places."""
    classes = [[i % 3, 5 - i % 3, 7 * i % 40, 9 * i % 32, (5 + 11 * i) % 32] for i in range(count)]
    return torch.from_numpy(render(torch.tensor(classes)))[:, None].float()


def test_equal_maps_overlap_wholly_and_disjoint_ones_not_at_all() -> None:
    same = torch.rand(3, 1, 4, 5).expand(-1, 4, -1, -1)
    assert float(attention_disentanglement(same)) == pytest.approx(1, abs=1e-6)
    apart = torch.zeros(2, 3, 2, 3)
    for latent in range(3):
        apart[:, latent, :, latent] = 1.0 + latent
    assert float(attention_disentanglement(apart)) == 0


def test_a_mix_worked_by_hand() -> None:
    assert float(attention_disentanglement(BY_HAND)) == pytest.approx((0.5 + 0 + 0 + 0.5 + 0 + 0.4) / 6)
    assert looped(BY_HAND) == pytest.approx(1.4 / 6)
    assert float(attention_disentanglement(BY_HAND[:1, :2])) == pytest.approx(0.5)


def test_its_gradient_worked_by_hand() -> None:
    # a = (1, 3), b = (2, 1): L = 2 min / sum = 2 * 2 / 7. Each min follows the smaller: dL/da = 2 (1, 0) / 7 - 4 / 49.
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 1.0]]]], requires_grad=True)
    attention_disentanglement(maps).backward()
    expected = torch.tensor([[[[2 / 7, 0.0]], [[0.0, 2 / 7]]]]) - 4 / 49
    torch.testing.assert_close(maps.grad, expected)


def test_maps_that_are_zero_everywhere_add_nothing_and_have_no_gradient() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, 0] = maps[0, 1] = 1.0  # the only pair that there is: 1 of six
    maps.requires_grad_()
    loss = attention_disentanglement(maps)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 6)
    assert maps.grad is not None
    assert bool(maps.grad.isfinite().all())
    assert not maps.grad[1].any()


@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-38, 1e-30, 1e30])
def test_the_gradient_is_a_number_however_faint_the_maps_are(value: float) -> None:
    maps = torch.full((1, 2, 2, 2), value)
    maps[0, 1] *= 2
    maps.requires_grad_()
    attention_disentanglement(maps).backward()
    assert maps.grad is not None
    assert bool(maps.grad.isfinite().all())


def test_what_is_no_number_stays_none() -> None:
    maps = torch.ones(1, 2, 2, 2)
    maps[0, 1, 0, 0] = torch.nan
    assert bool(attention_disentanglement(maps).isnan())


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_all_pairs_are_the_mean_of_a_loop_whatever_the_order_and_scale(
    seed: int, images: int, latents: int, height: int, width: int, factor: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, latents, height, width, generator=generator).relu()  # with zeros, and maps of nothing else
    found = float(attention_disentanglement(maps))
    assert 0 <= found <= 1 + 1e-6
    assert found == pytest.approx(looped(maps), abs=1e-6)
    assert float(attention_disentanglement(maps.flip(1))) == pytest.approx(found, abs=1e-6)
    assert float(attention_disentanglement(maps.transpose(2, 3))) == pytest.approx(found, abs=1e-6)
    assert float(attention_disentanglement(factor * maps)) == pytest.approx(found, abs=1e-5)


def test_maps_of_a_model_and_bare_tensors_are_the_same() -> None:
    model = build("dsprites", 4, (1, 32, 32))
    with torch.no_grad():
        maps = LatentAttention(model)(sprites(3)[:, :, 8:40, 8:40])
    assert maps.per_latent.any()
    for pairs in ("all", "random"):
        found = [attention_disentanglement(each, pairs, torch.Generator().manual_seed(3)) for each in (maps, maps.per_latent)]
        assert torch.equal(*found)
    assert float(attention_disentanglement(maps)) == pytest.approx(looped(maps.per_latent), abs=1e-6)
    bigger = maps.resize((9, 9))
    assert float(attention_disentanglement(bigger)) == pytest.approx(looped(bigger.per_latent), abs=1e-6)


def test_a_random_pair_is_one_for_all_images_and_each_pair_comes_up() -> None:
    maps = torch.rand(3, 4, 3, 3)
    of_pair = {(i, j): sum(eq5(image[i], image[j]) for image in maps) / 3 for i, j in itertools.combinations(range(4), 2)}
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(120):
        found = float(attention_disentanglement(maps, "random", generator))
        seen += [pair for pair, value in of_pair.items() if value == pytest.approx(found, abs=1e-6)]
    assert len(seen) == 120
    counts = {pair: seen.count(pair) for pair in of_pair}
    assert min(counts.values()) >= 8  # of 20 expected: fewer come up once in 1,000 times


def test_the_generator_decides_the_pair() -> None:
    maps = torch.rand(2, 6, 3, 3)

    def drawn(generator: torch.Generator | None) -> list[float]:
        return [float(attention_disentanglement(maps, "random", generator)) for _ in range(8)]

    first = drawn(torch.Generator().manual_seed(7))
    before = torch.random.get_rng_state()
    assert drawn(torch.Generator().manual_seed(7)) == first
    assert torch.equal(torch.random.get_rng_state(), before)
    assert drawn(torch.Generator().manual_seed(8)) != first
    torch.manual_seed(5)
    of_global = drawn(None)
    torch.manual_seed(5)
    assert drawn(None) == of_global
    attention_disentanglement(maps, "all", generator := torch.Generator().manual_seed(1))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_top2_takes_the_two_strongest_latents_of_each_image() -> None:
    # |mean|: in the first image latents 2 and 0 lead, in the second 1 and 2.
    mean = torch.tensor([[2.0, 0.5, -3.0], [0.1, -4.0, 1.0]])
    maps = as_latent_maps(BY_HAND, mean)
    expected = (eq5(BY_HAND[0, 0], BY_HAND[0, 2]) + eq5(BY_HAND[1, 1], BY_HAND[1, 2])) / 2
    assert expected == pytest.approx(0.2)
    assert float(attention_disentanglement(maps, "top2")) == pytest.approx(expected)


@pytest.mark.parametrize(
    "latents",
    [None, [1, 2, 3, 4, 0], [4, 3, 2, 1, 0], [3, 1], [0, 2, 4], [2, 2, 0, 1, 3], "top2", "top3", "top5"],
    ids=str,
)
def test_top2_whichever_latents_are_explained(latents: Any) -> None:
    model = build("dsprites", 5, (1, 32, 32))
    with torch.no_grad():
        for head in (model.mean, model.logvar):
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            head.bias.normal_()
        maps = LatentAttention(model, latents=latents)(sprites(6)[:, :, 8:40, 8:40])
    each = []
    rows = maps.latents.expand(6, -1)
    for image in range(6):
        strength = maps.mean[image].abs()[rows[image]].tolist()
        one, other = sorted(range(len(strength)), key=lambda place: -strength[place])[:2]
        each.append(eq5(maps.per_latent[image, one], maps.per_latent[image, other]))
    assert sum(each) > 0.1
    assert float(attention_disentanglement(maps, "top2")) == pytest.approx(sum(each) / 6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    # 64 * 64 * 20 is more than float16 holds, and bfloat16 has eight bits for it.
    maps = 20 + torch.rand(1, 3, 64, 64)
    found = attention_disentanglement(maps.to(dtype))
    assert found.dtype == torch.float32
    assert torch.equal(found, attention_disentanglement(maps.to(dtype).float()))
    assert float(found) == pytest.approx(looped(maps.to(dtype)), rel=1e-5)
    assert attention_disentanglement(maps.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("maps", "pairs", "message"),
    [
        (torch.rand(2, 1, 3, 3), "all", "compares maps of two latents, and there is one: take at least two"),
        (torch.rand(2, 1, 3, 3), "top2", "compares maps of two latents, and there is one"),
        (torch.rand(2, 3, 3), "all", r"attention maps are \(B, K, h, w\), got \(2, 3, 3\)"),
        (torch.rand(2, 3, 9, 3, 3), "random", r"got \(2, 3, 9, 3, 3\)"),
        (torch.rand(0, 3, 3, 3), "all", r"got \(0, 3, 3, 3\)"),
        (torch.rand(2, 3, 0, 3), "all", r"got \(2, 3, 0, 3\)"),
        ([[1.0]], "all", r"attention maps are \(B, K, h, w\), got list"),
        (None, "all", "got NoneType"),
        (torch.rand(2, 3, 3, 3), "most", "unknown pairs 'most'; there are: random, top2, all"),
        (torch.rand(2, 3, 3, 3), None, "unknown pairs None"),
        (torch.rand(2, 3, 3, 3), "top2", "'top2' needs posterior means: give the LatentMaps themselves"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(maps: Any, pairs: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        attention_disentanglement(maps, pairs)
    assert "\n" not in str(caught.value)


def by_hand(model: ConvVAE, images: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Eq. 2, 3 and 5 as they stand: one backward pass per latent, differentiable, at the 64x4x4 map."""
    kept: list[Tensor] = []
    handle = model.get_submodule("encoder.relu4").register_forward_hook(lambda module, args, output: kept.append(output))
    mean, _ = model.encode(images)
    handle.remove()
    (features,) = kept
    maps = []
    for latent in range(mean.shape[1]):
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), features, create_graph=True)
        alpha = gradient.mean((2, 3), keepdim=True)
        maps.append(torch.relu((alpha * features).sum(1)))
    losses = []
    for i, j in pairs:
        shared = torch.minimum(maps[i], maps[j]).sum((1, 2))
        both = (maps[i] + maps[j]).sum((1, 2))
        losses += [2 * a / b for a, b in zip(shared, both, strict=True) if float(b.detach()) > 0]
    return torch.stack(losses).sum() / (len(pairs) * len(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pairs", ["all", "random"])
def test_its_gradient_is_that_of_double_backward(pairs: str, dtype: torch.dtype) -> None:
    model = build("dsprites", latent_dim=10).to(dtype).train()
    images = sprites(3).to(dtype)
    of_pair = list(itertools.combinations(range(10), 2))
    if pairs == "random":  # the pair whose loss is that of the draw
        with torch.no_grad():
            maps = LatentAttention(model)(images)
            drawn = float(attention_disentanglement(maps, pairs, torch.Generator().manual_seed(2)))
            each = [attention_disentanglement(maps.per_latent[:, list(pair)]) for pair in of_pair]
        of_pair = [pair for pair, value in zip(of_pair, each, strict=True) if float(value) == drawn]
        assert len(of_pair) == 1
        assert drawn > 0.01

    names = [name for name, _ in model.named_parameters() if not name.startswith(("decoder", "logvar"))]
    assert len(names) == 12  # six convolutions

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        loss.backward()
        assert all(parameter.grad is None for parameter in model.decoder.parameters())
        zero = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
        return {name: zero[name] if (got := model.get_parameter(name).grad) is None else got.clone() for name in names}

    loss = by_hand(model, images, of_pair)
    truth = gradients(loss)
    moves_no_map = {"encoder.conv5.bias", "mean.bias"}  # behind the map, where weights alone have a say in its gradient
    assert {name for name, gradient in truth.items() if not gradient.any()} == moves_no_map
    for method in ("closed_form", "vjp"):
        maps = LatentAttention(model, method=method)(images)
        assert maps.method == method
        found = attention_disentanglement(maps, pairs, torch.Generator().manual_seed(2))
        assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
        limit = 1e-4 if dtype == torch.float32 else 1e-9
        for name, gradient in gradients(found).items():
            largest = float(truth[name].abs().max())
            assert float((gradient - truth[name]).abs().max()) <= limit * largest, (method, name)


class OwnVAE(nn.Module):
    """What a user brings: no more than `encode`, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 24), nn.ReLU(), nn.Linear(24, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 256), nn.Unflatten(1, (1, 16, 16)))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.head(self.trunk(images)).chunk(2, 1)
        return mean, logvar


def own_loop(vae: OwnVAE, images: Tensor, weight: float) -> tuple[list[float], list[float]]:
    """Thirty steps of a training loop of one's own: the overlaps, and the rest of the loss."""
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    attention = LatentAttention(vae)
    overlaps, others = [], []
    for _ in range(30):
        maps = attention(images)
        overlap = attention_disentanglement(maps)
        logits = vae.decoder(reparameterize(maps.mean, maps.logvar))
        terms = elbo(logits, images, maps.mean, maps.logvar)
        optimizer.zero_grad()
        (terms.loss + weight * overlap).backward()
        optimizer.step()
        overlaps.append(float(overlap.detach()))
        others.append(float(terms.loss.detach()))
    assert maps.method == "closed_form"
    return overlaps, others


def test_three_lines_in_a_loop_of_ones_own_draw_the_maps_apart() -> None:
    torch.manual_seed(1)
    vae, images = OwnVAE(), nn.functional.avg_pool2d(sprites(32), 4)
    own_loop(vae, images, 0.0)  # after which the maps overlap
    vae.zero_grad()
    attention_disentanglement(LatentAttention(vae)(images)).backward()
    for parameter in (vae.trunk[0].weight, vae.trunk[2].weight, vae.head[1].weight, vae.head[3].weight):
        assert parameter.grad is not None
        assert bool(parameter.grad.any())
    assert all(parameter.grad is None for parameter in vae.decoder.parameters())
    other = copy.deepcopy(vae)
    apart, others = own_loop(vae, images, 5.0)
    together, _ = own_loop(other, images, 0.0)
    assert apart[0] == together[0] > 0.3
    assert apart[-1] < 0.6 * apart[0]
    assert apart[-1] < 0.6 * together[-1]
    assert others[-1] < 0.95 * others[0]  # while the images are learnt


def test_the_command_line_has_the_same_pairs() -> None:
    from vaelens.training.settings import CHOICES

    assert CHOICES["ad_pairs"] == PAIRS


def test_absolute_maps_count_what_lowers_a_latent_too() -> None:
    """Signed maps [1, -2] and [-3, 2]: rectified they are [1, 0] and [0, 2], which do not meet; absolute [1, 2] and [3, 2]."""
    signed = torch.tensor([[[[1.0, -2.0]], [[-3.0, 2.0]]]])
    two = torch.zeros(1, 2)
    maps = LatentMaps(signed, torch.zeros(1, 2, 1), two, two, torch.arange(2), "layer", "closed_form")
    assert float(attention_disentanglement(maps)) == float(attention_disentanglement(maps, rectifier="relu")) == 0
    assert float(attention_disentanglement(maps, rectifier="abs")) == pytest.approx(2 * (1 + 2) / (1 + 2 + 3 + 2))
    assert empty_maps(maps).tolist() == [[False, False]]
    gone = LatentMaps(-signed.abs(), torch.zeros(1, 2, 1), two, two, torch.arange(2), "layer", "closed_form")
    assert empty_maps(gone).tolist() == [[True, True]]
    with pytest.raises(UsageError, match="unknown rectifier 'square'; there are: relu, abs"):
        attention_disentanglement(maps, rectifier="square")
    with pytest.raises(UsageError, match="a rectifier is for signed maps: give the LatentMaps themselves"):
        attention_disentanglement(signed.abs(), rectifier="abs")
