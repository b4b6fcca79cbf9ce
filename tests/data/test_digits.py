"""The embedded digits: right side up, rightly scaled, and always split the same way."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as embedded_digits

from vaelens.data.digits import load, load_digits
from vaelens.data.images import ImageSet
from vaelens.errors import UsageError


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return load_digits()


def test_shapes_counts_and_names(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    assert len(train) + len(test) == 1797
    assert train.image_shape == test.image_shape == (1, 28, 28)
    assert set(train.names) | set(test.names) == {f"digits/{i:04d}" for i in range(1797)}


def test_labels_belong_to_the_original_index(digits: tuple[ImageSet, ImageSet]) -> None:
    target = embedded_digits().target
    for part in digits:
        assert part.labels is not None
        assert part.labels.tolist() == [target[int(name.removeprefix("digits/"))] for name in part.names]


def test_split_is_stratified_and_fixed(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    assert train.labels is not None
    assert test.labels is not None
    of_test, of_train = Counter(test.labels.tolist()), Counter(train.labels.tolist())
    for digit in range(10):
        assert of_test[digit] == round(0.2 * (of_test[digit] + of_train[digit]))
    assert load_digits()[1].names == test.names
    # written down from one run: a change of it is a change of every published figure
    assert hashlib.md5("".join(test.names).encode()).hexdigest() == "2286cb326937a9609b161b6577a6d884"


def originals_of(part: ImageSet) -> np.ndarray:
    """The 8x8 originals (N, 8, 8), 0 to 16."""
    return np.asarray(embedded_digits().images)[[int(name.removeprefix("digits/")) for name in part.names]]


def test_enlarging_interpolates_the_originals_exactly() -> None:
    """At three times the size the middle of every 3x3 block lies on an original pixel's centre, which a cubic meets."""
    for part in load_digits(image_size=24):
        centres = part.images[:, 0, 1::3, 1::3].numpy()
        assert np.array_equal(centres, np.round(originals_of(part) * 255 / 16).astype(np.uint8))


def test_upright_and_not_mirrored_over_the_full_range(digits: tuple[ImageSet, ImageSet]) -> None:
    train, _ = digits
    wanted = originals_of(train)
    back = torch.nn.functional.adaptive_avg_pool2d(train.images.double(), 8)[:, 0].numpy() * 16 / 255

    def distance(other: np.ndarray) -> float:
        return float(np.abs(back - other).mean())

    turned = (wanted[:, ::-1], wanted[:, :, ::-1], wanted.transpose(0, 2, 1), wanted[:, ::-1, ::-1])
    assert all(distance(other) > 2 * distance(wanted) for other in turned)
    assert int(train.images.min()) == 0
    assert int(train.images.max()) == 255


def test_against_pillow_bicubic(digits: tuple[ImageSet, ImageSet]) -> None:
    """Pillow's independent resize differs only in the cubic's parameter (-0.5 there, -0.75 here)."""
    test = digits[1]
    originals = originals_of(test)
    for i in range(0, len(test), 40):
        original = Image.fromarray(originals[i].astype(np.float32) * 255 / 16)
        resized = np.array(original.resize((28, 28), Image.Resampling.BICUBIC)).clip(0, 255)
        assert np.abs(resized - test.images[i, 0].numpy()).max() < 20


def test_own_size_is_the_identity() -> None:
    for part in load_digits(image_size=8):
        assert np.array_equal(part.images[:, 0].numpy(), np.round(originals_of(part) * 255 / 16).astype(np.uint8))


@pytest.mark.parametrize("size", [8, 32, 33])
def test_other_sizes(size: int) -> None:
    assert load_digits(size)[0].image_shape == (1, size, size)


def test_too_small() -> None:
    with pytest.raises(UsageError, match=r"at least 8.*not 7"):
        load_digits(7)


def test_takes_no_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no root"):
        load(tmp_path)
