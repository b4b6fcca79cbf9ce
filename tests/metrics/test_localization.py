"""PixelMetrics against scikit-learn and against plain loops over thresholds and regions."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from vaelens.errors import UsageError
from vaelens.metrics import PixelMetrics, PixelResult

Maps = NDArray[Any]
Masks = NDArray[np.bool_]


def measure(maps: Maps, masks: Masks, threshold: float | None = None, **given: Any) -> PixelResult:
    metrics = PixelMetrics(threshold)
    metrics.update(maps, masks, **given)
    return metrics.compute()


def blobs(shape: tuple[int, int, int], share: float, seed: int = 0) -> Masks:
    """Masks with round-edged regions over this share of all pixels."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (0, 3, 3))
    return field > np.quantile(field, 1 - share)


def naive_regions(mask: Masks) -> list[set[tuple[int, int]]]:
    """8-connected regions of a mask (H, W) by flood fill."""
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}
    regions = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            r, c = edge.pop()
            region.add((r, c))
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(region)
    return regions


def naive_aupro(maps: Maps, masks: Masks) -> float:
    """Every score as threshold, every region by itself."""
    regions = [(b, region) for b, mask in enumerate(masks) for region in naive_regions(mask)]
    scores = [np.array([maps[b, r, c] for r, c in region]) for b, region in regions]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        overlap = float(np.mean([(s >= threshold).mean() for s in scores]))
        points.append((float((normal >= threshold).mean()), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= 0.3:
            break
        if x1 > 0.3:
            y1, x1 = y0 + (y1 - y0) * (0.3 - x0) / (x1 - x0), 0.3
        area += (x1 - x0) * (y0 + y1) / 2
    return area / 0.3


def naive_best_iou(maps: Maps, masks: Masks) -> float:
    return max(float((f := maps >= t)[masks].sum() / (f | masks).sum()) for t in np.unique(maps))


# --- By hand ---


def test_values_worked_out_by_hand() -> None:
    maps = np.array([[[0.1, 0.4], [0.3, 0.8]]])
    masks = np.array([[[False, False], [True, True]]])
    found = measure(maps, masks, threshold=0.3)
    assert found.auroc == 0.75  # of 4 pairs one is the wrong way round
    assert math.isclose(found.average_precision or 0, (1 / 1 + 2 / 3) / 2)
    assert math.isclose(found.best_iou or 0, 2 / 3)  # above 0.1: three flagged, two of them abnormal
    assert 0.1 <= (found.best_iou_threshold or 0) < 0.3
    assert math.isclose(found.calibrated_iou or 0, 1 / 3)  # above, not at 0.3: 0.4 and 0.8
    # The one region, of two pixels: half of it from the start, no more up to a rate of 0.3.
    assert math.isclose(found.aupro or 0, 0.5)
    assert (found.images, found.pixels, found.abnormal_pixels, found.regions) == (1, 4, 2, 1)
    assert found.auroc_error == found.average_precision_error == found.aupro_error == 0


def test_aupro_gives_a_small_region_the_weight_of_a_large_one() -> None:
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, :4, :4] = masks[0, 9, 9] = True
    maps = np.where(masks, 1.0, 0.0)
    maps[0, 9, 9] = -1.0  # the small region is missed
    found = measure(maps, masks)
    assert found.regions == 2
    # 0.5 at a rate of 0; then all normal pixels at once, up to a rate of 1 with 0.5.
    assert math.isclose(found.aupro or 0, 0.5)


def test_regions_touch_by_corners_and_never_across_images() -> None:
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = masks[1, 3, 3] = True
    assert measure(np.random.default_rng(0).random((2, 4, 4)), masks).regions == 3


def test_both_zeros_are_one_score() -> None:
    assert measure(np.array([[[-0.0, 0.0]]]), np.array([[[True, False]]])).auroc == 0.5


# --- Against scikit-learn ---

SCORES: dict[str, Callable[[np.random.Generator, Maps, Masks], Maps]] = {
    "normal": lambda rng, x, y: x,
    "float32": lambda rng, x, y: x.astype(np.float32),
    "float16": lambda rng, x, y: x.astype(np.float16),
    "tied": lambda rng, x, y: x.round(1),
    "tied and not": lambda rng, x, y: np.where(rng.random(x.shape) < 0.5, x, x.round()).astype(np.float32),
    "two values": lambda rng, x, y: (x > 1).astype(np.float32),
    "constant": lambda rng, x, y: np.full_like(x, 3.0),
    "cut off at both ends": lambda rng, x, y: x.clip(-1, 1).astype(np.float32),
    "tiny range": lambda rng, x, y: 5 + 1e-13 * x,
    "two tiny ranges": lambda rng, x, y: np.where(y | (rng.random(x.shape) < 0.5), 7, 5) + 1e-13 * x,
    "tiny range and infinite": lambda rng, x, y: np.where(rng.random(x.shape) < 0.01, np.inf, 5 + 1e-13 * x),
    "Cauchy": lambda rng, x, y: x / rng.standard_normal(x.shape),
    "lognormal": lambda rng, x, y: np.exp(5 * x),
    "denormal": lambda rng, x, y: x * 1e-310,
    "float32 denormal": lambda rng, x, y: (x * 1e-41).astype(np.float32),
    "negative": lambda rng, x, y: x - 100,
    "infinite": lambda rng, x, y: np.where(rng.random(x.shape) < 0.1, -np.inf, np.where(x > 3, np.inf, x)),
    "each image above the last": lambda rng, x, y: x + 20 * np.arange(len(x))[:, None, None],
    "each image below the last": lambda rng, x, y: x - 20 * np.arange(len(x))[:, None, None],
    "each image in a hundredth of the last": lambda rng, x, y: 1 + x * 10.0 ** (-2 * np.arange(len(x))[:, None, None]),
    "one image of 8 far out": lambda rng, x, y: x * np.where(np.arange(len(x)) % 8 == 3, 1e9, 1)[:, None, None],
}


@pytest.fixture(scope="module")
def masks() -> Masks:
    return blobs((6, 520, 520), 0.02)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SCORES)
