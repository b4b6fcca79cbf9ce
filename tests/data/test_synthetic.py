"""Synthetic defects: the mask says where the image changed, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaelens.data.synthetic import CONTENTS, SHAPES, with_defects
from vaelens.data.synthetic.contents import Place, spread
from vaelens.data.synthetic.lighting import evened, relit
from vaelens.data.synthetic.moving import carried
from vaelens.errors import UsageError


def pictures(count: int, seed: int = 0, shape: tuple[int, int, int] = (1, 48, 64)) -> Tensor:
    """Random images with structure, coarse and fine: (count, C, H, W), floats in [0, 1]."""
    generator, (channels, *size) = torch.Generator().manual_seed(seed), shape
    coarse = torch.rand(count, channels, 6, 6, generator=generator)
    fine = torch.rand(count, channels, *size, generator=generator)
    return (0.8 * nn.functional.interpolate(coarse, tuple(size), mode="bilinear") + 0.2 * fine).clamp(0, 1)


def draw(images: Tensor, seed: int = 0, **options: object) -> tuple[Tensor, Tensor]:
    others = pictures(5, seed=99, shape=tuple(images.shape[1:]))  # type: ignore[arg-type]
    return with_defects(images, others, torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "content"), [*((name, None) for name in SHAPES), *((None, name) for name in CONTENTS)])
def test_every_shape_and_content_changes_something_and_its_mask_says_where(shape: str | None, content: str | None) -> None:
    images = pictures(64)
    drawn, masks = draw(images, clean=0, shapes=shape and [shape], contents=content and [content])
    assert masks.dtype == torch.bool
    assert float((masks.flatten(1).any(1)).float().mean()) > 0.5, "most defects are visible"
    assert float(masks.float().mean((1, 2)).max()) <= 0.55
    # Within the mask something changed nearby, but where a second defect undoes a first.
    changed = (drawn - images).abs().amax(1)
    around = nn.functional.avg_pool2d(changed[:, None], 9, stride=1, padding=4)[:, 0]
    assert float((torch.maximum(changed, around)[masks] > 0.01).float().mean()) > 0.97
    # What changed much lies in the mask or at its rim.
    beside = nn.functional.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
    assert float(beside[changed > 0.2].float().mean()) > 0.95


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(1, 32, 32), (3, 40, 33), (1, 16, 50), (3, 16, 16)]),
    st.floats(0, 1),
    st.sampled_from([1, 6]),
)
def test_whatever_is_drawn(seed: int, shape: tuple[int, int, int], clean: float, count: int) -> None:
    images = pictures(count, shape=shape)
    before = images.clone()
    drawn, masks = draw(images, seed, clean=clean)
    assert torch.equal(images, before), "the images given stay as they are"
    assert drawn.shape == images.shape
    assert masks.shape == (count, *shape[1:])
    assert bool(drawn.isfinite().all())
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    same = (drawn == images).flatten(1).all(1)
    assert not masks[same].any(), "where nothing changed nothing is marked"


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_covers_lie_at_their_centres(shape: str, size: tuple[int, int]) -> None:
    """Defects of every shape are seen at every size, and most of what they cover is where they were asked for."""
    centres = torch.tensor([[0.5, 0.25]]).repeat(200, 1)
    covers = SHAPES[shape](centres, *size, torch.Generator().manual_seed(0))
    assert covers.shape == (200, *size)
    assert float(covers.min()) >= 0
    assert float(covers.max()) <= 1
    assert float((covers.flatten(1).amax(1) > 0.5).float().mean()) > 0.97
    where = covers.mean(0)
    row, column = divmod(int(where.argmax()), size[1])
    assert abs((row + 0.5) / size[0] - 0.5) < 0.1
    assert abs((column + 0.5) / size[1] - 0.25) < 0.1


def test_small_is_smaller_than_large() -> None:
    centres = torch.full((100, 2), 0.5)
    areas = [(SHAPES[name](centres, 64, 64, torch.Generator()) > 0.5).float().mean() for name in ("small", "large")]
    assert 5 * areas[0] < areas[1]


def test_a_stroke_is_marked_where_it_changed_the_image_visibly() -> None:
    # Two grey levels, each in more than a tenth of the image: the spread is 0.2 / 2.56, and a quarter of it the threshold.
    images = torch.full((200, 1, 48, 48), 0.4)
    images[..., 24:] = 0.6
    drawn, masks = draw(images, clean=0, shapes=["stroke"])
    alone = (drawn - images).abs()[:, 0]
    assert float((alone[masks] > 0.2 / 2.56 / 4 / 2).float().mean()) > 0.95, "marked, so changed"
    # and changed most, so marked: the middle of a stroke
    middle = alone > 0.7 * alone.flatten(1).amax(1)[:, None, None].clamp_min(0.1)
    assert float(masks[middle].float().mean()) > 0.95


def test_strokes_are_shaded_or_filled_unless_asked_otherwise() -> None:
    """On flat images shade and fill bring few spreads of 0.02; patches of white others would be white."""
    images, white = torch.full((100, 1, 32, 32), 0.5), torch.ones(1, 1, 32, 32)
    drawn, _ = with_defects(images, white, torch.Generator().manual_seed(0), clean=0, shapes=["stroke"])
    assert 0 < float((drawn - images).abs().max()) < 0.2
    drawn, _ = with_defects(images, white, torch.Generator().manual_seed(0), clean=0, shapes=["stroke"], contents=["other"])
    assert float(drawn.max()) > 0.7


def test_strengths_follow_the_images_contrast() -> None:
    images = 0.4 + 0.2 * pictures(100)
    faint = 0.5 + 0.1 * (images - 0.5)
    strong, weak = ((draw(given_, 1, clean=0, contents=["shade"])[0] - given_).abs().mean() for given_ in (images, faint))
    assert float(weak / strong) == pytest.approx(float(spread(faint).mean() / spread(images).mean()), rel=0.35)


def test_spread_is_the_standard_deviation_of_bell_shaped_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + torch.tensor([0.05, 0.1]).view(2, 1, 1, 1) * torch.randn(2, 1, 200, 200, generator=generator)
    assert spread(images).flatten().tolist() == pytest.approx([0.05, 0.1], rel=0.03)
    assert spread(torch.ones(1, 3, 8, 8)).tolist() == [[[[pytest.approx(0.02)]]]]


def test_blur_and_sharpening_are_opposite() -> None:
    images = pictures(40, shape=(3, 16, 40))
    rough = {}
    for name in ("blur", "sharp"):
        place = Place(images, torch.ones(40, 1, 16, 40), images, torch.Generator().manual_seed(0))
        rough[name] = CONTENTS[name](place).diff(dim=-1).abs().mean()
    assert 1.5 * rough["blur"] < images.diff(dim=-1).abs().mean() < rough["sharp"] / 1.2


def test_a_warp_leaves_what_it_does_not_cover() -> None:
    images = pictures(5)
    cover = torch.zeros(5, 1, 48, 64)
    cover[..., 10:30, 20:40] = 1
    warped = CONTENTS["warp"](Place(images, cover, images, torch.Generator().manual_seed(0)))
    outside = (cover == 0).expand_as(images)
    assert torch.allclose(warped[outside], images[outside], atol=1e-4)
    assert float((warped - images)[~outside].abs().mean()) > 0.02


def test_defects_lie_where_an_image_differs_from_the_prior() -> None:
    """A half is bright in all images and the prior; what these images alone show lies in a corner of the other half."""
    prior = torch.full((1, 1, 40, 40), 0.2)
    prior[..., 20:] = 0.8
    images = prior.repeat(300, 1, 1, 1)
    images[..., 2:8, 2:8] = 0.6
    options = {"clean": 0, "shapes": ["small"], "contents": ["fill"]}
    at = [draw(images, **options, prior=given_)[1][:, 1:9, 1:9].float().mean() for given_ in (prior, None)]
    assert float(at[0]) > 3 * float(at[1])


def test_the_share_left_as_it_is() -> None:
    images = pictures(400, shape=(1, 24, 24))
    for clean, least, most in ((0.0, 0, 0), (0.25, 0.18, 0.33), (1.0, 1, 1)):
        drawn, masks = draw(images, clean=clean, shapes=["small"])  # of which none is too large
        untouched = (drawn == images).flatten(1).all(1)
        assert least <= float(untouched.float().mean()) <= most + (0.02 if clean == 0 else 0)
        assert not masks[untouched].any()


def test_the_generator_decides() -> None:
    images = pictures(8)
    first, second, other = draw(images, 3), draw(images, 3), draw(images, 4)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(11)
    before = torch.get_rng_state()
    draw(images)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"


def test_patches_of_others_come_from_others() -> None:
    """Black images and white others: what another image's patch brings is white, but where it keeps the place's brightness."""
    images = torch.zeros(60, 1, 40, 40)
    drawn, masks = with_defects(images, torch.ones(2, 1, 40, 40), torch.Generator().manual_seed(0), clean=0, contents=["other"])
    assert float(masks.flatten(1).any(1).float().mean()) > 0.3
    assert float(drawn[:, 0][masks].median()) > 0.5
    same, none = with_defects(images, images[:2], torch.Generator().manual_seed(0), clean=0, contents=["other"])
    assert torch.equal(same, images)
    assert not none.any()


def test_a_defect_moves_straight_on_from_frame_to_frame() -> None:
    """A white square on black frames: its centre in the three frames lies on a line, and the middle one is as drawn."""
    clips, drawn = torch.zeros(50, 3, 60, 60), torch.zeros(50, 1, 60, 60)
    drawn[..., 25:35, 25:35] = 1
    moved = carried(clips, drawn, torch.Generator().manual_seed(0))
    assert torch.equal(moved[:, 1:2], drawn)
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    mass = moved.sum((2, 3))
    at = torch.stack([(moved * rows).sum((2, 3)), (moved * columns).sum((2, 3))], 2) / mass[..., None]
    before, after = at[:, 1] - at[:, 0], at[:, 2] - at[:, 1]
    torch.testing.assert_close(before, after, rtol=0, atol=0.05)
    far = before.norm(dim=1)
    assert float(far.max()) <= 0.08 * 60 + 0.05
    assert float(far.max()) > 0.06 * 60
    assert float(far.min()) < 0.02 * 60
    assert len(set(before[:, 0].sign().tolist())) == 2, "in all directions"


def test_defects_on_clips_are_those_of_their_middle_frames() -> None:
    clips = pictures(12, shape=(3, 32, 32))
    drawn, masks = with_defects(clips, clips, torch.Generator().manual_seed(3), frames=3)
    alone, same = with_defects(clips[:, 1:2], clips[:, 1:2], torch.Generator().manual_seed(3))
    assert torch.equal(drawn[:, 1:2], alone)
    assert torch.equal(masks, same)
    touched = masks.flatten(1).any(1)
    assert torch.equal(
        (drawn[:, 0] != clips[:, 0]).flatten(1).any(1)[touched], torch.ones(int(touched.sum()), dtype=torch.bool)
    )
    assert torch.allclose(drawn[~touched], clips[~touched], atol=1e-6)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    with pytest.raises(UsageError, match="frames is how many channels"):
        with_defects(clips, clips, torch.Generator(), frames=5)
    with pytest.raises(UsageError, match="middle frames"):
        carried(clips[:, :1], clips[:, :1], torch.Generator())


def test_another_light_changes_brightness_and_little_else() -> None:
    images = 0.2 + 0.5 * pictures(64)
    lit = relit(images, torch.Generator().manual_seed(0))
    assert torch.equal(lit, relit(images, torch.Generator().manual_seed(0)))
    assert lit.shape == images.shape
    assert 0 <= float(lit.min()) <= float(lit.max()) <= 1
    assert 0.05 < float((lit.mean((1, 2, 3)) / images.mean((1, 2, 3))).log().std()) < 0.25
    one, other = (values - values.mean((1, 2, 3), keepdim=True) for values in (images, lit))
    alike = (one * other).sum((1, 2, 3)) / (one.flatten(1).norm(dim=1) * other.flatten(1).norm(dim=1))
    assert float(alike.min()) > 0.8, "the same picture"
    gain = torch.tensor([0.7, 1.2]).view(2, 1, 1, 1)
    dark, bright = evened(gain * images[:1])
    torch.testing.assert_close(dark, bright, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shapes": ["scratch"]}, "unknown shape of synthetic defect 'scratch'; there are: small"),
        ({"contents": ["stroke"]}, "unknown content of synthetic defect 'stroke'; there are: other"),
        ({"prior": torch.zeros(2, 1, 8, 8)}, r"prior is one image, \(1, 1, 8, 8\), got \(2, 1, 8, 8\)"),
        ({"clean": -0.1}, "between 0 and 1"),
        ({"clean": 1.5}, "between 0 and 1"),
        ({"clean": float("nan")}, "between 0 and 1"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "float images"),
        ({"images": torch.zeros(1, 8, 8)}, r"\(1, 8, 8\)"),
        ({"others": torch.zeros(2, 1, 8, 9)}, r"\(2, 1, 8, 9\)"),
        ({"others": torch.zeros(0, 1, 8, 8)}, r"\(0, 1, 8, 8\)"),
    ],
)
def test_misuse_is_one_line(options: dict[str, object], says: str) -> None:
    given_ = {"images": torch.zeros(2, 1, 8, 8), "others": torch.zeros(2, 1, 8, 8), "generator": torch.Generator()} | options
    with pytest.raises(UsageError, match=says) as error:
        with_defects(**given_)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
