"""Reading what is to be scored: in order, and with errors where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaelens.errors import DataError
from vaelens.runs import Run, load_run
from vaelens.scoring.sources import Source

COUNT = 7
DAMAGED = 4


@pytest.fixture(scope="module")
def run(folder_run: Path) -> Run:
    return load_run(folder_run)


@pytest.fixture
def source(run: Run, tmp_path: Path) -> Source:
    """Seven grey images, each with a bright column of its own, the fifth of them damaged."""
    for at in range(COUNT):
        pixels = np.full((32, 32), 60, np.uint8)
        pixels[:, at] = 200
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
    (tmp_path / f"{DAMAGED}.png").write_bytes(b"no image")
    return Source(run, [str(tmp_path)])


@pytest.mark.parametrize("size", [1, 3, COUNT, 100])
def test_every_image_comes_once_and_in_order(source: Source, size: int) -> None:
    batches = list(source.batches(size))
    assert [len(batch) for batch in batches] == [min(size, COUNT - start) for start in range(0, COUNT, size)]
    loaded = [one for batch in batches for one in batch]
    assert [one.item.name for one in loaded] == [f"{at}.png" for at in range(COUNT)]
    columns = [None if one.image is None else int(one.image[0, 0].argmax()) for one in loaded]
    assert columns == [None if at == DAMAGED else at for at in range(COUNT)]
    assert [at for at, one in enumerate(loaded) if one.error] == [DAMAGED]


def test_a_damaged_image_stops_at_its_own_batch_where_that_is_wanted(source: Source) -> None:
    batches = source.batches(2, strict=True)
    assert [one.item.name for _ in range(2) for one in next(batches)] == ["0.png", "1.png", "2.png", "3.png"]
    with pytest.raises(DataError, match=r"4\.png"):
        next(batches)
