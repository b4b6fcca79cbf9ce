"""Maps beside their spread: two scales, told apart, and nothing drawn that is no distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaelens.errors import UsageError
from vaelens.report.colour import overlay
from vaelens.report.sheet import enlarged
from vaelens.report.spreads import spread_grid

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (28, 28), dtype=np.uint8)


def test_maps_and_spreads_share_a_scale_and_probabilities_have_their_own() -> None:
    maps, spreads, share = RNG.random((2, 7, 7)), 3 * RNG.random((2, 7, 7)), RNG.random((2, 7, 7))
    figure = spread_grid(IMAGE, maps, spreads, share, ["z1", "z2"], "seven.png", limit=2.5)
    tiles = figure.axes[0].images
    assert len(tiles) == 1 + 2 * 3  # the input, and three of each latent
    large = enlarged(IMAGE, 1.05)
    for k in range(2):
        for at, (values, limit) in enumerate(((maps, 2.5), (spreads, 2.5), (share, 1.0))):
            drawn = np.asarray(tiles[1 + 3 * k + at].get_array())
            assert np.array_equal(drawn, overlay(large, values[k], limit))
    labels = [[tick.get_text() for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())] for axes in figure.axes[1:]]
    assert any("2.5" in one for one in labels)
    assert any("1" in one for one in labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spreads": np.zeros((2, 7, 6))}, "of one shape"),
        ({"probabilities": np.full((2, 7, 7), 1.5)}, "probabilities must be in"),
        ({"maps": -np.ones((2, 7, 7))}, "nowhere negative"),
        ({"latent_names": ["z1"]}, "latent_names must be 2"),
        ({"notes": [["a"]]}, "notes must be 2"),
        ({"image": np.zeros((28, 28, 2))}, "the image must be"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], message: str) -> None:
    given = {
        "image": IMAGE,
        "maps": np.zeros((2, 7, 7)),
        "spreads": np.zeros((2, 7, 7)),
        "probabilities": np.zeros((2, 7, 7)),
        "latent_names": ["z1", "z2"],
        "title": "seven",
    }
    with pytest.raises(UsageError, match=message):
        spread_grid(**{**given, **change})
