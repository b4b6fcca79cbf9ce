"""Finding images: what is taken, what is skipped, and folders that lead in circles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaelens.data.decode import list_images
from vaelens.data.files import SUFFIXES
from vaelens.errors import UsageError


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_known_suffixes_in_any_case_at_any_depth(tmp_path: Path) -> None:
    wanted = touch(tmp_path, *(f"a.{suffix}" for suffix in SUFFIXES), "B.JPG", "sub/deep/er/c.Png", "two.dots.tif")
    touch(tmp_path, "notes.txt", "png", "a.png.bak", "mask.npy", "d.gif", "noimage.xpng")
    assert list_images(tmp_path) == sorted(wanted)
    assert list_images(str(tmp_path)) == sorted(wanted)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "a.png")
    touch(tmp_path, "._a.png", ".hidden.png", ".cache/b.png", "sub/.png", "__MACOSX/._a.png")
    assert list_images(tmp_path) == wanted


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    wanted = touch(tmp_path, ".runs/a.png")
    assert list_images(tmp_path / ".runs") == wanted


def test_files_are_taken_whatever_their_name(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "z.dat", ".a")
    assert list_images([first, second, first]) == [second, first]


def test_files_and_folders_together_give_each_once(tmp_path: Path) -> None:
    a, b, c = touch(tmp_path, "one/a.png", "one/b.png", "two/c.png")
    assert list_images([c, tmp_path / "one", a]) == [a, b, c]


def test_order_is_fixed(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.png", "a.png", "B.png", "b.png", "10.png", "9.png")
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["10.png", "9.png", "B.png", "a.png", "b/1.png", "b.png"]


def test_circles_of_links_end(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "a/x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert list_images(tmp_path) == wanted


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (target,) = touch(tmp_path, "elsewhere/x.png")
    top = tmp_path / "top"
    top.mkdir()
    (top / "first").symlink_to(target.parent)
    (top / "second").symlink_to(target.parent)
    assert list_images(top) == [top / "first" / "x.png"]
    assert list_images(top / "second") == [top / "second" / "x.png"]


def test_a_dangling_link_is_listed_so_that_reading_it_says_so(tmp_path: Path) -> None:
    link = tmp_path / "x.png"
    link.symlink_to(tmp_path / "gone.png")
    assert list_images(tmp_path) == [link]


@pytest.mark.parametrize("name", ["missing", "x" * 5000, "nul\0byte"])
def test_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        list_images(tmp_path / name)
    assert str(caught.value).isprintable()


def test_no_images_names_the_folder_and_the_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "._b.png")
    with pytest.raises(UsageError) as caught:
        list_images(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert all(f"*.{suffix}" in message for suffix in SUFFIXES)


def test_nothing_named() -> None:
    with pytest.raises(UsageError, match="no image"):
        list_images([])


def test_message_stays_on_one_line_for_odd_names(tmp_path: Path) -> None:
    odd = tmp_path / "line\nbreak"
    odd.mkdir()
    with pytest.raises(UsageError) as caught:
        list_images(odd)
    assert "\n" not in str(caught.value)
    raw = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    raw.mkdir()
    with pytest.raises(UsageError) as caught:
        list_images(raw)
    str(caught.value).encode("utf-8")
