"""The warning that latents have died."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import pytest

from vaelens.training.collapse import CollapseWatch, LatentCollapseWarning


def warned(watch: CollapseWatch, epoch: int, active: int, latents: int = 32) -> str | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.check(epoch, active, latents)
    assert len(caught) <= 1
    if not caught:
        return None
    assert caught[0].category is LatentCollapseWarning
    return str(caught[0].message)


def test_once_and_again_only_if_it_gets_worse() -> None:
    watch = CollapseWatch(warmup_epochs=2)
    assert warned(watch, 1, 0) is None  # in the warm-up
    assert warned(watch, 2, 4) is None  # an eighth of 32 is enough
    message = warned(watch, 3, 3)
    assert message is not None
    assert message.startswith("only 3 of 32 latents active after epoch 3 (mean KL above 0.05 nats)")
    assert "warmup_epochs" in message
    assert "\n" not in message
    assert warned(watch, 4, 3) is None
    assert warned(watch, 5, 20) is None
    assert warned(watch, 6, 3) is None
    assert (warned(watch, 7, 0) or "").startswith("none of 32 latents is active after epoch 7")
    assert warned(watch, 8, 0) is None


@pytest.mark.parametrize(("latents", "enough"), [(1, 1), (4, 1), (10, 1), (11, 2), (100, 10)])
def test_fewer_than_a_tenth_or_none(latents: int, enough: int) -> None:
    assert warned(CollapseWatch(0), 1, enough, latents) is None
    assert warned(CollapseWatch(0), 1, enough - 1, latents) is not None


def test_fit_warns_once_also_across_a_resumption(small: ModuleType, tmp_path: Path) -> None:
    with pytest.warns(LatentCollapseWarning, match="none of 4 latents is active after epoch") as caught:
        small.train(tmp_path, epochs=3, kl_weight=1000.0, warmup_epochs=0)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = small.train(tmp_path, epochs=4, kl_weight=1000.0, warmup_epochs=0, resume=True)[1]
    assert result.active == (False,) * 4
    assert result.history[-1]["active_latents"] == 0
