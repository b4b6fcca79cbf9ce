"""Synthetic defects that move: drawn on the middle one of neighbouring frames and carried straight on to the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vaelens.data.synthetic.draws import TURN, uniform
from vaelens.errors import UsageError

_FASTEST = 0.08  # of the shorter side, from a frame to the next


def middle_frame(clips: Tensor) -> Tensor:
    """The middle one of each clip's frames (B, F, H, W): (B, 1, H, W)."""
    at = clips.shape[1] // 2
    return clips[:, at : at + 1]


def carried(clips: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
    """Carry what was drawn on the middle frames to the others, each at a speed and in a direction of its own.

    Args:
        clips: as they were, (B, F, H, W), neighbouring frames as channels, in [0, 1].
        drawn: their middle frames (B, 1, H, W) with something drawn on them.
        generator: on the CPU.

    Returns:
        (B, F, H, W), in [0, 1]; the middle frames are those drawn.

    Raises:
        UsageError: one frame alone, or middle frames of another shape.
    """
    count, frames, height, width = clips.shape
    if frames < 2 or drawn.shape != (count, 1, height, width):
        raise UsageError(
            f"what moves takes clips (B, F, H, W) and middle frames, got {tuple(clips.shape)}, {tuple(drawn.shape)}"
        )
    change = drawn - middle_frame(clips)
    speed = uniform(generator, count, 0, _FASTEST) * min(height, width)
    angle = uniform(generator, count, 0, TURN)
    # affine_grid counts from -1 to 1 and asks where each pixel comes from
    step = torch.stack([-2 * speed * angle.cos() / width, -2 * speed * angle.sin() / height], 1)
    moved = clips.clone()
    for frame in range(frames):
        here = torch.eye(2, 3).repeat(count, 1, 1)
        here[:, :, 2] = step * (frame - frames // 2)
        grid = functional.affine_grid(here, [count, 1, height, width], align_corners=False)
        moved[:, frame : frame + 1] += functional.grid_sample(change, grid, align_corners=False)
    moved[:, frames // 2 : frames // 2 + 1] = drawn
    return moved.clamp(0, 1)
