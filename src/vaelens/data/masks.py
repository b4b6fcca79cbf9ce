"""Mask images: which pixels of a test image are anomalous."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaelens.data.decode import read_upright, upright_size
from vaelens.data.files import shown
from vaelens.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def read_mask(path: Path, image: Path, size: tuple[int, int]) -> tuple[Tensor, bool]:
    """Read the mask of an image.

    Every pixel that is not zero (black) is anomalous, whatever its depth or colour; alpha is ignored. Shrinking takes the
    nearest pixel, so that a defect of a few pixels may vanish: the second value tells whether the file marks anything.

    Args:
        path: the mask, as large as its image.
        image: the image that it belongs to.
        size: (height, width) to bring it to.

    Returns:
        (bool (H, W), whether any pixel of the file is on).

    Raises:
        DataError: no image, damaged, or of another size than its image.
    """
    import numpy as np
    import torch
    from PIL import Image

    found = read_upright(path)
    wanted = upright_size(image)
    if (found.height, found.width) != wanted:
        raise DataError(
            f"{shown(path)} is {found.width}x{found.height} (width x height) but its image {shown(image)} is "
            f"{wanted[1]}x{wanted[0]}; give the mask that belongs to it"
        )
    if found.mode == "LA":
        found = found.convert("L")
    elif found.mode not in ("1", "L") and not found.mode.startswith("I"):
        found = found.convert("RGB")
    pixels = np.array(found) != 0
    on = pixels.any(axis=-1) if pixels.ndim == 3 else pixels
    small = Image.fromarray(on.astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(small) != 0), bool(on.any())
