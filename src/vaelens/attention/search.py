"""Finding the head in what a model was seen to call (see `head` and `trace`); `proof` holds it against autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaelens.attention.head import (
    DROPOUTS,
    LINEAR,
    NORMS,
    POOLING,
    SHAPING,
    SLOPES,
    Final,
    LinearHead,
    NoClosedForm,
    Stage,
    margin,
)
from vaelens.attention.layouts import Layouts
from vaelens.attention.trace import Call, Place, Trace


def is_map(tensor: Tensor) -> bool:
    """Whether it is a feature map (B, n, h, w) of more than one pixel."""
    return tensor.ndim == 4 and tensor.shape[2] * tensor.shape[3] > 1


def last_feature_map(trace: Trace, layouts: Layouts) -> Place | None:
    """The last feature map of more than one pixel before the mean, walking back from the mean through modules.

    Of a latent that is the mean over a map's pixels it is the one before: that map would explain itself.
    """

    def found(place: Place) -> bool:
        return is_map(place.tensor) and layouts.is_map(place)

    mixed = False  # whether a layer lies between here and the mean
    index = _maker(trace, trace.mean)
    while index is not None:
        mixed = mixed or type(trace.calls[index].module) in LINEAR
        place = trace.calls[index].input
        if found(place) and mixed:
            return place
        if found(place):
            before = _maker(trace, place)  # which may have given more channels than are pooled
            index = before if before is not None and before < index else None
            continue
        index = trace.producer(place, index)
        if index is not None and found(trace.calls[index].output) and mixed:
            return trace.calls[index].output
    return None


def find_head(trace: Trace, position: int) -> LinearHead:
    """The head from the feature map (B, n, h, w), the output of call `position`, to the posterior.

    Raises:
        NoClosedForm: the way from the map to the mean is not Flatten, linear, piecewise linear, linear.
    """
    features = trace.calls[position].output
    stages, final, given = _walk(trace, trace.mean, position)
    n, h, w = features.tensor.shape[1:]
    entry = _entry(stages, final, (n, h, w))
    finals = {"mean": final}
    try:
        others, logvar, taken = _walk(trace, trace.logvar, position)
        # What both take in is the same, though each may have made vectors of it by a call of its own.
        takes_map = _entry(others, logvar, (n, h, w)) == len(others)
        if taken.holds_same(given) and takes_map == (entry == len(stages)):
            finals["logvar"] = logvar
    except NoClosedForm:
        pass
    head = LinearHead(tuple(stages), entry, finals, (n, h, w))
    if why_not := head.why_altered():
        raise NoClosedForm(why_not)
    return head


def slice_units(whole: Place, output: Place) -> Tensor | None:
    """Which units (D,) of a linear layer's `whole` output (B, J) the columns of `output` (B, D) are; None if they are none."""
    made, tensor = whole.tensor, output.tensor
    units = made[0].numel()
    vectors = made.is_contiguous() and units == made.shape[1] and len(made) == len(tensor)
    if not (vectors and output.shares_storage(whole) and whole.version == output.version):
        return None
    start = int(tensor.storage_offset()) - int(made.storage_offset())
    picked = start + torch.arange(tensor.shape[1], device="cpu") * (tensor.stride(1) if tensor.shape[1] > 1 else 1)
    aligned = len(tensor) == 1 or tensor.stride(0) == units
    return picked if aligned and start >= 0 and int(picked[-1]) < units else None


def _maker(trace: Trace, output: Place) -> int | None:
    """Index of the last leaf call that gave out the memory of `output`."""
    for index in range(len(trace.calls) - 1, -1, -1):
        call = trace.calls[index]
        if call.leaf and type(call.module) not in SHAPING and output.shares_storage(call.output):
            return index
    return None


def _final(trace: Trace, output: Place) -> tuple[int, Final]:
    """The call of the linear layer whose output `output` (B, D) is, or is a slice of."""
    index = _maker(trace, output)
    if index is not None:
        call = trace.calls[index]
        if type(call.module) not in LINEAR:
            what = "function" if call.function else type(call.module).__name__
            raise NoClosedForm(f"'{call.name}' ({what}) comes last, and not a linear layer")
        picked = slice_units(call.output, output)
        if picked is not None:
            everything = torch.arange(call.output.tensor.shape[1], device="cpu")
            return index, Final(_stage(call), picked, torch.equal(picked, everything))
    raise NoClosedForm("the mean is not the output of a linear layer or a slice of one, but computed from it")


