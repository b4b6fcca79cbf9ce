"""The paper's anomaly attention: the map of a score of the posterior (section 3.3)."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.attention import LatentAttention, MeanSum, NormalDifference, PosteriorMaps
from vaelens.attention.maps import WHOLE, resize
from vaelens.attention.variants import check_variant, is_linear
from vaelens.errors import UsageError, unknown
from vaelens.localizers.base import LearnsNothing, Localization, Localizer, as_batches


def codes(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and log variance (N, D), where the model is, of images (N, C, H, W), uint8 or float in [0, 1]."""
    device = next(model.parameters()).device
    with torch.no_grad():
        parts = [model.encode(batch.to(device)) for batch in as_batches(images)]  # type: ignore[operator]
    return torch.cat([mean for mean, _ in parts]), torch.cat([logvar for _, logvar in parts])


class MeanSumLocalizer(Localizer):
    """The sum of the posterior mean: its attention map, and its distance from the normal images' sum."""

    name: ClassVar[str] = "mean-sum"
    explains: ClassVar[str] = "attention of the sum of the posterior mean (the paper's anomaly attention)"

    def __init__(self, model: nn.Module, layer: str | None = None, variant: str = "cvpr") -> None:
        self.model = model
        self.attention = LatentAttention(model, layer, variant=variant)
        self.fitted: MeanSum | None = None

    def fit(self, normal: Tensor) -> Self:
        self.fitted = MeanSum.fit(codes(self.model, normal)[0])
        return self

    def localize(self, images: Tensor) -> Localization:
        if self.fitted is None:
            raise self.not_fitted()
        with torch.no_grad():
            maps = self.fitted.maps(self.attention, images)
            return Localization(_at(maps.overall(), images), self.fitted.value(maps.mean))

    def posterior(self, images: Tensor) -> PosteriorMaps:
        if self.fitted is None:
            raise self.not_fitted()
        with torch.no_grad():
            return self.fitted.posterior(self.attention, images)


class NormalDifferenceLocalizer(Localizer):
    """The normal difference distribution (eq. 4): its expected map, averaged over latents, and its standardised size."""

    name: ClassVar[str] = "normal-difference"
    explains: ClassVar[str] = "attention of the difference between the posterior and all normal images' (eq. 4), expected"

    def __init__(self, model: nn.Module, layer: str | None = None, variant: str = "cvpr") -> None:
        if not is_linear(check_variant(variant)):
            raise UsageError(f"score '{self.name}' takes variant 'cvpr' or 'hirescam', not '{variant}'; use another score")
        self.model = model
        self.attention = LatentAttention(model, layer, variant=variant)
        self.fitted: NormalDifference | None = None

    def fit(self, normal: Tensor) -> Self:
        self.fitted = NormalDifference.fit(*codes(self.model, normal))
        return self

    def localize(self, images: Tensor) -> Localization:
        if self.fitted is None:
            raise self.not_fitted()
        with torch.no_grad():
            maps = self.fitted.maps(self.attention, images)
            score = self.fitted.value(maps.maps.mean, maps.maps.logvar)
            return Localization(_at(maps.rectified_mean.mean(1), images), score)

    def posterior(self, images: Tensor) -> PosteriorMaps:
        if self.fitted is None:
            raise self.not_fitted()
        with torch.no_grad():
            return self.fitted.posterior(self.attention, images)


class OverallLocalizer(LearnsNothing):
    """The mean over latents of their attention maps (the paper, after eq. 3). Learns nothing; its score is the map's mean."""

    name: ClassVar[str] = "overall"
    explains: ClassVar[str] = "mean of the attention maps of all latents"

    def __init__(self, model: nn.Module, layer: str | None = None, variant: str = "cvpr") -> None:
        self.attention = LatentAttention(model, layer, variant=variant)

    def localize(self, images: Tensor) -> Localization:
        with torch.no_grad():
            maps = _at(self.attention(images).overall(), images)
        return Localization(maps, maps.mean((1, 2)))

    def posterior(self, images: Tensor) -> PosteriorMaps:
        with torch.no_grad():
            return self.attention.posterior(images)


SCORES = ("normal-difference", "mean-sum", "overall")


class AttentionLocalizer(Localizer):
    """The paper's anomaly attention, of whichever score, layer and variant.

    Args:
        model: the trained network.
        layer: whose feature map; None for the last.
        score: what is explained: "normal-difference" (eq. 4), "mean-sum" (the sum of the posterior mean) or "overall" (every
            latent by itself, then the mean of their maps).
        variant: see `vaelens.attention.variants`; eq. 4 takes "cvpr" and "hirescam" alone.

    Raises:
        UsageError: an unknown score, layer or variant, or a variant that the score does not take.
    """

    name: ClassVar[str] = "attention"
    explains: ClassVar[str] = "the paper's anomaly attention"

    def __init__(
        self, model: nn.Module, layer: str | None = None, score: str = "normal-difference", variant: str = "cvpr"
    ) -> None:
        if score not in SCORES:
            raise unknown("score of localizer 'attention'", score, SCORES)
        if score == "normal-difference":
            self.of: Localizer = NormalDifferenceLocalizer(model, layer, variant)
        else:
            self.of = (MeanSumLocalizer if score == "mean-sum" else OverallLocalizer)(model, layer, variant)
        self._ready = False

    def fit(self, normal: Tensor) -> Self:
        self.of.fit(normal)
        self._ready = True
        return self

    def localize(self, images: Tensor) -> Localization:
        if not self._ready:
            raise self.not_fitted()
        return self.of.localize(images)

    def posterior(self, images: Tensor) -> PosteriorMaps:
        if not self._ready:
            raise self.not_fitted()
        return self.of.posterior(images)


class KLLocalizer(LearnsNothing):
    """The KL divergence of the posterior from the prior, and the attention map of its gradient. Learns nothing.

    It is a function of mean and log variance alone, in which nothing is drawn: unlike the other scores' maps, this one has no
    distribution over the posterior.
    """

    name: ClassVar[str] = "kl"
    explains: ClassVar[str] = "attention of the KL divergence of the posterior from the prior"

    def __init__(self, model: nn.Module, layer: str | None = None, variant: str = "cvpr") -> None:
        self.attention = LatentAttention(model, layer, variant=variant)

    def localize(self, images: Tensor) -> Localization:
        with torch.no_grad():
            encoding = self.attention.encode(images, logvar=True)
            mean, logvar = encoding.mean.detach(), encoding.logvar.detach()
            gradient = {"mean": mean.unsqueeze(1), "logvar": torch.expm1(logvar).unsqueeze(1) / 2}
            found = encoding.maps(gradient, self.attention.variant)
            maps = self.attention.wrap(encoding, *found, torch.full((1,), WHOLE, device=mean.device))
            score = 0.5 * (mean.square() + torch.expm1(logvar) - logvar).sum(1)
            return Localization(_at(maps.overall(), images), score)


def _at(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) at the images' size."""
    return resize(maps, (images.shape[2], images.shape[3])).clamp_min(0)
