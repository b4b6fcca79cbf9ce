"""Channel weights by a matrix product, for a head that is piecewise linear behind one linear layer (see `head`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelens.attention.head import POOLING, LinearHead, Stage, matrix, matrix_on, weight_of
from vaelens.attention.variants import Kept

# Without gradients the batch goes through in pieces whose (images, rows, units) product stays in the processor's cache: it
# is written once and read once, and memory traffic would otherwise cost more than the arithmetic.
_CACHE_BYTES = 2 << 20


def closed_form_weights(
    head: LinearHead,
    slopes: Mapping[Stage, Tensor],
    cotangents: Mapping[str, Tensor],
    batch: int,
    kept: Kept,
    limit: int,
    means: Means | None = None,
) -> Tensor:
    """Channel weights of R scalars that are linear in the posterior.

    Args:
        head: the head, with a final layer for every key of `cotangents`.
        slopes: (B, J) for each activation of the head.
        cotangents: by output, the derivative of each scalar by that output: (R, D), or (B, R, D) where it differs by image.
        batch: B.
        kept: what is kept of a gradient.
        limit: bytes that a gradient, or what stands for it, may take, where more than its means is needed.
        means: of the layer that takes in the map, where they were taken before.

    Returns:
        (B, R, n), or as `kept` has it, differentiable by the network's weights and the cotangents when gradients are on.
    """
    rows: Tensor | None = None
    for name, cotangent in cotangents.items():
        more = head.finals[name].rows(cotangent)
        rows = more if rows is None else rows + more
    assert rows is not None
    entry = _Entry(head, kept, rows.shape[-2], means)
    gains = [(stage, stage.gain(slopes)) for stage in head.stages[head.entry + 1 :]]
    if rows.ndim == 2 and not head.activations and kept.features is None:
        return _pull_back(rows, gains, entry, slice(0, 1)).expand(batch, -1, -1)
    if torch.compiler.is_exporting():  # into a graph that takes batches of any size, whose count is no number yet
        return _pull_back(rows, gains, entry, slice(0, batch))
    piece = batch
    if not torch.is_grad_enabled() and entry.by_pixel is None:
        unit = rows.shape[-2] * rows.shape[-1] * rows.element_size()
        piece = max(1, _CACHE_BYTES // unit)
    if entry.numbers:
        piece = min(piece, max(1, limit // (entry.numbers * rows.element_size())))
    parts = [_pull_back(rows, gains, entry, slice(start, min(start + piece, batch))) for start in range(0, batch, piece)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Means:
    """G: the weights of the linear layer that takes in the map, as means over the map's pixels.

    They depend on no image, and to take them means to read all weights of a layer that is often the network's largest.

    Attributes:
        values: (J, n).
        written: what tells the weights that they are of from others, and from the same written to since; not where that was
            done behind autograd's back, by `.data`.
    """

    values: Tensor
    written: tuple[int, int]

    @classmethod
    def of(cls, head: LinearHead) -> Means | None:
        """Those of a head; None where another layer takes in the map."""
        if not 0 <= head.entry < len(head.stages) or head.stages[head.entry].kind in POOLING:
            return None
        module = head.stages[head.entry].module
        return cls(_means(matrix_on(module, head.shape), head.shape), _written(weight_of(module)))

    def hold(self, weights: Tensor) -> bool:
        """Whether they are those of a layer's weights as these are now, and no gradient is wanted."""
        return not torch.is_grad_enabled() and self.written == _written(weights)


def _means(weights: Tensor, shape: tuple[int, int, int]) -> Tensor:
    n, h, w = shape
    return weights.view(-1, n, h * w).mean(-1)


def _written(weights: Tensor) -> tuple[int, int]:
    return weights.data_ptr(), -1 if weights.is_inference() else weights._version


def _pull_back(rows: Tensor, gains: list[tuple[Stage, Tensor | None]], entry: _Entry, images: slice) -> Tensor:
    """Lead `rows` (R, J) or (B, R, J) back through the stages to the map, for the images of one slice."""
    if rows.ndim == 3:
        rows = rows[images]
    for stage, gain in reversed(gains):
        if stage.kind in (nn.Linear, nn.Conv2d):
            rows = rows @ matrix(stage.module)
        elif gain is not None:
            rows = rows * (gain[images].unsqueeze(1) if gain.ndim == 2 else gain)
    if rows.ndim == 2:
        rows = rows.expand(images.stop - images.start, -1, -1)
    return entry.kept_of(rows, images)


class _Entry:
    """The layer that takes in the map, from behind: cotangent (..., J) of its output -> channel weights (..., n), or more.

    Pixel by pixel the gradient need not be made: sum_k (sum_j r_j W1[j, k, xy]) A_k(xy) = sum_j r_j T[j, xy], where
    T[j, xy] = sum_k W1[j, k, xy] A_k(xy) serves all R scalars. For few channels or scalars the gradient is the shorter way.

    Attributes:
        numbers: per image, that the largest tensor of what follows has.
    """

    def __init__(self, head: LinearHead, kept: Kept, scalars: int, means: Means | None) -> None:
        n, h, w = self.shape = head.shape
        self.kept = kept
        self.w1: Tensor | None = None
        self.by_pixel: Tensor | None = None
        self.share: float | None = None
        self.full = not kept.means_do
        self.numbers = 0 if kept.means_alone else scalars * n * h * w
        if head.entry < 0:
            self.share = 1.0
        elif head.entry < len(head.stages):
            stage = head.stages[head.entry]
            if stage.kind in POOLING:
                self.share = 1.0 / (h * w)
                return
            held = means if means is not None and means.hold(weight_of(stage.module)) else None
            if held is not None and kept.means_alone:
                self.w1 = held.values
                return
            self.w1 = matrix_on(stage.module, head.shape)
            if kept.features is not None and (scalars - 1) * (n - 1) > 1:
                self.by_pixel = self.w1.view(-1, n, h * w).permute(2, 1, 0).contiguous()
                self.numbers = len(self.w1) * h * w
            elif kept.features is not None:
                self.full = True
            if not self.full:
                self.w1 = _means(self.w1, head.shape) if held is None else held.values

    def kept_of(self, rows: Tensor, images: slice) -> Tensor:
        """Cotangents (B, R, J) for the images of one slice -> what is kept of the gradient by the map."""
        features = self.kept.features if self.kept.features is None else self.kept.features[images]
        if self.by_pixel is not None:
            assert features is not None
            assert self.w1 is not None
            # of one type: under autocast the map, what it meets and the cotangents may each have another
            pixels = features.flatten(2).permute(2, 0, 1).to(self.by_pixel.dtype)
            maps = torch.bmm(rows, torch.bmm(pixels, self.by_pixel).permute(1, 2, 0).to(rows.dtype))  # from (h w, B, J)
            weights = rows @ self.w1
            return torch.cat([weights, maps.to(weights.dtype)], -1)
        if self.w1 is not None:
            rows = rows @ self.w1
            if not self.full:
                return rows
        if self.share is not None:
            _, h, w = self.shape
            gradient = (rows * self.share)[..., None, None].expand(*rows.shape, h, w)
        else:
            gradient = rows.view(*rows.shape[:-1], *self.shape)
        return self.kept.of(gradient, None if features is None else features.unsqueeze(1))
