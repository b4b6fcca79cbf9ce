"""Normal images with synthetic defects drawn on them, as what a VAE says about them: for a head to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.data.synthetic import with_defects
from vaelens.data.synthetic.lighting import evened, relit
from vaelens.localizers.base import as_floats
from vaelens.localizers.signals import Signals

_BATCH = 32
_APART = 104_729  # below 2 ** 32, of which a seed's multiples make no difference to torch's CPU generator


@dataclass(frozen=True)
class Examples:
    """Images with synthetic defects.

    Attributes:
        signals: (N, c, H, W), float16, see `Signals`.
        masks: (N, H, W), bool, on the CPU.
        matched: (N, H, W), float16, the matched deviation that is combined with the head; (0, H, W) where it was not asked for.
    """

    signals: Tensor
    masks: Tensor
    matched: Tensor


@dataclass(frozen=True)
class Drawing:
    """How examples are drawn from normal images.

    Args:
        new_signals: makes what is fitted on normal images and says what a VAE sees.
        prior: (1, C, H, W), the mean normal image where a place shows the same thing in every image; else None.
        frames: of a video, how many frames the images' channels are.
        brightness: whether images are relit at random, and evened out as they would be.
    """

    new_signals: Callable[[], Signals]
    prior: Tensor | None
    frames: int
    brightness: bool

    def draw(
        self, normal: Tensor, to_learn: int, to_judge: int, seed: int, done: Callable[[float], None]
    ) -> tuple[Examples, Examples]:
        """So many examples to learn from, and others, with the matched deviation, to judge by what was learned.

        The normal images (N, C, H, W), uint8 or float in [0, 1], serve in two halves, and each half is compared with the other,
        so that no image meets itself. `done` is told the share that is drawn.
        """
        middle = len(normal) // 2
        halves = (normal[:middle], normal[middle:])
        # one stream each, so that what is learned from does not depend on what it is judged by
        learning, judging = (torch.Generator("cpu").manual_seed(of) for of in (seed, seed + _APART))
        learned: list[Examples] = []
        judged: list[Examples] = []
        for mine, others in (halves, halves[::-1]):
            compared = self.new_signals().fit(others)
            patches = as_floats(others[:: max(1, len(others) // 256)].cpu())
            for into, count, generator in ((learned, to_learn, learning), (judged, to_judge, judging)):
                for start in range(0, count // 2, _BATCH):
                    done(sum(len(part.masks) for part in (*learned, *judged)) / (to_learn + to_judge))
                    size = min(_BATCH, count // 2 - start)
                    into.append(self._batch(mine, size, patches, generator, compared, into is judged))
        return _joined(learned), _joined(judged)

    def _batch(
        self, normal: Tensor, count: int, patches: Tensor, generator: torch.Generator, compared: Signals, matched: bool
    ) -> Examples:
        chosen = torch.randint(len(normal), (count,), generator=generator)
        drawn, where = with_defects(as_floats(normal[chosen].cpu()), patches, generator, prior=self.prior, frames=self.frames)
        if self.brightness:
            drawn = evened(relit(drawn, generator))
        drawn = drawn.to(normal.device)
        signals = compared(drawn)[0]
        beside = compared.matched(drawn, signals) if matched else signals.new_empty(0, *signals.shape[2:])
        return Examples(signals.half(), where, beside.half())


def _joined(parts: list[Examples]) -> Examples:
    return Examples(*(torch.cat([getattr(part, name) for part in parts]) for name in ("signals", "masks", "matched")))
