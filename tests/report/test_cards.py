"""The gallery's cards: further pictures are shown, and count towards the size of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaelens.errors import UsageError
from vaelens.report.cards import LADDER, card, fitting_sizes
from vaelens.report.html import write_report


def noise(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_further_pictures_count_towards_the_size(make_image: Any) -> None:
    image = make_image(image=noise(0, 200, 200), fired=())
    more = make_image(image=noise(0, 200, 200), fired=(), further=(("outlined", noise(1, 200, 200, 3)),))
    one, other = (card(0, shown, 1.0, 1.0, LADDER[0]) for shown in (image, more))
    assert other.bytes() == one.bytes() + len(other.further[0][1])
    assert len(other.further[0][1]) > 100_000
    assert fitting_sizes([image], 1.0, 1.0, one.bytes()) == LADDER[0]
    assert fitting_sizes([more], 1.0, 1.0, one.bytes()) != LADDER[0]


def test_further_pictures_have_their_captions_in_the_page(make_image: Any, make_report: Any, tmp_path: Any) -> None:
    shown = make_image(further=(("flagged <red>", noise(1, 28, 28, 3)),))
    write_report(make_report(shown), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "flagged &lt;red&gt; of a.png" in page
    assert "<red>" not in page
    with pytest.raises(UsageError, match=r"the picture 'wrong' of image 'a\.png'"):
        make_image(further=(("wrong", np.zeros(3)),))
