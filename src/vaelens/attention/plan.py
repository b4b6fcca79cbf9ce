"""What there is to know about a model before its images: which layer, and which way from it to the posterior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vaelens.attention.functions import Function
from vaelens.attention.head import LINEAR, LinearHead, NoClosedForm
from vaelens.attention.layouts import Layouts
from vaelens.attention.search import find_head, is_map, last_feature_map
from vaelens.attention.tokens import Grid
from vaelens.attention.trace import Images, Place, Trace, encoder_of, takes_hooks, trace
from vaelens.attention.untouched import uncompiled
from vaelens.attention.variants import VARIANTS, by_pixel
from vaelens.errors import UsageError, unknown


@dataclass(frozen=True)
class Plan:
    """A layer of a model and how the weights of its channels can be had.

    Attributes:
        layer: dotted name of the layer.
        nth: which call of that module gives the feature map (a module may be called more than once).
        calls: how many calls of it there are in all.
        image_shape: (C, H, W) of the images that the plan holds for.
        shape: (n, h, w) of the feature map.
        latent_dim: D.
        head: the closed form's view of what follows, None where there is none.
        why_not: why there is no closed form; empty where there is one.
        overwritten: whether a later module writes into the feature map in place.
        floats_behind: the most numbers per image that one tensor behind the layer, or the feature map, has.
        layers: all layers whose feature map can be explained, by name, with its shape (n, h, w), in order of the calls.
        function: where the layer is a function between modules: which.
        grid: where the layer gives tokens: how they lie.
        of_images: whether the layer is the images themselves.
    """

    layer: str
    nth: int
    calls: int
    image_shape: tuple[int, ...]
    shape: tuple[int, int, int]
    latent_dim: int
    head: LinearHead | None
    why_not: str
    overwritten: bool
    floats_behind: int
    layers: dict[str, tuple[int, int, int]]
    function: Function | None = None
    grid: Grid | None = None
    of_images: bool = False

    def check_places(self) -> None:
        """Raise UsageError where the feature map has one pixel, in which nothing can lie here or there."""
        if self.shape[1:] == (1, 1):
            larger = [name for name, (_, h, w) in self.layers.items() if h * w > 1]
            raise UsageError(
                f"layer '{self.layer}' gives a map of one pixel, where nothing can lie apart; take one of: {', '.join(larger)}"
            )

    def still_holds(self, model: nn.Module, images: Tensor) -> bool:
        """Whether the images have the plan's shape and the model still has the modules of the closed form, unchanged."""
        if tuple(images.shape[1:]) != self.image_shape:
            return False
        modules = dict(model.named_modules())
        stages = self.head.modules if self.head else ()
        same = all(
            stage.function or (modules.get(stage.name) is stage.module and type(stage.module) is stage.kind) for stage in stages
        )
        return (self.function is not None or self.of_images or self.layer in modules) and same


def make_plan(model: nn.Module, probe: Tensor, layer: str | None, grid: Grid | None = None, variant: str = VARIANTS[0]) -> Plan:
    """Encode `probe` (B, C, H, W) once and look at what was called.

    Args:
        model: has encode(images) -> (mean, logvar).
        probe: images to find the way with; their values do not matter.
        layer: dotted name, None for the last feature map.
        grid: how tokens lie, where a layer gives such.
        variant: with weights by pixel the images themselves are a layer.

    Raises:
        UsageError: no such layer, one that gives no feature map, or one that the posterior does not come from.
    """
    with uncompiled():
        seen = trace(model, probe, themselves=by_pixel(variant))
    layouts = Layouts(seen)
    shapes = _shapes(seen, layouts, grid)
    layers = {seen.calls[at].name: shape for at, shape in shapes.items() if seen.calls[at].name}
    position = _find(model, seen, layer, layers, layouts, shapes, grid)
    call = seen.calls[position]
    laid = not layouts.is_map(call.output)
    head, why_not = None, "its tokens are laid on a grid" if laid else ""
    try:
        head = None if laid else find_head(seen, position)
    except NoClosedForm as reason:
        why_not = str(reason)
    behind = [c.output.tensor[0].numel() for c in seen.calls[position:] if c.output.tensor.ndim]
    return Plan(
        layer=call.name,
        nth=call.function.nth if call.function else call.nth,
        calls=seen.counts[call.counted],
        image_shape=tuple(probe.shape[1:]),
        shape=shapes[position],
        latent_dim=seen.mean.tensor.shape[1],
        head=head,
        why_not=why_not,
        overwritten=call.output.version != Place.of(call.output.tensor).version,
        floats_behind=max(behind),
        layers=layers,
        function=call.function,
        grid=grid if laid else None,
        of_images=isinstance(call.module, Images),
    )


def _shapes(seen: Trace, layouts: Layouts, grid: Grid | None) -> dict[int, tuple[int, int, int]]:
    """(n, h, w) of the calls, by index, that give a feature map, or tokens that fill the grid."""
    shapes = {}
    for at, call in enumerate(seen.calls):
        output = call.output.tensor
        if layouts.is_attention(call) or not _one_each(seen, output):
            continue
        if layouts.is_map(call.output):
            shapes[at] = (output.shape[1], output.shape[2], output.shape[3])
        elif grid is not None and grid.fits(output):
            shapes[at] = (output.shape[-1], grid.height, grid.width)
    return shapes


def _one_each(seen: Trace, output: Tensor) -> bool:
    """Whether an output has one entry for each image, and not for each window, or for each token, (T, B, n)."""
    return output.shape[:1] == seen.mean.tensor.shape[:1]


