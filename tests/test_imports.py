"""Starting is quick, and what one part of the library needs is not imported for another."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import vaelens

HEAVY = ("torch", "lightning", "monai", "sklearn", "matplotlib", "pyarrow", "numpy", "jinja2")


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(HEAVY) & set(done.stdout.split())


def fastest(*arguments: str) -> float:
    """Seconds, the best of several, since a busy machine only ever adds."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_import_vaelens_takes_less_than_0_3_seconds() -> None:
    assert fastest("-c", "import vaelens") - fastest("-c", "pass") < 0.3


def test_help_takes_less_than_0_6_seconds() -> None:
    assert fastest("-m", "vaelens", "--help") < 0.6


def test_import_vaelens_and_the_command_line_import_nothing_heavy() -> None:
    assert loaded_by("import vaelens") == set()
    assert loaded_by("import vaelens.cli") == set()


def test_attention_imports_torch_alone() -> None:
    assert loaded_by("import vaelens.attention, vaelens.adapters") <= {"torch", "numpy"}


def test_scoring_does_not_import_what_only_training_needs() -> None:
    assert not loaded_by("import vaelens.scoring.local, vaelens.scoring.explain") & {"lightning", "sklearn"}


@pytest.mark.parametrize("name", vaelens.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(vaelens, name) is not None
    assert name in dir(vaelens)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_such"):
        vaelens.nothing_such  # noqa: B018
