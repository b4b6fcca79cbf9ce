"""How disentangled the latents of a run are, measured on every image of a data set with known factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaelens.data.factors import FactorImages
from vaelens.data.files import shown
from vaelens.errors import UsageError, whole
from vaelens.metrics.aggregate import KLParts, kl_parts
from vaelens.metrics.disentanglement import RepeatedFigure, all_scores, names_of
from vaelens.metrics.mig import mutual_information_gap
from vaelens.metrics.overlap import attention_overlap
from vaelens.objectives import active_latents, kl_per_latent, reconstruction_error, reparameterize
from vaelens.runs import Run
from vaelens.runs.data import load_known_factors
from vaelens.scoring.codes import encode_all

REPEATS = 5
_RECONSTRUCTED = 4_096
_EXPLAINED = 2_048
_AT_ONCE = 64


@dataclass(frozen=True)
class Overlaps:
    """How far attention maps of two latents overlap (eq. 5) and how many are empty, over 2,048 random images; in [0, 1].

    Attributes:
        attention_overlap: in the mean over all pairs.
        attention_overlap_of_active: over pairs of active latents.
        attention_overlap_of_drawn: over pairs neither of whose maps is zero everywhere.
        empty_maps: share of maps that are zero everywhere.
        empty_maps_of_active: the same of active latents.
    """

    attention_overlap: float
    attention_overlap_of_active: float | None
    attention_overlap_of_drawn: float | None
    empty_maps: float
    empty_maps_of_active: float | None

    def to_dict(self) -> dict[str, float | None]:
        """All of them by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Disentanglement:
    """What was measured of a run's latents.

    Attributes:
        scores: each metric's figure by name, see `metrics.disentanglement.all_scores`.
        reconstruction: nats per image of the run's likelihood, with a sample of the posterior, on 4,096 random images.
        reconstruction_error: its standard error.
        kl: (D,), nats, the mean over all images.
        parts: what that divergence consists of.
        overlaps: how far attention maps of latents overlap, and how many are empty.
        information: (D, F), nats, mutual information of latents and factors.
        factor_names: F names.
        factor_sizes: F numbers of values, all equally frequent.
        images: how many were encoded.
    """

    scores: Mapping[str, RepeatedFigure]
    reconstruction: float
    reconstruction_error: float
    kl: Tensor
    parts: KLParts
    overlaps: Overlaps
    information: NDArray[np.float64]
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]
    images: int

    @property
    def active(self) -> Tensor:
        """(D,), bool: latents with more than 0.05 nats in the mean over all images."""
        return active_latents(self.kl)

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {
            "disentanglement": {name: figure.mean for name, figure in self.scores.items()},
            "spread": {name: figure.std for name, figure in self.scores.items()},
            "values": {name: list(figure.values) for name, figure in self.scores.items()},
            "reconstruction": self.reconstruction,
            "reconstruction_standard_error": self.reconstruction_error,
            **self.overlaps.to_dict(),
            "kl": self.kl.tolist(),
            "information": self.parts.information,
            "information_standard_error": self.parts.information_error,
            "total_correlation": self.parts.total_correlation,
            "total_correlation_standard_error": self.parts.total_correlation_error,
            "marginal_kl": self.parts.marginal.tolist(),
            "active_latents": int(self.active.sum()),
            "latents": len(self.kl),
            "mutual_information": self.information.tolist(),
            "factors": list(self.factor_names),
            "images": self.images,
        }


def evaluate_disentanglement(
    run: Run,
    metrics: Sequence[str] | None = None,
    root: Path | None = None,
    repeats: int = REPEATS,
    progress: Callable[[int, int], None] | None = None,
) -> Disentanglement:
    """Encode every image of the run's data set and measure the codes.

    Args:
        run: of a data set with known factors.
        metrics: which; None for all of `metrics.disentanglement.METRICS`.
        root: folder of the data set, where it has moved.
        repeats: how often each metric that draws at random is measured.
        progress: called with images encoded so far and in all, then with measurements.

    Raises:
        UsageError: a run of another data set, an unknown metric, repeats below 1, or a run of a single latent.
        DataError: the data set is not where it was.
    """
    names, repeats = names_of(metrics), whole("repeats", repeats)  # now: all images take minutes
    images = load_known_factors(run.config, root).train
    if run.model.latent_dim < 2:
        raise UsageError(f"{shown(run.path)} has one latent, and this compares several: train with --latents 2 or more")
    mean, logvar = encode_all(run, images, progress)
    kl = kl_per_latent(mean, logvar).double().mean(0)
    codes, factors = mean.numpy(), images.factors()
    scores = all_scores(codes, factors, repeats=repeats, metrics=names, progress=progress)
    errors = reconstruction_errors(run, images)
    return Disentanglement(
        scores=scores,
        reconstruction=float(errors.mean()),
        reconstruction_error=float(errors.std() / len(errors) ** 0.5),
        kl=kl,
        parts=kl_parts(mean, logvar, progress=progress),
        overlaps=overlaps(run, images, active_latents(kl)),
        information=mutual_information_gap(codes, factors).mutual_information,
        factor_names=images.factor_names,
        factor_sizes=images.factor_sizes,
        images=len(images),
    )


def reconstruction_errors(run: Run, images: FactorImages) -> Tensor:
    """Negative log likelihood (4096,) of images drawn at random under the decoder, nats, with a sample of the posterior."""
    generator = torch.Generator("cpu").manual_seed(0)
    errors = []
    with torch.inference_mode():
        for indices in torch.split(images.draw(_RECONSTRUCTED, generator), _AT_ONCE):
            batch = images.take(indices).to(run.device)
            codes = reparameterize(*run.model.encode(batch), generator)
            errors.append(reconstruction_error(run.model.decode_logits(codes), batch, run.config.training["likelihood"]).cpu())
    return torch.cat(errors)


def overlaps(run: Run, images: FactorImages, active: Tensor) -> Overlaps:
    """What eq. 5 makes of 2,048 images drawn at random.

    Args:
        run: whose attention, at the layer that it is explained at.
        images: of its data set.
        active: (D,), bool.
    """
    numbers = torch.split(images.draw(_EXPLAINED, torch.Generator("cpu").manual_seed(1)), _AT_ONCE)
    with torch.no_grad():
        maps = torch.cat([run.attention(images.take(each).to(run.device)).per_latent.cpu() for each in numbers])
    found = attention_overlap(maps)
    chosen = active.cpu().numpy()
    apart = ~np.eye(len(chosen), dtype=bool)
    return Overlaps(
        attention_overlap=found.score,
        attention_overlap_of_active=_mean(found.per_pair[apart & chosen & chosen[:, None]]),
        attention_overlap_of_drawn=found.of_drawn,
        empty_maps=float(found.empty.mean()),
        empty_maps_of_active=_mean(found.empty[chosen]),
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
