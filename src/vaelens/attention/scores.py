"""Anomaly scores and the maps that explain them: where in the image the score comes from.

A score is fitted on normal images alone. Each has a `value`, one number per image, and `maps`, which latent by latent or as a
whole say where that number comes from.

- `MeanSum`: the sum of the posterior mean, explained as one scalar (the paper's first way to an anomaly map).
- `NormalDifference`: the difference between the image's posterior and that of all normal images (eq. 4).
- `Deviation`: the feature map's deviation from that of the nearest normal images, weighted by each latent's channels. The
  maps of eq. 2 explain a latent against zero activation and so light up whatever is bright; this one explains its distance
  from normal.

Each has a `posterior` too: the distribution of those maps over the posterior of the image, exactly. The KL divergence has none:
it is a function of mean and log variance, in which nothing is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from vaelens.attention.closed_form import Means
from vaelens.attention.encoding import Encoding
from vaelens.attention.latent_attention import LatentAttention
from vaelens.attention.maps import WHOLE, LatentMaps
from vaelens.attention.posterior import PosteriorMaps, check_exact, std_by_logvar
from vaelens.errors import UsageError, whole


@dataclass(frozen=True)
class MeanSum:
    """The sum of the posterior mean over all latents, and how it is spread over normal images.

    Attributes:
        center: mean of the sum over normal images.
        scale: its standard deviation, above 0.
    """

    center: float
    scale: float

    @classmethod
    def fit(cls, means: Tensor) -> MeanSum:
        """From the posterior means (N, D) of at least two normal images."""
        _check_codes(means)
        sums = means.sum(1)
        return cls(float(sums.mean()), max(float(sums.std()), 1e-12))

    def value(self, mean: Tensor) -> Tensor:
        """(B, D) -> (B,): distance of the sum from its normal mean, in standard deviations; >= 0."""
        return (mean.sum(1) - self.center).abs() / self.scale

    def maps(self, attention: LatentAttention, images: Tensor) -> LatentMaps:
        """One map per image, (B, 1, h, w): the gradient of the sum weighs the channels (eq. 2 and 3 with it for z_i)."""
        encoding = attention.encode(images)
        ones = torch.ones(1, encoding.mean.shape[1], dtype=encoding.mean.dtype, device=encoding.mean.device)
        return attention.wrap(encoding, *encoding.maps({"mean": ones}, attention.variant), _whole(encoding.mean))

    def posterior(self, attention: LatentAttention, images: Tensor) -> PosteriorMaps:
        """The distribution of the map of sum_i z_i, (B, 1, h, w), exactly.

        The signed map is S[sum_i mean_i] + sum_i e_i (std_i / 2) S[logvar_i], the e_i independent: the variance of a pixel is
        the sum of what each latent brings.

        Raises:
            UsageError: variant "arxiv_v1" or "expvae".
        """
        check_exact(attention.variant)
        encoding = attention.encode(images, logvar=True)
        mean, logvar = encoding.mean, encoding.logvar
        each = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        together = encoding.maps({"mean": each.sum(0, keepdim=True)}, attention.variant)
        _, spread = encoding.maps({"logvar": each}, attention.variant)
        slopes = std_by_logvar(mean, logvar if encoding.differentiable else logvar.detach())
        return PosteriorMaps(slopes[..., None, None] * spread, attention.wrap(encoding, *together, _whole(mean)))


@dataclass(frozen=True)
class NormalDifference:
    """The normal difference distribution: u_i ~ N(mean_x - mean_y, var_x + var_y), x normal, y the image (eq. 4).

    Attributes:
        mean: (D,), posterior mean over all normal images.
        std: (D,), standard deviation of z over all normal images: the spread of the means and the mean variance together.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, means: Tensor, logvars: Tensor) -> NormalDifference:
        """From the posteriors (N, D) of at least two normal images."""
        _check_codes(means)
        _check_codes(logvars)
        if means.shape != logvars.shape:
            raise UsageError(f"means and log variances are of one shape, got {tuple(means.shape)} and {tuple(logvars.shape)}")
        return cls(means.mean(0), (means.var(0) + logvars.exp().mean(0)).sqrt())

    def value(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B,): root mean square over latents of E[u_i] / std[u_i]; >= 0."""
        spread = self.std.square() + logvar.exp()
        return ((self.mean - mean).square() / spread).mean(1).sqrt()

    def maps(self, attention: LatentAttention, images: Tensor) -> PosteriorMaps:
        """The distribution of the map of each u_i, (B, K, h, w), exactly.

        With u = mean_x - mean_y + sqrt(var_x + var_y) e the signed map is -S[mean_y] + e var_y / (2 sqrt(..)) S[logvar_y].
        The paper draws one e: `.sample(generator)`; its expectation over all e is `.rectified_mean`.
        """

        def slope(mean: Tensor, logvar: Tensor) -> Tensor:
            # var / (2 sqrt(std^2 + var)) in logarithms: the exponential of a large log variance is infinite.
            share = torch.nn.functional.logsigmoid(logvar - 2 * self.std.to(mean).log())
            return torch.exp((logvar + share) / 2) / 2

        return attention.affine_maps(images, -1.0, slope)

    def posterior(self, attention: LatentAttention, images: Tensor) -> PosteriorMaps:
        """The same as `maps`: u_i is a distribution already, that of normal images and of the image's posterior together."""
        return self.maps(attention, images)


