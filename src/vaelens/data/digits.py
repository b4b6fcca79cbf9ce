"""The 1,797 handwritten digits that come with scikit-learn: no download, for a first run and for tests.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998): 8x8
counts of ink, 0 to 16, each over a 4x4 block of a 32x32 bitmap.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from vaelens.data.images import ImageSet
from vaelens.errors import UsageError

if TYPE_CHECKING:
    from vaelens.data.download import Progress

TEST_SHARE = 0.2
SPLIT_SEED = 0
_INK_LEVELS = 16


def load(root: Path | None = None, progress: Progress | None = None) -> tuple[ImageSet, ImageSet]:
    """The registry's loader; see `load_digits`.

    Raises:
        UsageError: a root was given, but this data set is embedded.
    """
    if root is not None:
        raise UsageError(f"the digits data set is embedded and takes no root; leave out {root}")
    return load_digits()


def load_digits(image_size: int = 28) -> tuple[ImageSet, ImageSet]:
    """Load the digits, enlarged by bicubic interpolation, white on black as in MNIST.

    Args:
        image_size: side of the square images in pixels, at least 8.

    Returns:
        (train, test): images (N, 1, image_size, image_size), values 0 to 255, labels 0 to 9, names "digits/0001" by the
        position in the original set. The split is stratified (a fifth of every class is test) and always the same.

    Raises:
        UsageError: an image size below 8, which would lose detail.
    """
    if image_size < 8:
        raise UsageError(f"image_size of the digits must be at least 8, their own size, not {image_size}")
    from sklearn.datasets import load_digits as load_embedded  # takes a second, so not at import

    embedded = load_embedded()
    small = torch.from_numpy(embedded.images).to(torch.float64).unsqueeze(1) * (255 / _INK_LEVELS)
    # Double precision keeps the rounding to bytes the same on every processor. Bicubic overshoots at edges: clamp.
    large = functional.interpolate(small, size=(image_size, image_size), mode="bicubic", align_corners=False)
    labels = torch.from_numpy(embedded.target).to(torch.int64)
    names = tuple(f"digits/{i:04d}" for i in range(len(labels)))
    digits = ImageSet(large.round().clamp(0, 255).to(torch.uint8), names, labels)
    is_test = _stratified(labels)
    return digits.subset(~is_test), digits.subset(is_test)


def _stratified(labels: torch.Tensor) -> torch.Tensor:
    """Mask (N,) of the test images: the same share of every class, by a fixed seed."""
    generator = torch.Generator(device="cpu").manual_seed(SPLIT_SEED)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        of_class = (labels == label).nonzero().flatten()
        order = torch.randperm(len(of_class), generator=generator)
        chosen[of_class[order[: round(TEST_SHARE * len(of_class))]]] = True
    return chosen