def test_close_to_exact_figures_on_millions_of_pixels(name: str, masks: Masks) -> None:
    """1.6 million pixels, past what is kept one by one, some batches of one image and some of two."""
    rng = np.random.default_rng(1)
    maps = SCORES[name](rng, rng.standard_normal(masks.shape) + masks, masks)
    metrics = PixelMetrics()
    for part in (slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 6)):
        metrics.update(maps[part], masks[part])
    found = metrics.compute()
    ranks = maps.astype(np.float64)
    if np.isinf(ranks).any():  # scikit-learn takes none
        ranks = ranks.clip(-1e300, 1e300)
    auroc, precision = roc_auc_score(masks.ravel(), ranks.ravel()), average_precision_score(masks.ravel(), ranks.ravel())
    assert found.auroc is not None
    assert found.average_precision is not None
    assert abs(found.auroc - auroc) < 1e-5  # a tenth of what is promised
    assert abs(found.average_precision - precision) < 1e-5
    assert abs(found.auroc - auroc) <= (found.auroc_error or 0) + 1e-12
    assert abs(found.average_precision - precision) <= (found.average_precision_error or 0) + 1e-12
    assert (found.auroc_error or 0) < 1e-4
    assert (found.average_precision_error or 0) < 1e-4


@pytest.mark.parametrize("share", [2e-6, 1e-4, 0.5, 1 - 1e-4])
def test_close_to_exact_figures_at_any_share_of_abnormal_pixels(share: float) -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((3, 800, 800)) < share
    masks[0, 0, 0], masks[0, 0, 1] = True, False
    maps = (rng.standard_normal(masks.shape) + 2 * masks).astype(np.float32)
    found = measure(maps, masks)
    assert found.auroc is not None
    assert found.average_precision is not None
    assert abs(found.auroc - roc_auc_score(masks.ravel(), maps.ravel())) < 1e-5
    assert abs(found.average_precision - average_precision_score(masks.ravel(), maps.ravel())) < 1e-5
    assert max(found.auroc_error or 0, found.average_precision_error or 0) < 1e-4


