"""A head trained on synthetic defects alone, on top of what a VAE and its latents say about an image."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.data.synthetic import with_defects
from vaelens.errors import UsageError, whole
from vaelens.localizers.base import Localization, Localizer, as_floats
from vaelens.localizers.head import Head, train_head
from vaelens.localizers.matching import MatchingLocalizer
from vaelens.localizers.signals import POSITIVE, Signals
from vaelens.localizers.smoothing import smoothed

_BATCH = 32
_MEMORY = 1 << 30  # bytes that the signals to learn from may take
_FLOOR = 0.1  # of the matched deviation, in units of its mean
_SCALE = "scale"


class LearnedLocalizer(Localizer):
    """Signals of the VAE (see `Signals`) read by a small head that has learned to find synthetic defects.

    Defects are drawn on the normal images in two halves, and the signals of each half come from comparing with the other, so
    that no image meets itself. The map is the geometric mean of the head's odds and the matched deviation. Fitting takes
    minutes; a run keeps what was learned. The score is the map's maximum.

    Args:
        model: the trained network.
        neighbours: of the matched deviation, see `MatchingLocalizer`.
        frames: of a video; more than 1 are not supported, since synthetic defects stand still.
        pool: images with synthetic defects to learn from; fewer where their signals would take more than 1 GiB.
        steps: of training.
        seed: of defects, weights and order.

    Raises:
        UsageError: several frames, or a number that cannot be.
    """

    name: ClassVar[str] = "learned"
    explains: ClassVar[str] = "a head on the VAE's signals, trained on synthetic defects alone, with the matched deviation"

    def __init__(
        self,
        model: nn.Module,
        neighbours: int | None = 20,
        frames: int = 1,
        pool: int = 1600,
        steps: int = 1200,
        seed: int = 0,
    ) -> None:
        if frames != 1:
            raise UsageError("localizer 'learned' takes single frames: synthetic defects do not move; use 'matching'")
        self.model = model
        self.neighbours = neighbours
        self.pool = whole("pool", pool, least=2)
        self.steps = whole("steps", steps)
        self.seed = whole("seed", seed, least=0)
        self._signals = Signals(model, self._matching)
        self._head: Head | None = None
        self._scale = torch.empty(0)

    def fit(self, normal: Tensor) -> Self:
        if len(normal) < 4:
            raise UsageError(f"localizer 'learned' takes at least 4 normal images, got {len(normal)}")
        signals, masks = self._examples(normal)
        positive = signals[:, -POSITIVE:].float().mean((0, 2, 3)).clamp_min(1e-8)
        self._scale = torch.cat([torch.ones(signals.shape[1] - POSITIVE), positive])
        signals /= self._scale.half()[:, None, None]
        self._head = train_head(signals, masks, self.steps, self.seed)
        self._signals.fit(normal)
        return self

    def state(self) -> dict[str, Tensor]:
        if self._head is None:
            raise self.not_fitted()
        return {_SCALE: self._scale, **{f"head.{name}": value for name, value in self._head.state_dict().items()}}

    def restore(self, normal: Tensor, state: dict[str, Tensor]) -> Self:
        weights = {name.removeprefix("head."): value for name, value in state.items() if name != _SCALE}
        if _SCALE not in state or state[_SCALE].shape != (4 * normal.shape[1] + POSITIVE,):
            raise UsageError(f"the state kept of localizer '{self.name}' is not one of these images")
        head = Head(len(state[_SCALE]))
        try:
            head.load_state_dict(weights)
        except RuntimeError as error:
            raise UsageError(f"the state kept of localizer '{self.name}' is not that of its head") from error
        self._scale, self._head = state[_SCALE], head.eval().requires_grad_(False)
        self._signals.fit(normal)
        return self

    def localize(self, images: Tensor) -> Localization:
        if self._head is None:
            raise self.not_fitted()
        signals, posterior = self._signals(images)
        signals = signals / self._scale[:, None, None]
        with torch.no_grad():
            logits = smoothed(self._head(signals), 1.0)
        matched = (signals[:, -1].clamp_min(0) + _FLOOR).log()
        maps = ((logits + matched) / 2).clamp_max(80).exp()
        return Localization(maps, maps.amax((1, 2)), posterior)

    def _matching(self) -> MatchingLocalizer:
        return MatchingLocalizer(self.model, neighbours=self.neighbours)

    def _examples(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Signals (N, c, H, W), float16, of images with synthetic defects, and their masks (N, H, W)."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        middle = len(normal) // 2
        halves = (normal[:middle], normal[middle:])
        prior = as_floats(normal[:: max(1, len(normal) // 512)]).mean(0, keepdim=True) if self.neighbours is None else None
        signals, masks = [], []
        bytes_each = 2 * (4 * normal.shape[1] + POSITIVE) * normal.shape[2] * normal.shape[3]
        pool = max(2, min(self.pool, _MEMORY // bytes_each))
        for mine, others in (halves, halves[::-1]):
            compared = Signals(self.model, self._matching).fit(others)
            patches = as_floats(others[:: max(1, len(others) // 256)])
            for start in range(0, pool // 2, _BATCH):
                count = min(_BATCH, pool // 2 - start)
                chosen = torch.randint(len(mine), (count,), generator=generator)
                drawn, where = with_defects(as_floats(mine[chosen]), patches, generator, prior=prior)
                signals.append(compared(drawn)[0].half())
                masks.append(where)
        return torch.cat(signals), torch.cat(masks)