@dataclass(frozen=True)
class Deviation:
    """Deviation of each latent's weighted feature map from that of the nearest normal images.

    D_i = |sum_k alpha_ik (A_k - ref_k)|, where ref is the mean feature map of the `neighbours` normal images whose posterior
    means are nearest (Euclidean), or of all of them. With `ridge` the mean is weighted so that the neighbours' codes meet the
    image's own code as well as they can, as in locally linear embedding: a reference closer to the image where it lies
    between normal ones. It is of the network as it is when fitted: fit anew once that has learned more.

    Attributes:
        codes: (N, D), posterior means of normal images.
        features: (N, n, h, w), their feature maps at the layer of the attention it was fitted with.
        layer: that layer.
        neighbours: k, None for all.
        ridge: None for the plain mean; else how strongly the weights are drawn to equal ones, relative to the mean squared
            distance of the neighbours; above 0.
        entry: what of the weights depends on no image, see `closed_form.Means`; None: it is worked out for every batch.
    """

    codes: Tensor
    features: Tensor
    layer: str
    neighbours: int | None = 5
    ridge: float | None = None
    entry: Means | None = None

    @classmethod
    def fit(
        cls,
        attention: LatentAttention,
        normal: Tensor,
        neighbours: int | None = 5,
        batch_size: int = 128,
        ridge: float | None = None,
    ) -> Deviation:
        """From normal images (N, C, H, W), float as the model takes them, or uint8, which become floats in [0, 1].

        Raises:
            UsageError: no images, fewer than neighbours, codes that are no numbers, neighbours below 1, or a ridge that is
                no number above 0.
        """
        if not isinstance(normal, Tensor) or normal.ndim != 4 or not len(normal):
            got = tuple(normal.shape) if isinstance(normal, Tensor) else type(normal).__name__
            raise UsageError(f"normal images are a tensor (N, C, H, W) of at least one, got {got}")
        if ridge is not None and not (isinstance(ridge, int | float) and 0 < ridge < math.inf):
            raise UsageError(f"ridge must be a number above 0, or None for equal weights, got {ridge!r}")
        if neighbours is not None:
            neighbours = whole("neighbours", neighbours)
            if neighbours > len(normal):
                raise UsageError(f"neighbours must be from 1 to the {len(normal)} normal images there are, got {neighbours}")
        weights = next((p for p in attention.model.parameters() if p.is_floating_point()), None)
        dtype = torch.float32 if weights is None else weights.dtype
        with torch.no_grad():
            pieces = torch.split(normal, whole("batch_size", batch_size))
            parts = ((p.float() / 255).to(dtype) if p.dtype == torch.uint8 else p for p in pieces)
            # Part by part without its graph, which would hold the rest of the encoder for every normal image.
            encoded, entry = [], None
            for encoding in map(attention.encode, parts):
                encoded.append((encoding.mean.detach(), encoding.features.detach()))
                if entry is None and encoding.slopes is not None and encoding.plan.head is not None:
                    entry = Means.of(encoding.plan.head)
            codes, features = (torch.cat(tensors) for tensors in zip(*encoded, strict=True))
        if not codes.isfinite().all():
            raise UsageError("the posterior mean of some normal image is no finite number; check the images and the model")
        # Of whichever layout the network works in, rows that lie together are what references are summed up from.
        return cls(codes, features.contiguous(), attention.layer, neighbours, ridge, entry)

    def reference(self, mean: Tensor, leave_out_self: bool = False) -> Tensor:
        """Posterior means (B, D) -> mean feature map (B, n, h, w) of their normal neighbours.

        Args:
            leave_out_self: skip the very nearest one: for images that are themselves among the normal ones.

        Raises:
            UsageError: codes of another number of latents.
        """
        if mean.ndim != 2 or mean.shape[1] != self.codes.shape[1]:
            raise UsageError(f"codes are (B, {self.codes.shape[1]}) as the normal images' are, got {tuple(mean.shape)}")
        count = len(self.codes)
        if self.neighbours is None:
            everything = self.features.mean(0, keepdim=True).expand(len(mean), -1, -1, -1)
            if not leave_out_self or count == 1:
                return everything
            own = self.features[self._distances(mean).argmin(1)]
            return everything + (everything - own) / (count - 1)
        first = int(leave_out_self and count > 1)
        k = min(self.neighbours + first, count)
        nearest = self._distances(mean).topk(k, dim=1, largest=False).indices[:, first:]
        weights = self._weights(mean, nearest)
        # A bag of rows each: gathering them first would hold k feature maps per image, adding them one by one reads them twice.
        rows = self.features.flatten(1)
        bags = embedding_bag(nearest, rows, per_sample_weights=weights.to(rows.dtype), mode="sum")
        return bags.view(len(mean), *self.features.shape[1:])

    def _distances(self, mean: Tensor) -> Tensor:
        """(B, D) -> (B, N), to the code of each normal image; half precision has no such kernel on the CPU."""
        # By differences: the matrix product that cdist takes by default cancels where codes lie far from 0.
        return torch.cdist(_wide(mean), _wide(self.codes), compute_mode="donot_use_mm_for_euclid_dist")

    def _weights(self, mean: Tensor, nearest: Tensor) -> Tensor:
        """Weights (B, k) of the neighbours, each row summing to 1."""
        k = nearest.shape[1]
        if self.ridge is None:
            return torch.full_like(mean[:, :1], 1.0 / k).expand(-1, k)
        gram, _ = ridged(_wide(self.codes)[nearest] - _wide(mean).unsqueeze(1), self.ridge)
        weights: Tensor = torch.linalg.solve(gram, torch.ones_like(gram[..., :1])).squeeze(-1)
        return weights / weights.sum(1, keepdim=True)

    def maps(self, attention: LatentAttention, images: Tensor, leave_out_self: bool = False) -> LatentMaps:
        """One map per latent, (B, K, h, w), rectified by the absolute value.

        Args:
            attention: of the layer that this was fitted on.
            images: (B, C, H, W).
            leave_out_self: for images that are themselves among the normal ones: skip the very nearest.

        Raises:
            UsageError: the attention explains another layer than this was fitted on.
        """
        encoding = attention.encode(images)
        latents, pick = attention.pick(encoding.mean)
        difference = self._difference(attention, encoding, leave_out_self)
        weights, signed = encoding.maps({"mean": pick}, attention.variant, difference, self.entry)
        return attention.wrap(encoding, weights, signed, latents, "abs")

    def posterior(self, attention: LatentAttention, images: Tensor, leave_out_self: bool = False) -> PosteriorMaps:
        """The distribution of each map over the posterior, (B, K, h, w), exactly: the absolute value of a Gaussian.

        With the channel weights of z_i = mean_i + std_i e in place of those of the mean, the signed map is
        sum_k (alpha[mean_i]_k + e (std_i / 2) alpha[logvar_i]_k) (A_k - ref_k). The reference stays the one at the posterior
        mean: which images are nearest, and what they weigh, is not drawn.

        Args:
            attention: of the layer that this was fitted on.
            images: (B, C, H, W).
            leave_out_self: see `maps`.

        Raises:
            UsageError: the attention explains another layer than this was fitted on, or in variant "arxiv_v1" or "expvae".
        """
        check_exact(attention.variant)
        encoding = attention.encode(images, logvar=True)
        latents, pick = attention.pick(encoding.mean)
        difference = self._difference(attention, encoding, leave_out_self)
        weights, signed = encoding.maps({"mean": pick}, attention.variant, difference, self.entry)
        maps = attention.wrap(encoding, weights, signed, latents, "abs")
        slopes = std_by_logvar(encoding.mean, encoding.logvar).gather(1, latents.expand(len(encoding.mean), -1))
        if not encoding.differentiable:
            slopes = slopes.detach()
        _, spread = encoding.maps({"logvar": pick}, attention.variant, difference, self.entry)
        return PosteriorMaps(slopes[..., None, None] * spread, maps)

    def _difference(self, attention: LatentAttention, encoding: Encoding, leave_out_self: bool) -> Tensor:
        """A - ref, (B, n, h, w), of images inside the encoder."""
        if attention.layer != self.layer:
            raise UsageError(f"the deviation was fitted on layer '{self.layer}', the attention explains '{attention.layer}'")
        if encoding.features.shape[1:] != self.features.shape[1:]:
            there, here = tuple(self.features.shape[1:]), tuple(encoding.features.shape[1:])
            raise UsageError(f"the normal images' feature maps are {there} and these images' {here}: take images of one size")
        reference = self.reference(encoding.mean.detach(), leave_out_self).to(encoding.features.dtype)
        # of one layout, else the difference and the sum of it each take twice as long
        return encoding.features.contiguous() - reference


