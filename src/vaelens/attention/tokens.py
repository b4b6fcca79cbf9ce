"""Tokens of a transformer as a feature map: those of image patches on a grid, in the order in which one reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import UsageError, whole


@dataclass(frozen=True)
class Grid:
    """How the tokens (B, T, n) of a layer lie in the image: the last `height` x `width` of them, row by row.

    Tokens before those, such as a class token or registers, belong to no place and are left out of maps. Tokens that lie so
    already, channels last (B, height, width, n), have theirs.
    """

    height: int
    width: int

    @classmethod
    def of(cls, sides: object) -> Grid | None:
        """From (height, width); None of None.

        Raises:
            UsageError: not two whole numbers from 1 on.
        """
        if sides is None:
            return None
        if not isinstance(sides, tuple | list) or len(sides) != 2:
            raise UsageError(f"grid is (height, width) in tokens, got {sides!r}")
        return cls(whole("height of the grid", sides[0]), whole("width of the grid", sides[1]))

    @property
    def size(self) -> int:
        """How many tokens have a place."""
        return self.height * self.width

    def fits(self, output: Tensor) -> bool:
        """Whether an output is tokens (B, T, n) of which this grid can be filled, or (B, height, width, n)."""
        if output.ndim == 4:
            return tuple(output.shape[1:3]) == (self.height, self.width)
        return output.ndim == 3 and output.shape[1] >= self.size

    def map_of(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, n) or (B, height, width, n) -> feature map (B, n, height, width)."""
        if tokens.ndim == 4:
            return tokens.permute(0, 3, 1, 2).contiguous()
        placed = tokens[:, tokens.shape[1] - self.size :]
        return placed.transpose(1, 2).reshape(len(tokens), tokens.shape[2], self.height, self.width)

    def tokens_of(self, features: Tensor, tokens: Tensor) -> Tensor:
        """A feature map (B, n, height, width) back in the places that it came from among `tokens`."""
        if tokens.ndim == 4:
            return features.permute(0, 2, 3, 1).contiguous()
        placed = features.flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : tokens.shape[1] - self.size], placed], dim=1)
