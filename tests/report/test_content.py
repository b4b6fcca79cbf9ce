from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaelens.errors import UsageError
from vaelens.report.content import Figure, FiredLatent, Report, Table


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", np.zeros((2, 2)), "image 'a.png' must be uint8, not float64"),
        ("image", np.zeros((2, 2, 4), np.uint8), r"image 'a.png' must be an array \(H, W\) or \(H, W, 3\), not \(2, 2, 4\)"),
        ("image", [[1]], "not list"),
        (
            "anomaly_map",
            -np.ones((2, 2)),
            r"anomaly map of image 'a.png' must be finite and nowhere negative; its values are in \[-1.0, -1.0\]",
        ),
        ("anomaly_map", np.ones((1, 2, 2)), r"not \(1, 2, 2\)"),
        ("anomaly_map", np.array([["x"]]), "must hold numbers"),
        ("reconstruction", np.ones((2, 2), np.int64), "reconstruction of image 'a.png' must be uint8, or floats"),
        ("p_value", 1.5, r"p-value of image 'a.png' must be in \[0, 1\], not 1.5"),
    ],
)
def test_a_wrong_field_is_named_with_its_image(make_image: Any, field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_image(**{field: value})
    assert "\n" not in str(caught.value)


def test_a_hostile_name_stays_on_one_line_of_the_message(make_image: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make_image("a\nb" * 100, image=np.zeros((2, 2)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 150


def test_an_image_that_could_not_be_read_may_be_empty(make_image: Any) -> None:
    broken = make_image(image=np.zeros((0, 0), np.uint8), anomaly_map=np.zeros((0, 0)), score=float("nan"), error="no image")
    assert broken.error == "no image"


def test_a_latents_map_is_checked() -> None:
    with pytest.raises(UsageError, match="map of latent 3 must be finite"):
        FiredLatent(3, 4.0, 1.0, np.array([[np.inf]]))


def test_a_table_needs_a_value_for_every_column() -> None:
    with pytest.raises(UsageError, match="row 1 of table 't' has 1 values, the table 2 columns"):
        Table("t", ("a", "b"), ((1, 2), (3,)))


def test_a_figure_must_be_a_png() -> None:
    with pytest.raises(UsageError, match="figure 'f' must be given as the bytes of a PNG file"):
        Figure("f", "", b"<svg/>")


@pytest.mark.parametrize("limits", [(0.0, None), (None, -1.0), (float("nan"), None)])
def test_limits_must_be_positive(limits: tuple[float | None, float | None]) -> None:
    with pytest.raises(UsageError, match="_limit must be a positive number"):
        Report("t", "", (), {}, (), (), (), limits[0], (), limits[1])