def _whole(mean: Tensor) -> Tensor:
    """In place of latents: the map is of a score of all of them."""
    return torch.full((1,), WHOLE, dtype=torch.long, device=mean.device)


def ridged(offsets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The system whose solution for ones weighs neighbours, up to a factor (locally linear embedding).

    Args:
        offsets: (B, k, D), the neighbours' codes less the image's own.
        ridge: relative to the mean squared distance of the neighbours.

    Returns:
        (B, k, k), the products of the offsets with the ridge on the diagonal; and (B,), that mean squared distance.
    """
    gram = offsets @ offsets.transpose(1, 2)
    diagonal = gram.flatten(1)[:, :: gram.shape[1] + 1]
    trace = diagonal.mean(1).clamp_min(1e-12)
    eye = torch.eye(offsets.shape[1], dtype=gram.dtype, device=gram.device)
    return gram + (ridge * trace)[:, None, None] * eye, trace


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_codes(codes: Tensor) -> None:
    if not isinstance(codes, Tensor) or codes.ndim != 2 or len(codes) < 2:
        got = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
        raise UsageError(f"a score is fitted on posteriors (N, D) of at least two images, got {got}")
    if not codes.isfinite().all():
        raise UsageError("the posterior of some normal image is no finite number; check the images and the model")