def test_a_bound_that_hides_nothing_is_zero_and_one_that_hides_is_not(masks: Masks) -> None:
    maps = np.random.default_rng(3).standard_normal(masks.shape)
    assert measure(maps[:2], masks[:2]).auroc_error == 0  # under a million pixels
    assert (measure(maps, masks).auroc_error or 0) > 0


numbers = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, 1.0, -1.0, math.inf, -math.inf, 5e-324]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(numbers, st.booleans()), min_size=2, max_size=40), st.integers(1, 40))
def test_few_pixels_are_exact_and_merge_exactly(pixels: list[tuple[float, bool]], cut: int) -> None:
    labels = np.array([label for _, label in pixels])
    values = np.array([value for value, _ in pixels])
    one, other = PixelMetrics(), PixelMetrics()
    for metrics, part in ((one, slice(0, cut)), (other, slice(cut, None))):
        if len(values[part]):
            metrics.update(values[None, None, part], labels[None, None, part])
    found, whole = one.merge(other).compute(), measure(values[None, None], labels[None, None])
    names = ("auroc", "average_precision", "best_iou", "best_iou_threshold")
    assert [getattr(found, name) for name in names] == [getattr(whole, name) for name in names]
    ranks = np.unique(values, return_inverse=True)[1]  # scikit-learn takes no infinite scores
    if labels.any() and not labels.all():
        assert math.isclose(found.auroc or 0, roc_auc_score(labels, ranks), abs_tol=1e-12)
        assert found.auroc_error == 0
    if labels.any():
        assert math.isclose(found.average_precision or 0, average_precision_score(labels, ranks), abs_tol=1e-12)
        flagged = values > found.best_iou_threshold
        if found.best_iou_threshold == -math.inf:
            flagged[:] = True
        assert math.isclose(found.best_iou or 0, (flagged & labels).sum() / (flagged | labels).sum())
        assert math.isclose(found.best_iou or 0, naive_best_iou(ranks[None, None], labels[None, None]))


# --- Regions and overlap ---


@pytest.mark.parametrize("levels", [0, 7])
def test_aupro_and_best_iou_equal_plain_loops(levels: int) -> None:
    rng = np.random.default_rng(4)
    masks = blobs((3, 24, 30), 0.1, seed=5)
    masks[1] = False
    maps = rng.standard_normal(masks.shape) + 1.5 * masks
    maps = (maps * levels).round() if levels else maps
    found = measure(maps.astype(np.float32), masks)
    maps = maps.astype(np.float32)
    assert found.regions == sum(len(naive_regions(mask)) for mask in masks) > 2
    assert math.isclose(found.aupro or 0, naive_aupro(maps, masks), abs_tol=1e-9)
    assert math.isclose(found.best_iou or 0, naive_best_iou(maps, masks), abs_tol=1e-12)


def test_aupro_and_best_iou_on_millions_of_pixels(masks: Masks) -> None:
    maps = np.random.default_rng(5).standard_normal(masks.shape) + 1.5 * masks
    found = measure(maps, masks)
    within = np.zeros((3, 3, 3), dtype=bool)
    within[1] = True
    labels, count = ndimage.label(masks, within)
    regions = [np.sort(part) for part in np.split(maps[masks][np.argsort(labels[masks], kind="stable")],
               np.cumsum(np.bincount(labels[masks])[1:])[:-1])]  # fmt: skip
    normal = np.sort(maps[~masks])
    rates = np.linspace(0, 0.3, 3001)
    thresholds = normal[np.minimum((len(normal) * (1 - rates)).astype(int), len(normal) - 1)]
    overlap = np.mean([1 - np.searchsorted(r, thresholds) / len(r) for r in regions], axis=0)
    assert count == found.regions == len(regions)
    assert abs((found.aupro or 0) - np.trapezoid(overlap, rates) / 0.3) < 1e-3
    assert (found.aupro_error or 0) < 1e-4
    flagged = maps > (found.best_iou_threshold or 0)
    reached = (flagged & masks).sum() / (flagged | masks).sum()
    assert abs(reached - (found.best_iou or 0)) < 1e-5
    beside = [(f & masks).sum() / (f | masks).sum() for f in (maps > t for t in np.quantile(maps, np.linspace(0.9, 1, 41)))]
    assert max(beside) <= reached + 1e-5


