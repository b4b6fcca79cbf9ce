"""The convolution that a feature map goes into, where nothing else takes it in: its backward pass need not be run.

A channel's weight is the mean over pixels of the gradient by the feature map (eq. 3), and not that gradient itself. Behind a
convolution the mean comes from the gradient by the convolution's output, summed over pixels for each tap of the kernel; at the
borders without those outputs whose tap lies in the padding. So the largest of all backward steps, the one at the feature
map's own resolution, becomes two small matrix products. What takes in the map is read from autograd's graph, so that no other
way out of it is missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

_CONVOLUTION, _COPY = "ConvolutionBackward0", "CloneBackward0"


@dataclass(frozen=True)
class Entrance:
    """The one convolution that takes in a feature map (B, n, h, w).

    Attributes:
        output: where autograd has the gradient by the convolution's output (B, m, h', w').
        weight: (m, n, r, s), its kernel.
        down: (r, h'), 1 where that row of the kernel meets the map, and not its padding, at that row of the output.
        right: (s, w'), likewise along rows.
        pixels: h w.
    """

    output: GradientEdge
    weight: Tensor
    down: Tensor
    right: Tensor
    pixels: int

    def weights(self, gradient: Tensor) -> Tensor:
        """Gradient (..., m, h', w') by the output -> mean over pixels of the gradient by the map, (..., n)."""
        taps = self.down @ gradient @ self.right.T
        return taps.flatten(-3) @ self.weight.permute(0, 2, 3, 1).flatten(0, 2) / self.pixels


def entrance(features: Tensor, outputs: Mapping[str, Tensor]) -> Entrance | None:
    """The convolution between a feature map and the posterior; None where something else, or more, takes in the map.

    Args:
        features: (B, n, h, w), a leaf of the graph that leads to `outputs`.
        outputs: such as "mean" and "logvar" (B, D).
    """
    if not features.is_leaf or features._backward_hooks or features.ndim != 4:
        return None
    node = _taker(features, outputs)
    if node is None or node.name() != _CONVOLUTION:
        return None
    try:
        weight, groups, turned = node._saved_weight, node._saved_groups, node._saved_transposed  # type: ignore[attr-defined]
        strides, paddings = node._saved_stride, node._saved_padding  # type: ignore[attr-defined]
        dilations = node._saved_dilation  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # another version of torch, or a weight that was written to since
        return None
    if turned or groups != 1 or weight.ndim != 4 or weight.dtype != features.dtype or len(strides) != 2:
        return None
    meets = [
        _meets(side, taps, stride, padding, dilation).to(features)
        for side, taps, stride, padding, dilation in zip(
            features.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True
        )
    ]
    pixels = features.shape[2] * features.shape[3]
    return Entrance(GradientEdge(node, 0), weight.detach(), meets[0], meets[1], pixels)


def _taker(features: Tensor, outputs: Mapping[str, Tensor]) -> Node | None:
    """The one node of the graph that takes in the feature map or a copy of it; None where there are several."""
    takers: dict[Node, list[Node]] = {}  # of each node's output, one for each time that it is taken
    waiting = [output.grad_fn for output in outputs.values() if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for before, _ in node.next_functions:
            if before is not None:
                takers.setdefault(before, []).append(node)
                if before not in seen:
                    seen.add(before)
                    waiting.append(before)
    node = get_gradient_edge(features).node
    while len(takers.get(node, [])) == 1:
        node = takers[node][0]
        if node.name() != _COPY:
            return node
    return None


def _meets(side: int, taps: int, stride: int, padding: int, dilation: int) -> Tensor:
    """(taps, outputs), 1 where a tap of the kernel lies within a side of so many pixels and 0 where it lies in the padding."""
    outputs = (side + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    places = torch.arange(outputs, device="cpu") * stride - padding + torch.arange(taps, device="cpu")[:, None] * dilation
    return ((places >= 0) & (places < side)).double()
