"""A dictionary of the features of normal patches (Napoletano et al. 2018), and how far a patch is from all its words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.attention import LatentAttention
from vaelens.attention.maps import resize
from vaelens.errors import UsageError, whole
from vaelens.localizers.base import Localization, Localizer, as_batches
from vaelens.localizers.resnet import VARIABLE, ResNetFeatures, find_weights

_IMAGES = 256  # normal images that patches are taken from, evenly spread
_PATCHES = 50_000  # of which so many are learned from
_BATCH = 16
_MOST_SEED = 2**32 - 1  # that scikit-learn takes
_STATE = ("mean", "components", "words", "level", "source")


@dataclass(frozen=True)
class Dictionary:
    """What was learned of normal patches.

    Attributes:
        mean: (n,), of the features.
        components: (k, n), the principal components kept.
        words: (w, k), the centres of the clusters, in components.
        level: scalar, the mean distance of normal patches to their nearest word.
    """

    mean: Tensor
    components: Tensor
    words: Tensor
    level: Tensor

    def distances(self, features: Tensor) -> Tensor:
        """Features (N, n) -> distances to the nearest word (N,), in units of `level`."""
        found = (features - self.mean) @ self.components.T
        # The quicker way by a matrix product loses what differs least.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(found, self.words, compute_mode=exact).amin(1) / self.level


class FeatureDictionaryLocalizer(Localizer):
    """Features of patches by a ResNet-18, reduced by PCA, clustered by k-means; the map is the distance to the nearest word.

    The paper cuts patches out, enlarges each to 224x224 pixels and takes the 512 features behind the network's average
    pooling. Here the network sees the whole image, once: a patch is a cell of the map of `block` averaged with its eight
    neighbours. That takes a hundredth of the time, patches overlap as with a stride of one cell, and each knows somewhat of
    its surroundings. As in the paper each patch's features are divided by their sum, and components are kept up to a
    share `variance` of the variance.

    Maps are in units of the mean distance of normal patches, so that 1 is usual; the score is the map's maximum.

    The weights are looked for by `vaelens.localizers.resnet.find_weights`. Where there are none, the features are the run's own
    encoder's; `features_from` says which.

    Args:
        model: the trained network, whose encoder serves where there are no weights.
        layer: of that encoder, None for the last feature map; it fixes the size of the grid.
        weights: file of a ResNet-18's weights (.pth or .safetensors), "download", or None to look for one.
        grid: cells along the image's shorter side; for a grid of 32 pass `grid=32`.
        block: of the ResNet-18: "layer1" to "layer4".
        words: size of the dictionary; the paper tries 10 to 1,000.
        variance: share of the variance that PCA keeps.
        seed: of the clustering and of the patches learned from.

    Raises:
        DataError: the file named is missing or holds no such weights.
        UsageError: a number or a name that cannot be used.
    """

    name: ClassVar[str] = "feature-dictionary"
    explains: ClassVar[str] = "distance of each patch's features from a dictionary of normal ones (Napoletano et al. 2018)"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        weights: str | Path | None = None,
        grid: int = 16,
        block: str = "layer3",
        words: int = 100,
        variance: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.words = whole("words", words)
        whole("grid", grid)
        if not isinstance(variance, int | float) or not 0 < variance < 1:
            raise UsageError(f"variance is the share of the variance to keep, between 0 and 1 such as 0.95, got {variance!r}")
        self.model = model
        self.layer = layer
        self.variance = variance
        self.seed = whole("seed", seed, least=0, most=_MOST_SEED)
        path = find_weights(None if weights is None else str(weights))
        self._resnet = None if path is None else ResNetFeatures(path, block, grid)
        self._from = f"ResNet-18 ({block}, {grid} cells a side, {path.name})" if path else ""
        self._attention: LatentAttention | None = None
        self.fitted: Dictionary | None = None

    @property
    def features_from(self) -> str:
        """Where the features come from, in one line."""
        if self._resnet is not None:
            return f"features of a {self._from}"
        layer = "" if self._attention is None else f", layer {self._attention.layer}"
        return (
            f"features of the run's own encoder{layer}: no weights of a ResNet-18 were found; name a file by {VARIABLE}, "
            'or pass weights="download"'
        )

    detail = features_from

    def fit(self, normal: Tensor) -> Self:
        step = -(-len(normal) // _IMAGES)
        patches = [self._patches(batch).flatten(0, 2) for batch in as_batches(normal[::step], _BATCH)]
        self.fitted = learn(torch.cat(patches), self.words, self.variance, self.seed)
        return self

    def state(self) -> dict[str, Tensor]:
        if self.fitted is None:
            raise self.not_fitted()
        return {**vars(self.fitted), "source": self._source()}

    def restore(self, normal: Tensor, state: Mapping[str, Tensor]) -> Self:
        missing = [name for name in _STATE if name not in state]
        if missing:
            raise UsageError(f"the state of localizer '{self.name}' lacks {', '.join(missing)}: fit it again")
        if not _fit_together(state):
            raise UsageError(f"the state of localizer '{self.name}' does not fit together: fit it again")
        if not state["source"].any():  # what was learned decides, also where weights have come since
            self._resnet = None
        if not torch.equal(state["source"].cpu(), self._source()):
            raise UsageError(
                f"localizer '{self.name}' was fitted on features of a ResNet-18, and here are {self.features_from}: pass the "
                "same weights, block and grid, or fit it again"
            )
        self.fitted = Dictionary(**{name: state[name] for name in _STATE[:-1]})
        return self

    def localize(self, images: Tensor) -> Localization:
        if self.fitted is None:
            raise self.not_fitted()
        maps = []
        for batch in torch.split(images, _BATCH):
            patches = self._patches(batch)
            maps.append(self.fitted.distances(patches.flatten(0, 2)).view(patches.shape[:3]))
        grid = torch.cat(maps)
        return Localization(resize(grid, (images.shape[2], images.shape[3])).clamp_min(0), grid.amax((1, 2)))

    def _patches(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> features of patches (B, h, w, n), each patch's absolute values summing up to 1."""
        with torch.no_grad():
            features = self._extract()(images).float()
            pooled = functional.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
        return functional.normalize(pooled, p=1, dim=1).movedim(1, -1)

    def _extract(self) -> Callable[[Tensor], Tensor]:
        if self._resnet is not None:
            return self._resnet
        if self._attention is None:
            self._attention = LatentAttention(self.model, self.layer)
        attention = self._attention
        return lambda images: attention.encode(images).features

    def _source(self) -> Tensor:
        """Three whole numbers that differ for other features: of the weights, the size of the grid, and the channels."""
        if self._resnet is None:
            return torch.zeros(3, dtype=torch.long)
        return torch.tensor([self._resnet.fingerprint, self._resnet.grid, self._resnet.channels])


