"""LatentAttention: where in the image each latent of a variational autoencoder looks."""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.parameter import is_lazy

from vaelens.attention.dependence import independent, reached, suspects
from vaelens.attention.encoding import Encoding, MapOverwritten, Outdated, encode
from vaelens.attention.head import NoClosedForm
from vaelens.attention.maps import LatentMaps
from vaelens.attention.plan import Plan, make_plan
from vaelens.attention.posterior import PosteriorMaps, check_exact, std_by_logvar
from vaelens.attention.proof import noise, proven, trial_images
from vaelens.attention.tokens import Grid
from vaelens.attention.untouched import Snapshot, is_transforming
from vaelens.attention.variants import check_variant
from vaelens.attention.variants import rectifier as rectifier_of
from vaelens.errors import UsageError, unknown, whole

log = logging.getLogger("vaelens.attention")
METHODS = ("auto", "closed_form", "vjp")


class LatentAttention:
    """Attention maps from each latent dimension of a variational autoencoder (eq. 2 and 3 of the paper).

    The model is never changed: its mode, gradients and hooks are afterwards what they were, and it is explained in the mode
    that it is in (call `model.eval()` for a trained one).

    Args:
        model: any module with encode(images) -> (mean, logvar), each (B, D).
        layer: dotted name of the module whose output is the feature map (B, n, h, w). None: the last feature map of more
            than one pixel, after its activation. "images" with variant "hirescam": the images themselves.
        latents: which latents to explain: None for all, an index, several indices, or "top3" for the three of highest
            response in each image (largest absolute posterior mean).
        method: "closed_form" (no backward pass; exact where the rest of the encoder is linear and piecewise linear behind
            one linear layer), "vjp" (batched vector-Jacobian products, any layer), or "auto": the closed form where it is
            exact, else the products.
        variant: "cvpr" (the paper), "arxiv_v1", "expvae" or "hirescam" (see `attention.variants`).
        grid: (height, width) of the tokens of a vision transformer, where the layer gives such (B, T, n): its last
            height * width tokens are the feature map, row by row; those before, such as a class token, have no place.
        memory: bytes that the gradients of one chunk of latents may take.

    Raises:
        UsageError: an unknown layer (the message has those there are), latent, method or variant; "closed_form" where there
            is none (the message says why).
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        latents: int | str | Iterable[int] | None = None,
        method: str = "auto",
        *,
        variant: str = "cvpr",
        grid: tuple[int, int] | None = None,
        memory: int = 128 << 20,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UsageError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        self.model = model
        self.variant = check_variant(variant)
        self.latents = _parse_latents(latents)
        self.memory = whole("memory", memory)
        if not (layer is None or isinstance(layer, str)):
            raise UsageError(f"layer is the dotted name of a module, got {layer!r}")
        self.grid = Grid.of(grid)
        self._asked_layer = layer
        self._asked_method = method
        self._plan: Plan | None = None
        self._like = torch.empty(0)
        self._proofs: dict[tuple[int, ...], Plan] = {}
        self._refused: dict[tuple[int, ...], str] = {}
        self._reached: set[int] = set()  # latents that are known to depend on the layer
        shape = getattr(model, "input_shape", None)
        if isinstance(shape, tuple | list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape):
            self._make_plan(noise(_parameter(model), tuple(shape), 2))

    @property
    def plan(self) -> Plan:
        """The layer and the way from it to the posterior, found by one look at the model."""
        if self._plan is None:
            raise UsageError(
                "the layer is not known yet: the model has no input_shape (C, H, W); explain a batch of images first"
            )
        return self._plan

    @property
    def layer(self) -> str:
        """Dotted name of the layer in use."""
        return self.plan.layer

    @property
    def method(self) -> str:
        """The method in use: "closed_form" or "vjp"."""
        return "vjp" if self._way()[1] else "closed_form"

    @property
    def why_not(self) -> str:
        """Why the method in use is not the closed form; empty where it is."""
        return self._way()[1]

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """All layers that can be explained, with the shape (n, h, w) of their feature map."""
        return dict(self.plan.layers)

    def __call__(self, images: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> LatentMaps:
        """The maps of each latent for `images`.

        Args:
            images: (B, C, H, W), on the model's device.
            sample: explain z = mean + std * e with e drawn from N(0, 1), and not the posterior mean.
            generator: where e comes from; torch's global one where None.

        Returns:
            Maps (B, K, h, w); differentiable by the model's weights and the images whenever gradients are on.
        """
        encoding = self.encode(images, logvar=sample)
        latents, pick = self.pick(encoding.mean)
        cotangents = {"mean": pick}
        if sample:
            mean, logvar = encoding.mean, encoding.logvar
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            slope = noise * torch.exp(logvar / 2) / 2  # d z / d logvar
            cotangents["logvar"] = pick * slope.unsqueeze(1)
        weights, signed = encoding.maps(cotangents, self.variant)
        self._check_dependence(images, encoding, weights, latents)
        return self.wrap(encoding, weights, signed, latents)

    def posterior(self, images: Tensor) -> PosteriorMaps:
        """The distribution of each latent's signed map over the posterior, exactly and without a sample.

        With z_i = mean_i + std_i e the signed map is S[mean_i] + e (std_i / 2) S[logvar_i], so every pixel is Gaussian.
        Exact where an image's posterior depends on that image alone, which batch norm in training mode does not keep to.

        Raises:
            UsageError: a variant whose weights are not linear in the gradient: "arxiv_v1" or "expvae".
        """
        return self.affine_maps(images, 1.0, std_by_logvar)

    def affine_maps(self, images: Tensor, by_mean: float, by_logvar: Callable[[Tensor, Tensor], Tensor]) -> PosteriorMaps:
        """The distribution of the maps of u_i whose gradient is `by_mean` d mean_i + e `by_logvar` d logvar_i, e ~ N(0, 1).

        Args:
            images: (B, C, H, W).
            by_mean: the derivative of every u_i by its mean.
            by_logvar: mean and log variance (B, D) -> derivative of each u_i by its log variance, per unit of e, (B, D).

        Raises:
            UsageError: a variant whose weights are not linear in the gradient: "arxiv_v1" or "expvae".
        """
        check_exact(self.variant)
        encoding = self.encode(images, logvar=True)
        latents, pick = self.pick(encoding.mean)
        weights, signed = encoding.maps({"mean": by_mean * pick}, self.variant)
        self._check_dependence(images, encoding, weights, latents)
        maps = self.wrap(encoding, weights, signed, latents)
        slopes = by_logvar(encoding.mean, encoding.logvar).gather(1, latents.expand(encoding.mean.shape[0], -1))
        if not encoding.differentiable:
            slopes = slopes.detach()
        _, spread = encoding.maps({"logvar": pick}, self.variant)
        return PosteriorMaps(slopes[..., None, None] * spread, maps)

    def encode(self, images: Tensor, logvar: bool = False) -> Encoding:
        """One forward pass from which any scalar that is linear in the posterior can be explained.

        Args:
            images: (B, C, H, W).
            logvar: whether derivatives by the log variance will be asked for.
        """
        if not isinstance(images, Tensor):
            raise UsageError(f"images are a tensor (B, C, H, W), got {type(images).__name__}")
        if images.ndim != 4 or len(images) == 0:
            raise UsageError(f"images are a batch (B, C, H, W) of at least one, got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise UsageError(f"images are floating-point numbers as the model takes them, got {images.dtype}")
        if is_transforming():
            raise UsageError("maps cannot be taken inside a transform of torch.func; use torch.autograd, and batches for vmap")
        if self._plan is None or not self._plan.still_holds(self.model, images):
            self._make_plan(images[:2])
        before = Snapshot(self.model, images.device)
        renewed = False
        while True:
            plan, why_not = self._way(logvar, images)
            if why_not and self._asked_method == "closed_form":
                self._refuse(why_not)
            try:
                return encode(self.model, images, plan, not why_not, self.memory)
            except NoClosedForm as reason:
                self._refused[_state(self.model)] = str(reason)  # so that the next round, and the next call, takes products
            except Outdated as reason:
                if renewed:
                    raise UsageError(f"{reason}: a layer that does another thing each time cannot be explained") from reason
                renewed = True
                if isinstance(reason, MapOverwritten):
                    self._plan = replace(self.plan, overwritten=True)
                    self._proofs.clear()
                else:
                    self._make_plan(images[:2])
            before.restore()

    def _way(self, logvar: bool = False, images: Tensor | None = None) -> tuple[Plan, str]:
        """The plan as the model is at this moment, and why it has no closed form; empty where it has one."""
        plan = self.plan
        if self._asked_method == "vjp":
            return plan, "method is 'vjp'"
        if plan.head is None:
            return plan, plan.why_not
        state = _state(self.model)
        why_not = plan.head.why_not_now() or self._refused.get(state, "")
        if why_not:
            return plan, why_not
        confirmed = self._proven(state, images)
        if confirmed.head is not None and logvar and "logvar" not in confirmed.head.finals:
            return confirmed, "the log variance does not share the layers that lead to the mean"
        return confirmed, confirmed.why_not

    @_disable_dynamo
    def _proven(self, state: tuple[int, ...], images: Tensor | None) -> Plan:
        """The plan, as far as autograd confirms it in the `state` that the model is in: for any images, or else for these."""
        if state in self._proofs:
            return self._proofs[state]
        plan, for_all = proven(self.model, trial_images(self._like, self.plan), self.plan, self.memory)
        if not for_all and images is not None:
            plan, for_all = proven(self.model, images, self.plan, self.memory)
        if for_all:
            self._proofs[state] = plan
        return plan

    def _check_dependence(self, images: Tensor, encoding: Encoding, weights: Tensor, latents: Tensor) -> None:
        """Raise UsageError for latents that do not depend on the layer; not in training, where dropout may do it."""
        if self.model.training or torch.compiler.is_compiling():
            return
        asked = suspects(weights, latents) - self._reached
        if not asked or any(getattr(module, "training", False) for module in self.model.modules()):
            return
        found = independent(self.model, images, encoding.plan, self.memory, asked)
        self._reached |= asked - set(found)
        if found:
            every = len(found) == encoding.mean.shape[1]
            which = (
                "no latent depends"
                if every
                else f"{', '.join(f'z{i}' for i in found)} {'do' if found[1:] else 'does'} not depend"
            )
            others = sorted({*latents.flatten().tolist()} - {*found})
            rest = f", or ask for others: latents={others}" if others else ""
            raise UsageError(
                f"{which} on layer '{self.layer}': the gradient is 0 there, so there is no map; choose another layer{rest}"
            )

    def wrap(
        self, encoding: Encoding, weights: Tensor, signed: Tensor, latents: Tensor, rectifier: str | None = None
    ) -> LatentMaps:
        """Channel weights (B, K, n) and signed maps (B, K, h, w) of an encoding as maps of `latents`."""
        return LatentMaps(
            signed=signed,
            weights=weights,
            mean=encoding.mean if encoding.differentiable else encoding.mean.detach(),
            logvar=encoding.logvar if encoding.differentiable else encoding.logvar.detach(),
            latents=latents,
            layer=encoding.plan.layer,
            method="vjp" if encoding.slopes is None else "closed_form",
            variant=self.variant,
            rectifier=rectifier or rectifier_of(self.variant),
        )

    def pick(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The latents to explain, (K,) or (B, K), and the cotangents of the mean (B, D) that pick them, (K, D) or (B, K, D)."""
        latent_dim = mean.shape[1]
        eye = torch.eye(latent_dim, dtype=mean.dtype, device=mean.device)
        if self.latents is None:
            return torch.arange(latent_dim, device=mean.device), eye
        if isinstance(self.latents, int):
            latents = mean.detach().abs().topk(self.latents, dim=1).indices
        else:
            latents = torch.tensor(self.latents, device=mean.device)
        return latents, eye[latents]

    @_disable_dynamo
    def _make_plan(self, probe: Tensor) -> None:
        if any(p.is_inference() for p in self.model.parameters() if not is_lazy(p)):
            name = type(self.model).__name__
            raise UsageError(f"the parameters of {name} were made in torch.inference_mode, where no gradient can be taken")
        plan = make_plan(self.model, probe, self._asked_layer, self.grid, self.variant)
        if self.grid is not None and self._asked_layer is None:
            plan = self._last_of_tokens(probe, plan, self.grid)
        beyond = self.latents if isinstance(self.latents, int) else max((*(self.latents or (0,)),)) + 1
        if beyond > plan.latent_dim:
            raise UsageError(
                f"latent {beyond - 1} does not exist; the model has {plan.latent_dim}: 0 to {plan.latent_dim - 1}"
                if not isinstance(self.latents, int)
                else f"top{beyond} asks for more latents than the {plan.latent_dim} of the model"
            )
        self._plan = plan
        self._like = probe[:0].detach()
        self._refused.clear()
        self._proofs.clear()
        self._reached.clear()
        confirmed, why_not = self._way()
        if self._asked_method == "closed_form" and confirmed.head is None:
            self._plan = None
            self._refuse(why_not, plan.layer)
        method = f"vjp because {why_not}" if why_not else "closed_form"
        log.info("layer '%s' %s: %s", plan.layer, plan.shape, method)

    def _last_of_tokens(self, probe: Tensor, plan: Plan, grid: Grid) -> Plan:
        """The last layer of tokens in whose places the mean lies: behind the last attention a class token is alone."""
        for layer in reached(self.model, probe, plan, grid):
            tried = make_plan(self.model, probe, layer, grid, self.variant)
            if not independent(self.model, probe, tried, self.memory, range(plan.latent_dim)):
                return tried
        return plan

    def _refuse(self, why: str, layer: str | None = None) -> None:
        raise UsageError(f"no closed form at layer '{layer or self.layer}': {why}; use method='auto' or 'vjp'")

    def __repr__(self) -> str:
        known = f"layer='{self.layer}', method='{self.method}'" if self._plan else f"layer={self._asked_layer!r}"
        return f"LatentAttention({type(self.model).__name__}, {known}, variant='{self.variant}')"


