"""Which of many scored images the report will show, chosen as they go by, so that memory holds only those."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar

import numpy as np

MOST = 50  # a page to look through; each costs as much as scoring three


class Candidate(Protocol):
    """An image that may be shown: its score, or why it has none."""

    @property
    def score(self) -> float: ...

    @property
    def error(self) -> str | None: ...


Card = TypeVar("Card", bound=Candidate)


class Shown(Generic[Card]):
    """The images of highest score, a random sample of the others and a few of those that could not be read.

    Up to `most` images all are kept. Of more, about 7 in 10 places go to the highest scores, 2 to the sample (seeded, every
    other image with the same chance) and 1 to images that failed; places that one kind does not need go to the others.

    Args:
        most: images that are shown at most.
        seed: of the sample.
    """

    def __init__(self, most: int = MOST, seed: int = 0) -> None:
        self.most = most
        self.seed = seed
        self.sound = self.failed = 0
        self._random = np.random.default_rng(seed)
        self._failed: list[Card] = []
        # Heaps whose first entry is the next to go: the lowest score, and the highest lot.
        self._highest: list[tuple[float, int, float, Card]] = []
        self._others: list[tuple[float, int, Card]] = []

    def add(self, card: Card) -> None:
        """Take one more image into account."""
        if card.error is not None:
            self.failed += 1
            if len(self._failed) < self.most:
                self._failed.append(card)
            return
        self.sound += 1
        # Of equal scores the first is kept; the lot says who is in the sample if the score is not among the highest.
        heapq.heappush(self._highest, (card.score, -self.sound, float(self._random.random()), card))
        if len(self._highest) > self.most:
            _, position, lot, passed = heapq.heappop(self._highest)
            heapq.heappush(self._others, (-lot, position, passed))
            if len(self._others) > self.most // 5:
                heapq.heappop(self._others)

    def images(self) -> tuple[Card, ...]:
        """At most `most` images, the highest scores first, the failed ones last."""
        top, drawn, failed = self._places()
        ranked = sorted(self._highest, key=lambda entry: entry[:2], reverse=True)
        others = [*((lot, -position, card) for _, position, lot, card in ranked[top:])]
        others += [(-lot, -position, card) for lot, position, card in self._others]
        sample = sorted(others, key=lambda entry: entry[:2])[:drawn]
        cards = [card for *_, card in ranked[:top]] + sorted((card for *_, card in sample), key=lambda c: -c.score)
        return (*cards, *self._failed[:failed])

    def sentence(self) -> str:
        """What was left out, in one sentence; empty where nothing was."""
        total = self.sound + self.failed
        if total <= self.most:
            return ""
        top, drawn, failed = self._places()
        parts = [f"the {top:,} with the highest scores"] if top else []
        if drawn:
            parts.append(f"{drawn:,} drawn at random from the others (seed {self.seed})")
        if failed:
            parts.append(f"{failed:,} of {self.failed:,} that could not be read")
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
        return f"The gallery shows {top + drawn + failed:,} of {total:,} images: {listed}. The table has all of them."

    def _places(self) -> tuple[int, int, int]:
        """How many of the highest scores, of the sample and of the failed images are shown."""
        for_failed = min(self.failed, max(self.most // 10, self.most - self.sound))
        for_sound = min(self.sound, self.most - for_failed)
        drawn = min(self.most // 5, for_sound) if self.sound > for_sound else 0
        return for_sound - drawn, drawn, for_failed