def _find(
    model: nn.Module,
    seen: Trace,
    layer: str | None,
    layers: dict[str, tuple[int, int, int]],
    layouts: Layouts,
    shapes: dict[int, tuple[int, int, int]],
    grid: Grid | None,
) -> int:
    """The index of the call whose output is the feature map, one of those in `shapes`."""
    if layer is None:
        layer = getattr(model, "explained_layer", None)  # as an adapter says where the last one would tell nothing
    if layer is None:
        found = _default(seen, layouts, shapes) if grid is None else _last_tokens(seen, layouts, shapes)
        if found is None and grid is not None:
            raise UsageError(
                f"no layer of {encoder_of(model)} fills a grid of {grid.height} x {grid.width}; {_tokens(seen, layouts)}"
            )
        if found is None:
            named = f"name the layer, one of: {', '.join(layers)}" if layers else _no_maps(model, seen)
            raise UsageError(f"found no feature map of more than one pixel in {encoder_of(model)}; {named}")
        return found
    for at, call in enumerate(seen.calls):
        if (call.function or isinstance(call.module, Images)) and call.name == layer and layer in layers:
            return at
    # A module may be known by several names; its calls go by the first.
    module = dict(model.named_modules(remove_duplicate=False)).get(layer) if isinstance(layer, str) else None
    index = None if module is None else seen.last_call(module)
    if module is not None and any(seen.calls[at].module is module for at in shapes):
        return max(at for at in shapes if seen.calls[at].module is module)
    if index is not None:
        given = seen.calls[index].output.tensor
        there = f"there are: {', '.join(layers)}" if layers else _no_maps(model, seen)
        if not _one_each(seen, given):
            raise UsageError(
                f"layer '{layer}' gives {tuple(given.shape)} for {len(seen.mean.tensor)} images, and not a map or tokens of "
                f"each; {there}"
            )
        shape = tuple(given.shape[1:])
        tokens = (
            f"; if these are tokens, say how they lie: grid=(height, width) of {shape[0]} at most" if len(shape) == 2 else ""
        )
        if layouts.in_rows(seen.calls[index].output):
            tokens = f", as its channels come last; say so: grid=({shape[0]}, {shape[1]})"
        raise UsageError(f"layer '{layer}' gives {shape} per image, no feature map (n, h, w){tokens}; {there}")
    if module is not None:
        if layers:
            raise UsageError(f"layer '{layer}' is not called by encode; there are: {', '.join(layers)}")
        raise UsageError(f"no call of layer '{layer}' is seen; {_no_maps(model, seen)}")
    if layer == Images.NAME:
        raise UsageError("the images themselves have no channels to weigh: explain them pixel by pixel, variant='hirescam'")
    raise unknown("layer", layer, layers)


def _no_maps(model: nn.Module, seen: Trace) -> str:
    """Why there is no layer to name."""
    unseen = next((name for name, module in model.named_modules() if not takes_hooks(module)), None)
    if unseen is not None:
        within = f"'{unseen}'" if unseen else "it"
        return (
            f"layers within {within}, which torch.jit made, cannot be seen: explain the model as it was written, "
            "with the same weights (load_state_dict)"
        )
    if not any(isinstance(call.module, LINEAR) for call in seen.calls):
        return "no call of a layer is seen, as of a model that was exported: explain it as it was written"
    if any(call.output.tensor.ndim == 3 for call in seen.calls):
        return "some give tokens (B, T, n): say how they lie, grid=(height, width)"
    return (
        "no module gives one of (B, n, h, w), and linear layers alone keep no places; "
        "variant='hirescam' explains the pixels of the images themselves"
    )


def _tokens(seen: Trace, layouts: Layouts) -> str:
    """Which grids there would be."""
    tokens = [call.output.tensor for call in seen.calls if call.output.tensor.ndim == 3]
    counts = {str(output.shape[1]) for output in tokens if _one_each(seen, output)}
    rows = {f"{h} x {w}" for h, w, _ in (c.output.tensor.shape[1:] for c in seen.calls if layouts.in_rows(c.output))}
    found = [f"rows of tokens {', '.join(sorted(rows))}"] if rows else []
    found += [f"tokens (B, T, n) with T {', '.join(sorted(counts))}"] if counts else []
    if tokens and not found:
        return f"its tokens {tuple(tokens[-1].shape)} do not lie image by image, (B, T, n), as with batch_first=True"
    return f"there are {' and '.join(found)}" if found else "it has no tokens: leave out the grid"


def _last_tokens(seen: Trace, layouts: Layouts, shapes: dict[int, tuple[int, int, int]]) -> int | None:
    """The last tokens that the mean may come from."""
    tokens = [at for at in shapes if seen.calls[at].name and not layouts.is_map(seen.calls[at].output)]
    return tokens[-1] if tokens else None


def _default(seen: Trace, layouts: Layouts, shapes: dict[int, tuple[int, int, int]]) -> int | None:
    """The last feature map before the mean; where modules alone do not lead there, the last convolution with its activation."""
    place = last_feature_map(seen, layouts)
    if place is not None:
        index = seen.outermost(place)
        if index in shapes and seen.calls[index].name:
            return index
    for index in range(len(seen.calls) - 1, -1, -1):
        call = seen.calls[index]
        if isinstance(call.module, nn.Conv2d) and index in shapes and is_map(call.output.tensor):
            return _with_activation(seen, index)
    first = seen.calls[0] if seen.calls else None
    return 0 if first and isinstance(first.module, Images) and is_map(first.output.tensor) else None


def _with_activation(seen: Trace, index: int) -> int:
    """Follow the feature map of call `index` through the norms and activations right behind it, which keep its shape."""
    for later in range(index + 1, len(seen.calls)):
        call, before = seen.calls[later], seen.calls[index].output
        same_shape = call.output.tensor.shape == before.tensor.shape
        if call.leaf and same_shape and type(call.module) not in LINEAR and call.input.holds_same(before):
            index = later
    return index