def test_calibrated_iou_is_counted_exactly(masks: Masks) -> None:
    maps = np.random.default_rng(6).standard_normal(masks.shape).astype(np.float32) + masks
    flagged = maps > 1.25
    found = measure(maps, masks, threshold=1.25)
    assert math.isclose(found.calibrated_iou or 0, (flagged & masks).sum() / (flagged | masks).sum())
    assert measure(maps[:1], masks[:1]).calibrated_iou is None


# --- Groups, images, merging ---


def test_per_defect_is_that_defect_against_all_normal_images() -> None:
    rng = np.random.default_rng(7)
    masks = blobs((9, 20, 20), 0.15, seed=8)
    masks[::3] = False
    maps = rng.random(masks.shape) + 0.3 * masks
    names = ["good", "cut", "hole"] * 3
    scores = rng.random(9)
    found = measure(maps, masks, threshold=0.9, defects=names, scores=scores)
    assert list(found.per_defect) == ["cut", "hole"]
    for name in ("cut", "hole"):
        chosen = np.array([n in ("good", name) for n in names])
        alone = measure(maps[chosen], masks[chosen], threshold=0.9, scores=scores[chosen])
        assert found.per_defect[name].to_dict() == {k: v for k, v in alone.to_dict().items() if k != "per_defect"}
    pooled = measure(maps, masks, threshold=0.9, scores=scores)
    together = pooled.to_dict()
    assert together.pop("per_defect") == {}
    assert {k: v for k, v in found.to_dict().items() if k != "per_defect"} == pytest.approx(together, abs=1e-12)
    both = [found.per_defect[name].auroc or 0 for name in ("cut", "hole")]
    assert found.mean_over_defects("auroc") == sum(both) / 2
    assert pooled.mean_over_defects("auroc") is None
    with pytest.raises(UsageError, match="unknown figure 'auc'; there are: auroc, average_precision"):
        found.mean_over_defects("auc")


def test_image_auroc_takes_the_scores_or_the_peaks_of_the_maps() -> None:
    maps = np.zeros((4, 2, 2))
    maps[:, 0, 0] = [1, 2, 3, 4]
    masks = np.zeros((4, 2, 2), dtype=bool)
    masks[[1, 3], 1, 1] = True
    assert measure(maps, masks).image_auroc == 0.75
    assert measure(maps, masks, scores=[1.0, 0.0, 1.0, 0.0]).image_auroc == 0
    assert measure(maps, masks, anomalous=[False, False, True, True]).image_auroc == 1


def test_merged_and_pickled_parts_equal_the_whole(masks: Masks) -> None:
    maps = np.random.default_rng(9).standard_normal(masks.shape).astype(np.float32) + masks
    names = ["a", "b"] * 3
    metrics = PixelMetrics(threshold=1.0)
    for i in range(3):
        part = PixelMetrics(threshold=1.0)
        part.update(maps[2 * i : 2 * i + 2], masks[2 * i : 2 * i + 2], defects=names[2 * i : 2 * i + 2])
        before = part.compute()
        metrics.merge(pickle.loads(pickle.dumps(part)))
        metrics.compute()
        assert part.compute() == before
    merged, whole = metrics.compute(), measure(maps, masks, threshold=1.0, defects=names)
    for figure in ("auroc", "average_precision", "aupro", "best_iou"):
        assert abs(getattr(merged, figure) - getattr(whole, figure)) < 1e-5
    for figure in ("calibrated_iou", "image_auroc", "pixels", "regions"):
        assert getattr(merged, figure) == getattr(whole, figure)
    with pytest.raises(UsageError, match=r"thresholds 1.0 and None do not merge"):
        metrics.merge(PixelMetrics())


