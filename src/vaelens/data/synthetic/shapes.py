"""Where a synthetic defect lies: soft covers about given centres, from a spot to a band across the image.

Lengths are shares of the image's shorter side, so that defects look alike at every size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.data.synthetic.draws import TURN, chance, log_uniform, noise, uniform

_POINTS = 32  # that a stroke is drawn through
_LEAST_RADIUS = 1.0  # of a blob, in pixels, lest it fall between them
_LEAST_THICKNESS = 0.6  # half of a stroke's, in pixels, for the same reason


def small(centres: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Irregular ellipses of a radius of 1 to 12 hundredths of the side."""
    return _blob(centres, height, width, generator, 0.01, 0.12)


def large(centres: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Irregular ellipses of a radius of 12 to 40 hundredths of the side."""
    return _blob(centres, height, width, generator, 0.12, 0.4)


def box(centres: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Ellipses to rectangles, mostly upright or lying; half of them are bands that reach towards the border."""
    count, side = len(centres), min(height, width)
    band = chance(generator, count, 0.5)
    length = side * torch.where(band, uniform(generator, count, 0.5, 1.5), log_uniform(generator, count, 0.05, 0.5))
    breadth = side * log_uniform(generator, count, 0.05, 0.5)
    upright = torch.randint(0, 2, (count,), generator=generator) * TURN / 4
    nearly = upright + 0.06 * torch.randn(count, generator=generator)
    angle = torch.where(chance(generator, count, 0.6), nearly, uniform(generator, count, 0, TURN / 2))
    corners = torch.randint(0, 3, (count,), generator=generator) * 2.0 + 2  # 2 is an ellipse, 8 nearly a rectangle
    power = _planes(torch.where(band, torch.tensor(8.0), corners))
    along, across = _turned(centres, height, width, angle)
    along = (along / _planes(length)).abs().clamp(1e-4, 5)
    across = (across / _planes(breadth)).abs().clamp(1e-4, 5)
    distance = (along**power + across**power) ** (1 / power)
    distance = distance + 0.08 * _planes(uniform(generator, count)) * noise(generator, count, height, width, 6)
    return torch.sigmoid((1 - distance) / _planes(log_uniform(generator, count, 0.01, 0.15)))


def stroke(centres: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Bent, unsteady lines, 4 to 90 hundredths of the side long and up to 6 wide; some upright or lying."""
    count, side = len(centres), min(height, width)
    length = side * log_uniform(generator, count, 0.04, 0.9)
    angle = uniform(generator, count, 0, TURN)
    angle = torch.where(chance(generator, count, 0.3), (angle / TURN * 4).round() * TURN / 4, angle)
    steps = torch.randn(count, 1, 6, generator=generator)
    wobble = functional.interpolate(steps, _POINTS, mode="linear", align_corners=True)[:, 0]
    wobble = wobble * (length * uniform(generator, count, 0, 0.06))[:, None]
    at = torch.linspace(-0.5, 0.5, _POINTS)
    along = length[:, None] * at
    aside = (length * uniform(generator, count, -1, 1))[:, None] * at.square() + wobble
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    rows, columns = sin * along + cos * aside, cos * along - sin * aside
    half = (side * log_uniform(generator, count, 0.003, 0.03)).clamp_min(_LEAST_THICKNESS)
    return torch.sigmoid((_planes(half) - _distance(centres, height, width, rows, columns)) / 0.4)


def island(centres: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Ragged regions, often of several parts, 8 to 40 hundredths of the side in radius: where noise is near its centre's."""
    count, side = len(centres), min(height, width)
    relief = noise(generator, count, height, width, 4) + 0.5 * noise(generator, count, height, width, 10)
    row = (centres[:, 0] * height).long().clamp(0, height - 1)
    column = (centres[:, 1] * width).long().clamp(0, width - 1)
    relief = (relief - _planes(relief[torch.arange(count), row, column])).abs()
    down, right = _offsets(centres, height, width)
    distance = (down.square() + right.square()) / _planes(side * log_uniform(generator, count, 0.08, 0.4)).square()
    soft = _planes(log_uniform(generator, count, 0.02, 0.12))
    return torch.sigmoid((0.75 - relief - 0.4 * distance) / soft) * (distance < 4)


SHAPES: dict[str, Callable[[Tensor, int, int, torch.Generator], Tensor]] = {
    "small": small,
    "large": large,
    "box": box,
    "stroke": stroke,
    "island": island,
}
"""The shapes. Each takes centres (B, 2) as shares of height and width, height and width in pixels, and the generator, and gives
covers (B, height, width) in [0, 1]."""


def _blob(centres: Tensor, height: int, width: int, generator: torch.Generator, least: float, most: float) -> Tensor:
    count = len(centres)
    radius = (min(height, width) * log_uniform(generator, count, least, most)).clamp_min(_LEAST_RADIUS)
    stretch = uniform(generator, count, -0.45, 0.45).exp()
    along, across = _turned(centres, height, width, uniform(generator, count, 0, TURN / 2))
    squared = (along / _planes(radius * stretch)).square() + (across / _planes(radius / stretch)).square()
    distance = squared.sqrt() + 0.35 * noise(generator, count, height, width, 12)
    return torch.sigmoid((1 - distance) / _planes(uniform(generator, count, 0.03, 0.25))) * (squared < 9)


def _distance(centres: Tensor, height: int, width: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels to the lines through points that lie (B, points) rows and columns from the centres: (B, H, W)."""
    down, right = _offsets(centres, height, width)
    nearest = torch.full((len(centres), height, width), torch.inf)
    for point in range(rows.shape[1] - 1):
        row, column = _planes(rows[:, point]), _planes(columns[:, point])
        by_row, by_column = _planes(rows[:, point + 1]) - row, _planes(columns[:, point + 1]) - column
        squared = (by_row.square() + by_column.square()).clamp_min(1e-6)
        share = (((down - row) * by_row + (right - column) * by_column) / squared).clamp(0, 1)
        away = (down - row - share * by_row).square() + (right - column - share * by_column).square()
        nearest = torch.minimum(nearest, away)
    return nearest.sqrt()


def _offsets(centres: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixels down and right of each centre, (B, H, 1) and (B, 1, W)."""
    down = torch.arange(height)[None, :, None] + 0.5 - _planes(centres[:, 0] * height)
    right = torch.arange(width)[None, None, :] + 0.5 - _planes(centres[:, 1] * width)
    return down, right


def _turned(centres: Tensor, height: int, width: int, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels along and across a direction `angle` (radians) from each centre, both (B, H, W)."""
    down, right = _offsets(centres, height, width)
    cos, sin = _planes(angle.cos()), _planes(angle.sin())
    return cos * right + sin * down, cos * down - sin * right


def _planes(values: Tensor) -> Tensor:
    return values[:, None, None]
