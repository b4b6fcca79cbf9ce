"""The registry: names without torch, and one call to a split."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vaelens.data import DATASETS, load_one_class
from vaelens.errors import DataError, UsageError


def test_listing_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; import vaelens.data, vaelens.data.decode, vaelens.data.files, vaelens.data.download\n"
        "assert set(vaelens.data.DATASETS) >= {'digits', 'mnist'}\n"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits() -> None:
    split = load_one_class("digits", normal=3, held_out=0.2, seed=4)
    assert (split.dataset, split.normal) == ("digits", 3)
    assert split.classes == tuple(range(10))
    assert split.counts == {"train": 117, "calibration": 29, "test": 359, "test_normal": 37, "test_anomalous": 322}


def test_unknown_data_set() -> None:
    with pytest.raises(UsageError, match="unknown data set 'emnist'; there are: digits, mnist"):
        load_one_class("emnist")


def test_unknown_digit() -> None:
    with pytest.raises(UsageError, match="unknown digits class 10; there are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        load_one_class("digits", normal=10)


def test_held_out_is_checked_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("loaded before the share was checked")

    monkeypatch.setitem(DATASETS, "digits", fail)
    with pytest.raises(UsageError, match="held_out"):
        load_one_class("digits", held_out=1.0)


def test_root_may_be_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks the MNIST files"):
        load_one_class("mnist", root=str(tmp_path))  # type: ignore[arg-type]


def test_real_mnist(real_data: Path) -> None:
    split = load_one_class("mnist", normal=1, root=real_data / "mnist")
    assert split.counts == {
        "train": 6068,
        "calibration": 674,
        "test": 10_000,
        "test_normal": 1135,
        "test_anomalous": 8865,
    }
    assert len(split.train) + len(split.calibration) == 6742