def test_merging_large_parts_keeps_the_bound() -> None:
    rng = np.random.default_rng(10)
    masks = rng.random((4, 800, 700)) < 0.02
    maps = rng.standard_normal(masks.shape) + masks
    maps[2:] = maps[2:].astype(np.float32)  # one part in float32, the other in float64
    parts = PixelMetrics(), PixelMetrics()
    for i in range(2):
        parts[0].update(maps[i : i + 1], masks[i : i + 1])
        parts[1].update(maps[2 + i : 3 + i].astype(np.float32), masks[2 + i : 3 + i])
    for first, second in ((0, 1), (1, 0)):  # each of 1.1 million pixels
        found = pickle.loads(pickle.dumps(parts[first])).merge(parts[second]).compute()
        assert abs(found.auroc - roc_auc_score(masks.ravel(), maps.ravel())) <= found.auroc_error < 1e-4
        exact = average_precision_score(masks.ravel(), maps.ravel())
        assert abs(found.average_precision - exact) <= found.average_precision_error < 1e-4


def test_images_of_differing_sizes_tensors_and_types() -> None:
    rng = np.random.default_rng(11)
    sizes = [(2, 8, 9), (1, 30, 4), (3, 5, 5)]
    maps = [rng.random(size).astype(np.float32) for size in sizes]
    masks = [rng.random(size) < 0.2 for size in sizes]
    metrics, tensors = PixelMetrics(), PixelMetrics()
    for values, marks in zip(maps, masks, strict=True):
        metrics.update(values, marks)
        tensors.update(torch.from_numpy(values).requires_grad_(), torch.from_numpy(marks).byte())
    pooled = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert metrics.compute() == tensors.compute()
    assert math.isclose(metrics.compute().auroc or 0, roc_auc_score(pooled[1], pooled[0]), abs_tol=1e-12)
    halves = PixelMetrics()
    halves.update(torch.from_numpy(maps[0]).bfloat16().transpose(1, 2), masks[0].transpose(0, 2, 1))
    exact = torch.from_numpy(maps[0]).bfloat16().float().numpy()
    assert math.isclose(halves.compute().auroc or 0, roc_auc_score(masks[0].ravel(), exact.ravel()), abs_tol=1e-12)


# --- What is not there ---


def test_without_masks_only_images_are_ranked() -> None:
    maps = np.random.default_rng(12).random((4, 6, 6))
    found = measure(maps, None, defects=["good", "good", "bad", "bad"], scores=[0.1, 0.2, 0.3, 0.15])  # type: ignore[arg-type]
    assert found.image_auroc == 0.75
    assert (found.auroc, found.average_precision, found.best_iou, found.aupro) == (None, None, None, None)
    assert found.pixels == 72  # those of the normal images
    assert found.per_defect["bad"].image_auroc == 0.75
    labelled = PixelMetrics()
    labelled.update(maps, None, scores=[0.1, 0.2, 0.3, 0.15], anomalous=torch.tensor([False, False, True, True]))
    assert labelled.compute().image_auroc == 0.75
    with pytest.raises(UsageError, match="nothing says which images are abnormal; give masks, defects or anomalous"):
        labelled.update(maps, None)