def _parse_latents(latents: int | str | Iterable[int] | None) -> int | tuple[int, ...] | None:
    """None for all, an int for the top k, a tuple for indices."""
    if latents is None:
        return None
    if isinstance(latents, str):
        match = re.fullmatch(r"top([1-9]\d{0,8})", latents)
        if not match:
            raise UsageError(f"latents are indices or 'topK' such as 'top3', got {latents!r}")
        return int(match[1])
    try:
        # Integers of numpy and torch, alone or in an array, count as well; fractions and truth values do not.
        scalar = hasattr(latents, "__index__") and getattr(latents, "ndim", 0) == 0
        given = [latents] if scalar else list(latents)  # type: ignore[arg-type]
        indices = tuple(operator.index(i) for i in given)  # type: ignore[arg-type]
        proper = not any(str(getattr(i, "dtype", type(i).__name__)).endswith("bool") for i in given)
    except TypeError:
        indices, proper = (), False
    if not proper or not indices or min(indices) < 0:
        shown = " ".join(repr(latents).split())
        raise UsageError(f"latents are indices from 0 on, at least one, or 'topK' such as 'top3', got {shown:.60}")
    return indices


def _state(model: nn.Module) -> tuple[int, ...]:
    """What the way of a gradient may depend on though the modules are the same: the mode and the number of hooks of each."""
    state: list[int] = []
    for module in model.modules():
        forward = len(module._forward_hooks) + len(module._forward_pre_hooks)
        backward = len(module._backward_hooks) + len(module._backward_pre_hooks)
        state += [forward + backward, getattr(module, "training", False)]
    return tuple(state)


def _parameter(model: nn.Module) -> Tensor:
    """A parameter, for its type and device."""
    return next((p.detach() for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
