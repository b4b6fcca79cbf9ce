"""Whether the closed form that was found is right: on images of noise its weights must be those that autograd gives.

What modules take in and give out does not tell what becomes of a gradient on the way back: a hook may scale it, a custom
function may turn it round, `detach` may stop it. So a closed form is believed once autograd has said the same, anew for
every mode of the model and every change of its hooks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vaelens.attention.encoding import Encoding, Outdated, encode
from vaelens.attention.head import NoClosedForm
from vaelens.attention.plan import Plan
from vaelens.attention.untouched import Snapshot
from vaelens.errors import UsageError

_SEED = 20260
_MOST_IMAGES, _MOST_NUMBERS = 16, 400_000
_EXACT, _IN_TF32, _ROUNDINGS = 1e-3, 1e-2, 8.0


def noise(like: Tensor, shape: tuple[int, ...], count: int) -> Tensor:
    """Images (count, C, H, W) of noise in [0, 1), from a generator of their own, of the type and on the device of `like`."""
    draw = torch.Generator("cpu").manual_seed(_SEED)
    return torch.rand(count, *shape, generator=draw, device="cpu").to(like)


def trial_images(like: Tensor, plan: Plan) -> Tensor:
    """Images of noise to prove a plan on, as many as take little time."""
    per_image = torch.Size(plan.image_shape).numel()
    return noise(like, plan.image_shape, min(_MOST_IMAGES, max(2, _MOST_NUMBERS // per_image)))


def proven(model: nn.Module, images: Tensor, plan: Plan, memory: int) -> tuple[Plan, bool]:
    """The plan, without its closed form, or without that of the log variance, where autograd does not say the same.

    Args:
        model: that the plan was made for; tried in the mode that it is in, and left as it was.
        images: (B, C, H, W), to try it on.
        plan: what was found by looking at the modules.
        memory: see `Encoding`.

    Returns:
        The plan, and whether that holds for other images too: where every gradient is 0, it says nothing about them.
    """
    if plan.head is None:
        return plan, True
    images = images.detach()
    before = Snapshot(model, images.device)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            by_form = encode(model, images, plan, True, memory)
            before.restore()  # the same random numbers for both
            by_autograd = encode(model, images, plan, False, memory)
            tried = {name: _compare(by_form, by_autograd, name) for name in plan.head.finals}
    except (NoClosedForm, Outdated) as reason:
        return replace(plan, head=None, why_not=str(reason) or "a module writes into the map in place"), True
    finally:
        before.restore()
    if tried["mean"] is False:
        why_not = "autograd gives another gradient, which something changes on its way back"
        return replace(plan, head=None, why_not=why_not), True
    finals = {name: last for name, last in plan.head.finals.items() if name == "mean" or tried[name]}
    return replace(plan, head=replace(plan.head, finals=finals)), tried["mean"] is True


def _compare(by_form: Encoding, by_autograd: Encoding, output: str) -> bool | None:
    """Whether both give the same channel weights of one random combination of the latents of an output; None if all are 0."""
    latents = by_form.mean.shape[1]
    draw = torch.Generator("cpu").manual_seed(_SEED)
    row = torch.randn(1, latents, generator=draw, device="cpu").to(by_form.mean)
    for variant in ("cvpr", "arxiv_v1"):
        found = by_form.weights({output: row}, variant).detach()
        try:
            expected = by_autograd.weights({output: row}, variant).detach().to(found.dtype)
        except UsageError:  # no way from the layer to this output
            return False
        largest = expected.abs().max()
        if not (found - expected).abs().max() <= _tolerance(by_form) * largest:
            return False
    return True if largest > 0 else None


def _tolerance(encoding: Encoding) -> float:
    """How far rounding alone can take them apart, relative to the largest weight."""
    device = encoding.source.device.type
    dtypes = [encoding.source.dtype, encoding.mean.dtype]
    if torch.is_autocast_enabled(device):
        dtypes.append(torch.get_autocast_dtype(device))
    coarsest = max(torch.finfo(dtype).eps for dtype in dtypes)
    return max(_EXACT if device == "cpu" else _IN_TF32, _ROUNDINGS * coarsest)