def test_all_normal_and_all_abnormal() -> None:
    maps = np.random.default_rng(13).random((2, 4, 4))
    none = measure(maps, np.zeros(maps.shape, dtype=bool), threshold=0.5)
    for figure in ("auroc", "average_precision", "best_iou", "best_iou_threshold", "calibrated_iou", "aupro", "image_auroc"):
        assert getattr(none, figure) is None
    every = measure(maps, np.ones(maps.shape, dtype=bool))
    assert (every.auroc, every.aupro, every.image_auroc) == (None, None, None)
    assert (every.average_precision, every.best_iou) == (1, 1)
    assert (maps > every.best_iou_threshold).all()
    with pytest.raises(UsageError, match=r"seen no images; call update"):
        PixelMetrics().compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.full((2, 3, 3), np.nan)}, "map 0 of 2 has NaN values"),
        ({"maps": np.zeros((2, 1, 3, 3))}, r"maps must have the shape \(images, height, width\), got \(2, 1, 3, 3\)"),
        ({"maps": np.zeros((2, 0, 3))}, "maps must have the shape"),
        ({"maps": np.zeros((2, 3, 3), complex)}, "maps must hold real numbers of at most 64 bits, got complex128"),
        ({"masks": np.zeros((2, 3, 4), bool)}, r"masks must have the shape of their maps, \(2, 3, 3\), got \(2, 3, 4\)"),
        ({"masks": np.zeros((2, 3, 3))}, "masks must be bool, got float64; give masks > 0"),
        ({"scores": [1.0, math.nan]}, "the score of image 1 is NaN"),
        ({"scores": [1.0]}, "scores must hold one number for each of the 2 maps"),
        ({"anomalous": [True]}, "anomalous must hold one number for each of the 2 maps"),
        ({"defects": ["good"]}, "defects must name the defect of each of the 2 maps"),
        ({"defects": "ab"}, "defects must name the defect of each of the 2 maps"),
        ({"defects": ["bad", "good"], "anomalous": [True, True]}, "image 1 is called 'good' but is abnormal"),
        ({"masks": np.ones((2, 3, 3), bool), "defects": ["bad", "good"]}, "image 1 is called 'good' but is abnormal"),
    ],
)
def test_misuse_is_one_clear_line_and_counts_nothing(change: dict[str, Any], message: str) -> None:
    metrics = PixelMetrics()
    batch = {"maps": np.zeros((2, 3, 3)), "masks": np.zeros((2, 3, 3), dtype=bool)}
    metrics.update(**batch)
    before = metrics.compute()
    with pytest.raises(UsageError, match=message) as error:
        metrics.update(**{**batch, **change})
    assert "\n" not in str(error.value)
    assert metrics.compute() == before
    with pytest.raises(UsageError, match="threshold of PixelMetrics is NaN"):
        PixelMetrics(math.nan)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """However scores drift, what is held stays bounded: here each batch lies above all before it, the worst there is."""
    rng = np.random.default_rng(14)
    metrics, sizes = PixelMetrics(), []
    for i in range(24):
        masks = rng.random((1, 700, 1000)) < 0.01
        metrics.update((rng.random(masks.shape, dtype=np.float32) + 1) * 2.0**i, masks)
        sizes.append(len(pickle.dumps(metrics)))
    assert max(sizes) < 120e6
    assert sizes[-1] < 1.2 * max(sizes[:16])
    assert (metrics.compute().auroc_error or 1) < 1e-4


@pytest.mark.parametrize("folder", ["mvtec_ad/screw"])
def test_real_masks(folder: str, real_data: Path) -> None:
    """Real defects, with a map that knows where they are but for a shift and noise."""
    files = sorted((real_data / folder / "ground_truth").glob("*/*_mask.png"))[::8]
    masks = np.stack([np.asarray(Image.open(file).convert("L").resize((128, 128), 0)) > 0 for file in files])
    rng = np.random.default_rng(15)
    maps = np.stack([ndimage.gaussian_filter(np.roll(m, 2, 0).astype(float), 2) for m in masks]) + 0.1 * rng.random(masks.shape)
    maps = (maps * 200).round()  # so that plain loops over thresholds end
    found = measure(maps, masks, defects=[file.parent.name for file in files])
    assert abs((found.auroc or 0) - roc_auc_score(masks.ravel(), maps.ravel())) < 1e-12
    assert abs((found.average_precision or 0) - average_precision_score(masks.ravel(), maps.ravel())) < 1e-12
    assert abs((found.aupro or 0) - naive_aupro(maps, masks)) < 1e-9
    assert abs((found.best_iou or 0) - naive_best_iou(maps, masks)) < 1e-12
    assert len(found.per_defect) >= 4
