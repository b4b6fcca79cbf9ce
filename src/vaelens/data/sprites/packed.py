"""All 737,280 sprites, a bit a pixel: 378 MB, of which a batch is a gather."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaelens.data.sprites.geometry import ANGLES, REACH, SCALES, SHAPES, SIDE, SIZES, STEPS, gauge, offsets, pixels

COUNT = int(np.prod(SIZES))
ROW_BYTES = SIDE // 8
_REACH = REACH * STEPS


def draw_all() -> NDArray[np.uint8]:
    """All sprites (737280, 512) in the official order, posY fastest, as `np.packbits` packs them.

    A shape of one size and orientation is drawn once on a grid of 1/31 pixel; every position is a choice of its rows and
    columns, for the centres lie 32/31 pixels apart.
    """
    images = np.empty((len(SHAPES), len(SCALES), len(ANGLES), SIZES[3], SIZES[4], SIDE), np.uint64)
    fine = pixels(np.arange(-_REACH, _REACH))
    # One row and column more than the grid has, of pixels that are off, stands for all that is out of reach.
    places = offsets(np.arange(SIZES[3])) + _REACH
    places[(places < 0) | (places >= 2 * _REACH)] = 2 * _REACH
    on = np.zeros((2 * _REACH + 1, 2 * _REACH + 1), np.bool_)
    for shape in range(len(SHAPES)):
        for orientation in range(len(ANGLES)):
            least_scale = gauge(shape, orientation, fine, fine[:, None])
            for scale, size in enumerate(SCALES):
                np.less(least_scale, size, out=on[:-1, :-1])
                bits = np.packbits(on.take(places.ravel(), axis=1), axis=1)
                rows = bits.reshape(-1, SIZES[3], ROW_BYTES).view(np.uint64)[..., 0]
                images[shape, scale, orientation] = rows[places].transpose(2, 0, 1)
    return images.reshape(COUNT, SIDE).view(np.uint8)
