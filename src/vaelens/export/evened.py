"""One brightness for all images in operations that a file can hold; the same bytes as `vaelens.data.brightness` gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaelens.data.brightness import PERCENTILES, evened

_STEPS = (128, 64, 32, 16, 8, 4, 2, 1)
_SPAN = 511  # differences of two bytes, -255 to 255


class Evened(nn.Module):
    """Brings each image to the common brightness and contrast.

    Args:
        apart: of several frames as channels, each by itself; False: all channels of an image together.
    """

    table: Tensor

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        offsets = torch.arange(-255, 256)
        self.register_buffer("table", torch.cat([evened(offsets, width) for width in range(256)]))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> uint8 (B, C, H, W)."""
        values = images.flatten(2) if self.apart else images.flatten(1).unsqueeze(1)
        small = values.to(torch.float32)
        low, median, high = (_percentile(small, percent) for percent in PERCENTILES)
        row = (high - low).to(torch.int64) * _SPAN + 255 - median.to(torch.int64)
        places = values.to(torch.int64) + row.unsqueeze(-1)
        return self.table[places].reshape(images.shape)


def _percentile(values: Tensor, percent: int) -> Tensor:
    """Rows (..., N) of whole numbers up to 255 -> (...), the smallest that at least so many percent of a row do not exceed."""
    needed = -(-values.shape[-1] * percent // 100)
    least = torch.zeros_like(values[..., 0])
    for step in _STEPS:  # bit by bit: ONNX counts no bytes, and sorting takes longer
        enough = (values <= (least + (step - 1)).unsqueeze(-1)).to(torch.float32).sum(-1) >= needed
        least = torch.where(enough, least, least + step)
    return least
