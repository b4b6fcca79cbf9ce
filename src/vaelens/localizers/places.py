"""What every place has looked like: patches of normal feature maps, and the distance to the most similar one nearby."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

_COMPONENTS = 48
_SAMPLE = 20_000  # patches that the principal components are taken from


@dataclass(frozen=True)
class Places:
    """The patches that normal images showed at each place.

    Attributes:
        mean: (n b b,), of patches of b x b cells of n channels.
        components: (n b b, k), their principal components.
        patches: (h, w, M, k), of M normal images, every `step` cells.
        block: b, the cells of a patch's side; patches that are asked for lie side by side.
        step: cells from one remembered patch to the next, a divisor of `block`.
        window: how many blocks around its place a patch is looked for.
    """

    mean: Tensor
    components: Tensor
    patches: Tensor
    block: int
    step: int
    window: int

    @classmethod
    def fit(
        cls, sample: Tensor, features: Iterable[Tensor], window: int, block: int = 1, step: int = 1, seed: int = 0
    ) -> Places:
        """Take the principal components from some feature maps (S, n, h, w), and remember batches of all (m, n, h, w)."""
        flat = functional.unfold(_padded(sample, block), block, stride=block).transpose(1, 2).flatten(0, 1)
        mean = flat.mean(0)
        order = torch.randperm(len(flat), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        _, _, axes = torch.linalg.svd(flat[order[:_SAMPLE]] - mean, full_matrices=False)
        components = axes[:_COMPONENTS].T.contiguous()
        parts = [_projected(batch, mean, components, block, step) for batch in features]
        return cls(mean, components, torch.cat(parts, 2), block, step, window)

    @cached_property
    def _squares(self) -> Tensor:
        """Squared lengths of the patches, (h, w, M): the same for every batch."""
        return self.patches.square().sum(3)

    def distances(self, features: Tensor) -> Tensor:
        """Feature maps (B, n, h, w) -> least distance to what is remembered around each block: (B, ceil(h/b), ceil(w/b))."""
        asked = _projected(features, self.mean, self.components, self.block, self.block)
        rows, columns, count, _ = asked.shape
        stride = self.block // self.step
        reach = self.window * stride
        least = asked.new_full((rows, columns, count), torch.inf)
        for y in range(rows):
            for there in range(max(0, y * stride - reach), min(len(self.patches), y * stride + reach + 1)):
                for right in range(-reach, reach + 1):
                    first = max(0, -(right // stride))  # the leftmost block that has a place so far to its right
                    seen = slice(first * stride + right, max(0, columns * stride + right), stride)
                    patches = self.patches[there, seen]
                    beside = slice(first, first + len(patches))
                    # |a - b|^2 by a matrix product; what cancels is far below the distances that matter
                    norms = self._squares[there, seen, :, None]
                    crossed = torch.baddbmm(norms, patches, asked[y, beside].transpose(1, 2), alpha=-2)
                    least[y, beside] = torch.minimum(least[y, beside], crossed.amin(1))
        return (least + asked.square().sum(3)).clamp_min(0).sqrt().permute(2, 0, 1)


def bytes_of(images: int, height: int, width: int, step: int) -> int:
    """What so many images' patches take in memory, of feature maps of that size, every `step` cells."""
    return images * -(-height // step) * -(-width // step) * _COMPONENTS * 4


def _projected(features: Tensor, mean: Tensor, components: Tensor, block: int, step: int) -> Tensor:
    """(B, n, h, w) -> (ceil(h / step), ceil(w / step), B, k)."""
    kernels = components.T.reshape(-1, features.shape[1], block, block)
    found = functional.conv2d(_padded(features, block), kernels, -(mean @ components), stride=step)
    return found.permute(2, 3, 0, 1).contiguous()


def _padded(features: Tensor, block: int) -> Tensor:
    """So that the last rows and columns count as well, though a whole block is not left there."""
    return functional.pad(features, (0, block - 1, 0, block - 1), mode="replicate")
