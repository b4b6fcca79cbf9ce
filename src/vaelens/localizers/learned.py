"""A head trained on synthetic defects alone, on top of what a VAE and its latents say about an image."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vaelens.errors import UsageError, truth, whole
from vaelens.localizers.base import Localization, Localizer, as_floats
from vaelens.localizers.combined import Combined
from vaelens.localizers.examples import Drawing, Examples
from vaelens.localizers.head import Head, train_head
from vaelens.localizers.signals import Signals
from vaelens.localizers.smoothing import smoothed

_BATCH = 32
_MEMORY = 1 << 30  # bytes that the signals to learn from may take
_FLOOR = 0.1  # of the matched deviation, in units of its mean
_JUDGED = 512  # images with synthetic defects that the head has not seen, to weigh its word by; a quarter of the pool at most
_DRAWN = 0.25  # of the time of fitting, about, goes into drawing defects and comparing
_SCALE, _UNIT, _COMBINED = "scale", "unit", "combined"


class LearnedLocalizer(Localizer):
    """Signals of the VAE (see `Signals`) read by a small head that has learned to find synthetic defects.

    Defects are drawn on the normal images in two halves, and the signals of each half come from comparing with the other, so
    that no image meets itself. The map combines the head's log odds with the logarithm of the matched deviation (see
    `Signals.matched`): each is standardised on normal images and weighed by how well it finds synthetic defects that the head
    has not seen (see `Combined`), and the map is log(1 + exp(their mean)): so many standard deviations where it is large, and
    near 0 where nothing is. Fitting takes minutes; a run keeps what was learned. The score is the map's maximum.

    Args:
        model: the trained network.
        fixed_camera: whether a place shows the same thing in every image.
        frames: of a video, how many frames the images' channels are, see `MatchingLocalizer`.
        brightness: whether every image's brightness was evened out (see `Preparation`): images with synthetic defects are then
            relit at random, and evened out as they would be.
        pool: images with synthetic defects to learn from, fewer where their signals would take more than 1 GiB; None: `POOL`.
        steps: of training; None: `STEPS`.
        seed: of defects, weights and order.

    Raises:
        UsageError: a number that cannot be.
    """

    name: ClassVar[str] = "learned"
    POOL: ClassVar[int] = 8000
    STEPS: ClassVar[int] = 6000
    explains: ClassVar[str] = "a head on the VAE's signals, trained on synthetic defects alone, with the matched deviation"

    def __init__(
        self,
        model: nn.Module,
        fixed_camera: bool = False,
        frames: int = 1,
        brightness: bool = False,
        pool: int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.fixed_camera = truth("'fixed_camera'", fixed_camera)
        self.frames = whole("frames", frames)
        self.brightness = truth("'brightness'", brightness)
        self.pool = whole("pool", self.POOL if pool is None else pool, least=2)
        self.steps = whole("steps", self.STEPS if steps is None else steps)
        self.seed = whole("seed", seed, least=0)
        self._signals = self._new_signals()
        self._head: Head | None = None
        self._scale = self._unit = torch.empty(0)
        self._combined: Combined | None = None

    def fit(self, normal: Tensor) -> Self:
        if len(normal) < 4:
            raise UsageError(f"localizer 'learned' takes at least 4 normal images, got {len(normal)}")
        examples, judged = self._examples(normal)
        if bool(judged.masks.flatten(1).any(1).all()):
            raise UsageError(f"localizer 'learned' drew a defect on each of {len(judged.masks)} images; raise pool")
        signals = examples.signals
        signed = signals.shape[1] - self._signals.unsigned
        unsigned = [signals[:, at].float().mean() for at in range(signed, signals.shape[1])]  # one by one, to spare memory
        self._scale = torch.cat([signals.new_ones(signed, dtype=torch.float32), torch.stack(unsigned).clamp_min(1e-8)])
        signals /= self._scale.half()[:, None, None]
        self._head = train_head(
            signals,
            examples.masks,
            self.steps,
            self.seed,
            done=lambda step: self._tell(_DRAWN + (1 - _DRAWN) * step / self.steps),
        )
        self._unit = judged.matched.float().mean().clamp_min(1e-8)
        pairs = zip(torch.split(judged.signals, _BATCH), torch.split(judged.matched, _BATCH), strict=True)
        both = [self._both(signals.float(), matched.float()) for signals, matched in pairs]
        self._combined = Combined.measured(torch.cat(both, 1), judged.masks)
        self._signals.fit(normal)
        self._tell(1.0)
        return self

    def state(self) -> dict[str, Tensor]:
        if self._head is None or self._combined is None:
            raise self.not_fitted()
        return {
            _SCALE: self._scale,
            _UNIT: self._unit,
            _COMBINED: self._combined.table,
            **{f"head.{name}": value for name, value in self._head.state_dict().items()},
        }

    def restore(self, normal: Tensor, state: dict[str, Tensor]) -> Self:
        shapes = {_SCALE: (self._signals.count(normal.shape[1]),), _UNIT: (), _COMBINED: (2, 3)}
        if any(name not in state for name in shapes):
            raise UsageError(f"the state kept of localizer '{self.name}' is not whole, or of an earlier version")
        if any(state[name].shape != shape for name, shape in shapes.items()):
            raise UsageError(f"the state kept of localizer '{self.name}' is not one of these images")
        head = Head(len(state[_SCALE])).to(normal.device)
        try:
            head.load_state_dict({name.removeprefix("head."): value for name, value in state.items() if name not in shapes})
        except RuntimeError as error:
            raise UsageError(f"the state kept of localizer '{self.name}' is not that of its head") from error
        self._scale, self._unit, self._combined = state[_SCALE], state[_UNIT], Combined(state[_COMBINED])
        self._head = head.eval().requires_grad_(False)
        self._signals.fit(normal)
        return self

    def localize(self, images: Tensor) -> Localization:
        if self._combined is None:
            raise self.not_fitted()
        signals, posterior = self._signals(images)
        maps = self._combined(self._both(signals, self._signals.matched(images, signals)))
        return Localization(maps, maps.amax((1, 2)), posterior)

    def _new_signals(self) -> Signals:
        return Signals(self.model, self.fixed_camera, self.frames)

    def _both(self, signals: Tensor, matched: Tensor) -> Tensor:
        """Signals (B, c, H, W), matched deviation (B, H, W) -> the head's log odds and the deviation's logarithm, (2, B, H, W).

        The odds are the mean of those read as they are and in the mirror: the head learned from both.
        """
        assert self._head is not None
        scaled = signals / self._scale[:, None, None]
        with torch.no_grad():
            odds = (self._head(scaled) + self._head(scaled.flip(-1)).flip(-1)) / 2
        return torch.stack([smoothed(odds, 1.0), ((matched / self._unit).clamp_min(0) + _FLOOR).log()])

    def _tell(self, share: float) -> None:
        if self.progress is not None:
            self.progress(round(1000 * share), 1000)

    def _examples(self, normal: Tensor) -> tuple[Examples, Examples]:
        """What the head learns from, and what it is judged by."""
        prior = as_floats(normal[:: max(1, len(normal) // 512)].cpu()).mean(0, keepdim=True) if self.fixed_camera else None
        drawing = Drawing(self._new_signals, prior, self.frames, self.brightness)
        bytes_each = 2 * self._signals.count(normal.shape[1]) * normal.shape[2] * normal.shape[3]
        pool = max(2, min(self.pool, _MEMORY // bytes_each))
        judged = min(_JUDGED, max(pool // 4, 16))
        return drawing.draw(normal, pool, judged, self.seed, lambda share: self._tell(_DRAWN * share))
