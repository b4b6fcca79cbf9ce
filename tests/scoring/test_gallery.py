"""The latents of a report's card: which come first, and what their maps show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vaelens.attention import LatentMaps
from vaelens.runs import Explanation
from vaelens.scoring.gallery import fired_latents


def explanation() -> Explanation:
    """Three latents of one image: 0 above normal, 1 far below it, 2 where it always is."""
    signed = torch.tensor([[[[2.0, -1.0]], [[1.0, -3.0]], [[5.0, 5.0]]]])
    mean = torch.tensor([[4.0, -2.0, 0.1]])
    maps = LatentMaps(signed, torch.zeros(1, 3, 4), mean, torch.zeros(1, 3), torch.arange(3), "relu", "closed_form")
    z_scores = torch.tensor([[4.0, -6.0, 0.1]])
    return Explanation(maps, z_scores, z_scores.abs() >= 3, torch.ones(3, dtype=torch.bool))


def test_a_fired_latent_shows_what_moved_it_up_or_down() -> None:
    below, above = fired_latents(explanation(), 0)
    assert (below.index, above.index) == (1, 0)  # the farthest first
    np.testing.assert_array_equal(above.map, [[2.0, 0.0]])
    np.testing.assert_array_equal(below.map, [[0.0, 3.0]])


def test_a_map_without_a_sign_stays_as_it_is() -> None:
    found = explanation()
    below, above = fired_latents(replace(found, maps=replace(found.maps, rectifier="abs")), 0)
    np.testing.assert_array_equal(above.map, [[2.0, 1.0]])
    np.testing.assert_array_equal(below.map, [[1.0, 3.0]])
