"""Whether the closed form that was found is right: on two images its weights must be those that autograd gives.

What modules take in and give out does not tell what becomes of a gradient on the way back: a hook may scale it, a custom
function may turn it round, `detach` may stop it. So a plan is believed once autograd has said the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vaelens.attention.encoding import Encoding, Outdated, encode
from vaelens.attention.head import NoClosedForm
from vaelens.attention.plan import Plan
from vaelens.attention.untouched import eval_mode, undone
from vaelens.errors import UsageError

_SEED = 20260
_EXACT, _IN_TF32, _ROUNDINGS = 1e-3, 1e-2, 8.0


def proven(model: nn.Module, images: Tensor, plan: Plan, memory: int) -> Plan:
    """The plan, without its closed form, or without that of the log variance, where autograd says otherwise.

    Args:
        model: that the plan was made for; looked at in eval mode, and left as it was.
        images: (B, C, H, W), a few.
        plan: what was found by looking at the modules.
        memory: see `Encoding`.
    """
    if plan.head is None:
        return plan
    with eval_mode(model), undone(model, images.device), torch.inference_mode(False), torch.enable_grad():
        try:
            by_form = encode(model, images.detach(), plan, True, memory)
            by_autograd = encode(model, images.detach(), plan, False, memory)
        except (NoClosedForm, Outdated) as reason:
            return replace(plan, head=None, why_not=str(reason) or "the layer is called or written to in another way")
        finals = {name: last for name, last in plan.head.finals.items() if _agree(by_form, by_autograd, name)}
    if "mean" not in finals:
        return replace(plan, head=None, why_not="autograd gives another gradient: something changes it on its way back")
    return replace(plan, head=replace(plan.head, finals=finals))


def _agree(by_form: Encoding, by_autograd: Encoding, output: str) -> bool:
    """Whether both give the same channel weights of one random combination of the latents of an output."""
    latents = by_form.mean.shape[1]
    draw = torch.Generator("cpu").manual_seed(_SEED)
    row = torch.randn(1, latents, generator=draw, device="cpu").to(by_form.mean)
    for variant in ("cvpr", "arxiv_v1"):
        found = by_form.weights({output: row}, variant).detach()
        try:
            expected = by_autograd.weights({output: row}, variant).detach().to(found.dtype)
        except UsageError:  # no way from the layer to this output
            return False
        if not (found - expected).abs().max() <= _tolerance(by_form) * expected.abs().max():
            return False
    return True


def _tolerance(encoding: Encoding) -> float:
    """How far rounding alone can take them apart, relative to the largest weight."""
    device = encoding.source.device.type
    dtypes = [encoding.source.dtype, encoding.mean.dtype]
    if torch.is_autocast_enabled(device):
        dtypes.append(torch.get_autocast_dtype(device))
    coarsest = max(torch.finfo(dtype).eps for dtype in dtypes)
    return max(_EXACT if device == "cpu" else _IN_TF32, _ROUNDINGS * coarsest)
