"""What pixels are replaced by: the image itself blurred, or another image that is near."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.metrics.faithfulness.inputs import Encode, check_images, values_of

SPREAD = 1 / 8
"""Of the Gaussian that blurs, as a share of the shorter side."""


def blurred(images: Tensor, spread: float | None = None) -> Tensor:
    """Images (B, C, H, W) without what is small in them, of the same shape; borders are mirrored.

    Args:
        images: floats.
        spread: the Gaussian's standard deviation in pixels, above 0; None: an eighth of the shorter side.

    Raises:
        UsageError: no images, or a spread that is no number above 0.
    """
    from kornia.filters import gaussian_blur2d  # takes a second to import

    check_images(images)
    height, width = images.shape[2:]
    spread = min(height, width) * SPREAD if spread is None else spread
    if isinstance(spread, bool) or not isinstance(spread, int | float) or not 0 < spread < math.inf:
        raise UsageError(f"spread is a number of pixels above 0, or None for an eighth of the shorter side, got {spread!r}")
    reach = math.ceil(3 * spread)
    kernel = 2 * min(reach, height - 1) + 1, 2 * min(reach, width - 1) + 1
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    found: Tensor = gaussian_blur2d(wide, kernel, (float(spread), float(spread)))
    return found.to(images.dtype)


def nearest_images(encode: Encode, images: Tensor, among: Tensor, batch_size: int = 128) -> Tensor:
    """For each image (B, C, H, W) the one of `among` (N, C, H, W) whose values are nearest (Euclidean) and that is another.

    Args:
        encode: see `deletion`.
        images: floats as the model takes them.
        among: of the same size, for instance normal ones.
        batch_size: images encoded at once.

    Raises:
        UsageError: images of another size, or an image that has only copies of itself to choose from.
    """
    check_images(images)
    check_images(among, "images to choose from")
    if images.shape[1:] != among.shape[1:]:
        raise UsageError(f"images to choose from are {tuple(among.shape[1:])}, and the images {tuple(images.shape[1:])}")
    far = torch.cdist(values_of(encode, images, batch_size), values_of(encode, among, batch_size))
    chosen = []
    for i, order in enumerate(far.argsort(1)):
        other = next((j for j in order.tolist() if not torch.equal(among[j], images[i])), None)
        if other is None:
            raise UsageError(f"image {i} has only copies of itself to choose from; give other images")
        chosen.append(other)
    return among[torch.tensor(chosen, device=among.device)]