def _fit_together(state: Mapping[str, Tensor]) -> bool:
    mean, components, words, level = (state[name] for name in _STATE[:-1])
    shapes = mean.ndim == 1 and components.shape[1:] == mean.shape and words.shape[1:] == components.shape[:1]
    return shapes and level.ndim == 0 and len(words) > 0


def learn(patches: Tensor, words: int, variance: float, seed: int) -> Dictionary:
    """The dictionary of features (N, n) of normal patches.

    Args:
        words: clusters; at most half as many as there are patches.
        variance: share of the variance to keep.
        seed: of the choice of patches and of the clustering.
    """
    from sklearn.cluster import MiniBatchKMeans  # both take a second to import
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    if len(patches) > _PATCHES:
        order = torch.randperm(len(patches), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        patches = patches[order[:_PATCHES]]
    features = patches.cpu().numpy()
    constant = bool((features == features[0]).all())
    most = max(1, min(words, len(features) // 2))  # were every patch a word of its own, none would be far from one
    pca = PCA(1 if constant else variance, svd_solver="full")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal patches make for fewer words than asked for
        warnings.simplefilter("ignore", RuntimeWarning)  # a share of a variance of 0
        found = pca.fit_transform(features)
        clusters = MiniBatchKMeans(most, batch_size=4096, n_init=3, random_state=seed).fit(found)
    to = patches.new_tensor
    dictionary = Dictionary(to(pca.mean_), to(pca.components_), to(clusters.cluster_centers_), patches.new_ones(()))
    level = dictionary.distances(patches).mean().clamp_min(torch.finfo(patches.dtype).tiny)
    return Dictionary(dictionary.mean, dictionary.components, dictionary.words, level)