def _stage(call: Call) -> Stage:
    return Stage(call.name, call.module, call.nth, type(call.module), tuple(call.input.tensor.shape[1:]), call.function)


def _walk(trace: Trace, output: Place, position: int) -> tuple[list[Stage], Final, Place]:
    """The stages from the output of call `position` to the last layer of `output`, that layer, and what it takes in.

    From each input to the call that made it.
    """
    features = trace.calls[position].output
    index, final = _final(trace, output)
    given = trace.calls[index].input
    stages: list[Stage] = []
    while True:
        call = trace.calls[index]
        producer = trace.producer(call.input, index)
        # A module that gives its input on (Flatten; dropout in eval mode) is a stage too: it may copy or drop another time.
        if call.input.holds_same(features) and (producer is None or producer <= position):
            break
        if producer is None:
            raise NoClosedForm(f"what enters '{call.name}' is not the output of a module, or this layer lies elsewhere")
        made = trace.calls[producer]
        if type(made.module) not in (*SLOPES, *LINEAR, *POOLING, *NORMS, *DROPOUTS, *SHAPING):
            what = "function" if made.function else type(made.module).__name__
            raise NoClosedForm(f"'{made.name}' ({what}) is not piecewise linear")
        stages.insert(0, _stage(made))
        index = producer
    return stages, final, given


def _entry(stages: list[Stage], final: Final, shape: tuple[int, int, int]) -> int:
    """Which stage takes in the map; NoClosedForm unless those before leave it alone and those after act on single units."""
    n, h, w = shape
    entry = -1 if h * w == 1 else None
    units = n
    for position, stage in enumerate([*stages, final.stage]):
        module, what = stage.module, f"'{stage.name}' ({stage.kind.__name__})"
        if stage.kind in DROPOUTS + SHAPING:
            continue
        if entry is not None:
            if not _on_units(module, units):
                raise NoClosedForm(f"{what} does not act on the {units} units before it one by one or as one vector")
        elif _takes_all(stage, (n, h, w)):
            entry = position
        elif stage.kind in SLOPES or stage.kind in NORMS:
            raise NoClosedForm(
                f"{what} acts on each pixel before the first linear layer; the layer '{stage.name}' may have one"
            )
        else:
            raise NoClosedForm(f"{what} mixes pixels, but not the whole map at once")
        if stage.kind in LINEAR:
            units = len(module.weight)  # type: ignore[arg-type]
    assert entry is not None
    return entry


def _on_units(module: nn.Module, units: int) -> bool:
    """Whether a module behind the first linear layer takes its input (B, units) as vectors; a view may give it other shapes."""
    if isinstance(module, nn.Linear):
        return module.in_features == units
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and _plain(module) and module.in_channels == units
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return module.running_var is not None and module.num_features == units
    if isinstance(module, nn.PReLU):
        return module.num_parameters in (1, units)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    return not isinstance(module, nn.AvgPool2d)


def _plain(conv: nn.Conv2d) -> bool:
    return conv.padding in ((0, 0), "valid") and conv.groups == 1 and conv.dilation == (1, 1)


def _covers(conv: nn.Conv2d, size: tuple[int, int]) -> bool:
    """Whether a convolution has one position on a map (h, w) and there reaches all of it; a border of zeros adds nothing."""
    if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return False
    sides = zip(size, conv.kernel_size, margin(conv), conv.stride, (0, 1), strict=True)
    return all(
        before + side <= kernel and side + _padding(conv, axis) < kernel + step for side, kernel, before, step, axis in sides
    )


def _padding(conv: nn.Conv2d, axis: int) -> int:
    """Rows, or columns, that padding adds on both sides together."""
    if isinstance(conv.padding, str):
        return 0 if conv.padding == "valid" else conv.kernel_size[axis] - 1
    return 2 * conv.padding[axis]


def _takes_all(stage: Stage, shape: tuple[int, int, int]) -> bool:
    """Whether the module turns the whole map into units: linear, a convolution that covers it, or global pooling."""
    n, h, w = shape
    module = stage.module
    if isinstance(module, nn.Linear):
        return module.in_features == n * h * w
    if stage.takes != shape:
        return False  # a view: what the module takes for channels and pixels are others
    if isinstance(module, nn.Conv2d):
        return module.in_channels == n and _covers(module, (h, w))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if isinstance(module, nn.AvgPool2d):
        whole = module.kernel_size in ((h, w), h if h == w else None)
        return whole and module.padding in (0, (0, 0)) and module.divisor_override is None
    return False
