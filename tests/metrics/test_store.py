"""Equal scores counted at once are counted as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vaelens.metrics import store
from vaelens.metrics.histogram import ScoreTree
from vaelens.metrics.spans import to_keys
from vaelens.metrics.store import ScoreStore, _Scores


def scores(count: int, levels: int, seed: int) -> _Scores:
    rng = np.random.default_rng(seed)
    normal = rng.integers(-levels, levels, count) / 7
    abnormal = rng.integers(-levels, 2 * levels, count // 5) / 7
    return _Scores(to_keys(normal), to_keys(abnormal), rng.random(len(abnormal)))


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 5000), levels=st.integers(1, 400), seed=st.integers(0, 9), above=st.integers(0, 100))
def test_a_tree_counts_folded_scores_as_it_counts_each(count: int, levels: int, seed: int, above: int) -> None:
    plain, folded = ScoreTree(0), ScoreTree(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_LOOKED_AT", 16)
        for part in (scores(count, levels, seed), scores(count, levels, seed + 10)):
            plain.add(part.normal, part.abnormal, part.weight, above)
            fewer, times = part.folded()
            assert times is None or len(fewer) <= len(part)
            folded.add(fewer.normal, fewer.abnormal, fewer.weight, above, times)
    one, other = plain.spans(), folded.spans()
    for name in ("low", "high", "normal", "abnormal"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.allclose(one.weight, other.weight)


def test_only_what_is_often_equal_is_folded() -> None:
    tied, apart = scores(50_000, 20, 0), np.random.default_rng(0).random(50_000)
    fewer, times = tied.folded()
    assert times is not None
    assert len(fewer.normal) == 40
    assert times[0].sum() == 50_000
    assert times[1].sum() == 10_000
    assert fewer.weight.sum() == pytest.approx(tied.weight.sum())
    none: NDArray[np.int64] = np.zeros(0, np.int64)
    for different in (_Scores(to_keys(apart), none, np.zeros(0)), _Scores(none, to_keys(apart), apart), _Scores.none()):
        assert different.folded() == (different, None)


def test_millions_of_equal_scores_are_exact() -> None:
    rng = np.random.default_rng(0)
    kept = ScoreStore()
    total: NDArray[np.int64] = np.zeros(100, np.int64)
    for _ in range(3):
        level = rng.integers(0, 100, 600_000)
        total += np.bincount(level, minlength=100)
        kept.add((level / 3).astype(np.float32), np.zeros(0, np.float32), np.zeros(0))
    spans = kept.spans()
    assert np.array_equal(spans.low, spans.high)  # nothing is lost
    keys = to_keys((np.arange(100) / 3).astype(np.float32))
    found = [int(spans.normal[spans.low == key].sum()) for key in keys]
    assert found == total.tolist()
