"""Outputs of four axes that are no feature maps (B, n, h, w).

Transformers with windows (Swin) and ConvNeXt lay their tokens out as (B, h, w, n), and attention is (B, heads, T, T) between T
tokens. Taken for maps, rows would be channels. What acts on the last axis alone, a linear layer or a layer norm, tells.
"""

from __future__ import annotations

from torch import nn

from vaelens.attention.trace import Call, Place, Trace

_OF_MAPS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)
_PASSES = (nn.Softmax, nn.Dropout, nn.Identity)  # what a model gives its attention through


class Layouts:
    """What the tensors of one encoding are, where they have four axes."""

    def __init__(self, trace: Trace) -> None:
        self._told = [place for call in trace.calls if _on_last_axis(call) for place in (call.input, call.output)]
        # Others of that shape, such as sums, are the same; but where all sides are equal, as a map's would be too, not those
        # that a convolution gives or takes.
        self._shapes = {tuple(place.tensor.shape[1:]) for place in self._told}
        self._maps: list[Place] = []
        for call in trace.calls if any(len({*shape}) == 1 for shape in self._shapes) else ():
            if isinstance(call.module, _OF_MAPS):
                self._maps += [call.input, call.output]
            elif call.leaf and call.input.tensor.shape == call.output.tensor.shape and self._is_known(call.input):
                self._maps.append(call.output)
        self._counts = {call.output.tensor.shape[1] for call in trace.calls if call.output.tensor.ndim == 3}

    def is_map(self, place: Place) -> bool:
        """Whether a tensor may be a feature map (B, n, h, w)."""
        return place.tensor.ndim == 4 and not self.in_rows(place)

    def in_rows(self, place: Place) -> bool:
        """Whether it is tokens (B, h, w, n), channels last."""
        shape = tuple(place.tensor.shape[1:])
        if place.tensor.ndim != 4 or shape not in self._shapes:
            return False
        return len({*shape}) > 1 or not self._is_known(place) or any(place.holds_same(told) for told in self._told)

    def _is_known(self, place: Place) -> bool:
        return any(place.holds_same(other) for other in self._maps)

    def is_attention(self, call: Call) -> bool:
        """Whether a call gives attention (B, heads, T, T) between the T tokens that another has, or (B, heads, T, n)."""
        output = call.output.tensor
        if output.ndim != 4 or output.shape[2] not in self._counts:
            return False
        passes = isinstance(call.module, _PASSES) and output.shape[2] == output.shape[3]
        return passes or type(call.module).__name__ == "Rearrange"  # of einops, in MONAI's attention


def _on_last_axis(call: Call) -> bool:
    module, shape = call.module, call.output.tensor.shape
    if len(shape) != 4:
        return False
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        norm = nn.LayerNorm if isinstance(module, nn.LayerNorm) else nn.RMSNorm
        # One derived from it may norm the channels of a map, as torchvision's LayerNorm2d does.
        own = type(module).forward is not norm.forward and shape[1] == module.normalized_shape[0]
        return len(module.normalized_shape) == 1 and not own
    return isinstance(module, nn.Linear)
