"""Folders and files of results: whole or not at all, and nothing that is not ours is touched."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from vaelens.errors import UsageError
from vaelens.output import MARK, OutputError, own_folder, result_folder, to_json, write_bytes, write_json, write_text


def fill(out: Path, overwrite: bool = False, **files: str) -> None:
    with result_folder(out, "test", overwrite) as folder:
        for name, text in files.items():
            write_text(folder / name, text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_file_is_replaced_whole_with_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    write_bytes(path, b"after", durable=True)
    assert path.read_bytes() == b"after"
    assert names(tmp_path) == {"file"}
    usual = tmp_path / "usual"
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("how", ["replace", "chmod"])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    monkeypatch.setattr(Path, how, full)
    with pytest.raises(OutputError, match=r"the disk is full: could not write .*file") as error:
        write_bytes(path, b"after")
    assert error.value.exit_code == 1
    assert path.read_text() == "before"
    assert names(tmp_path) == {"file"}


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"x")
    fill(tmp_path / ("ü" * 127), file="x")
    with pytest.raises(OutputError, match="too long"):
        write_bytes(tmp_path / ("x" * 256), b"x")
    with pytest.raises(OutputError, match="too long"):
        fill(tmp_path / ("x" * 256))


def test_text_with_bytes_that_are_no_text_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "a\udcff")
    assert (tmp_path / "file").read_text() == "a\\udcff"


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}], "d": (1, "x", None, True)}
    write_json(tmp_path / "file.json", value)
    expected = {"a": None, "b": [None, 1.5, {"c": None}], "d": [1, "x", None, True]}
    assert json.loads((tmp_path / "file.json").read_text()) == json.loads(to_json(value)) == expected


def test_a_folder_appears_at_the_end_and_is_marked_as_ours(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with result_folder(out, "test") as folder:
        write_text(folder / "file", "x")
        assert not out.exists()
    assert names(out) == {"file", MARK}
    assert names(out.parent) == {"out"}
    beside = tmp_path / "beside"
    beside.mkdir()
    assert out.stat().st_mode == beside.stat().st_mode


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OutputError])
@pytest.mark.parametrize("there", [False, True], ids=["new", "empty folder"])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, stop: type[BaseException], there: bool) -> None:
    out = tmp_path / "a" / "out"
    if there:
        out.mkdir(parents=True)

    def stopped() -> None:
        with result_folder(out, "test") as folder:
            (folder / "deeper").mkdir()
            write_text(folder / "deeper" / "half", "x")
            raise stop

    with pytest.raises(stop):
        stopped()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == (["a", "a/out"] if there else [])


def test_an_error_names_the_folder_that_the_person_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        with result_folder(tmp_path / "out", "test") as folder:
            monkeypatch.setattr(os, "fdopen", full)
            write_text(folder / "masks", "x")

    with pytest.raises(OutputError) as error:
        stopped()
    assert f"could not write {tmp_path / 'out' / 'masks'};" in str(error.value)


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    before = out.stat().st_ino
    fill(Path(), file="first")
    assert names(out) == {"file", MARK}
    fill(Path(), overwrite=True, other="second")
    assert names(out) == {"other", MARK}
    assert out.stat().st_ino == before


def test_a_mounted_disk_is_filled(small_disk: Path) -> None:
    fill(small_disk, file="x")
    fill(small_disk, overwrite=True, other="x")
    assert names(small_disk) == {"other", MARK}


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OutputError, match=r"the disk is full: could not write .*disk/out") as error:
        fill(small_disk / "out", small="x", large="x" * 300_000)
    assert "\n" not in str(error.value)
    assert names(small_disk) == set()


def test_results_are_replaced_on_request_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, file="first")
    with pytest.raises(UsageError, match="--overwrite") as error:
        fill(out, file="second")
    assert error.value.exit_code == 2
    assert (out / "file").read_text() == "first"
    fill(out, overwrite=True, other="second")
    assert names(out) == {"other", MARK}
    assert names(tmp_path) == {"out"}


def test_a_failed_replacement_leaves_the_old_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, file="first")

    def stopped() -> None:
        with result_folder(out, "test", overwrite=True) as folder:
            write_text(folder / "file", "second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (out / "file").read_text() == "first"
    assert names(out) == {"file", MARK}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for out in (foreign, file, dangling):
        with pytest.raises(UsageError):
            fill(out, overwrite=overwrite, file="x")
    assert (foreign / "thesis.tex").read_text() == file.read_text() == "mine"
    assert names(tmp_path) == {"foreign", "file", "dangling"}


def test_what_a_person_put_among_results_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, old="1", both="1")
    (out / "notes.txt").write_text("mine")
    fill(out, overwrite=True, both="2", new="2")
    assert names(out) == {"both", "new", "notes.txt", MARK}
    assert (out / "both").read_text() == "2"
    fill(out, overwrite=True, last="3")
    assert names(out) == {"last", "notes.txt", MARK}


def test_results_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    """A demo holds a run, and a figure the runs it was drawn from: no other command may replace them."""
    out = tmp_path / "out"
    fill(out, run="trained for hours")
    for context in (result_folder(out, "other", overwrite=True), own_folder(out, "other")):
        with pytest.raises(UsageError, match="holds what 'vaelens test' wrote, not 'other'"), context:
            pytest.fail("it was let in")
    (out / MARK).write_bytes(b"\xff" * 10_000)
    with pytest.raises(UsageError, match="left alone"):
        fill(out, overwrite=True, run="x")
    assert (out / "run").read_text() == "trained for hours"


def test_inside_a_run_another_commands_results_are_left_alone(tmp_path: Path) -> None:
    """What has no mark is a person's own, and stays beside ours."""
    out = tmp_path / "run" / "report"
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")

    def put(kind: str) -> None:
        with result_folder(out, kind, overwrite=True, inside_ours=True) as folder:
            write_text(folder / "file", kind)

    put("test")
    put("test")
    with pytest.raises(UsageError, match="holds what 'vaelens test' wrote; move it away"):
        put("other")
    assert (out / "file").read_text() == "test"
    assert names(out) == {"file", "notes.txt", MARK}


def test_results_that_came_meanwhile_are_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def slow() -> None:
        with result_folder(out, "test") as folder:
            write_text(folder / "file", "slow")
            fill(out, file="quick")

    with pytest.raises(UsageError, match="not empty"):
        slow()
    assert (out / "file").read_text() == "quick"
    assert names(tmp_path) == {"out"}


def test_what_a_killed_process_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    context = result_folder(out, "test")
    left = context.__enter__()
    (left / "half").write_text("x")
    fill(out, file="whole")
    assert {"file", MARK} <= names(out)
    shutil.rmtree(left)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "out", Path("/proc/nowhere/out")):
        with pytest.raises(OutputError) as error:
            fill(out, file="x")
        assert "\n" not in str(error.value)
        assert str(out) in str(error.value)
    assert names(tmp_path) == {"file"}


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", forbidden)
    with pytest.raises(OutputError, match="Permission denied; choose a place"):
        fill(tmp_path / "a" / "out", file="x")
    assert names(tmp_path) == set()


def test_links_in_old_results_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    out = tmp_path / "out"
    fill(out, link="first")
    (out / "link").unlink()
    (out / "link").symlink_to(tmp_path / "precious")
    fill(out, overwrite=True, other="x")
    assert names(out) == {"other", MARK}
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_folder_to_go_on_with_is_gone_if_nothing_came(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"

    def work(action: Callable[[], object]) -> None:
        with own_folder(out, "test"):
            action()

    def stop() -> NoReturn:
        raise KeyboardInterrupt

    def begin() -> NoReturn:
        (out / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(stop)
    assert names(tmp_path) == set()
    with pytest.raises(KeyboardInterrupt):
        work(begin)
    assert names(out) == {"half", MARK}
    work(lambda: (out / "whole").write_text("x"))
    assert names(out) == {"half", "whole", MARK}


def test_a_folder_to_go_on_with_must_be_ours(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "foreign", tmp_path / "file"):
        with pytest.raises(UsageError), own_folder(out, "test"):
            pytest.fail("the block must not run")
    assert names(tmp_path / "foreign") == {"thesis.tex"}
