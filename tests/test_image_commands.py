"""The commands on a folder of images: what a person types, and what is refused in one line before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

KEYS = {"pixel_auroc", "pixel_ap", "aupro", "best_iou", "calibrated_iou", "image_auroc", "per_defect"}


def vaelens(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaelens", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_main_job_on_a_folder_of_images(defect_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--epochs", 1, "--size", 32, "--latents", 4, "--held-out", 0.5, "--localizer", "learned:pool=32:steps=20")
    trained = vaelens("train", "folder", "--root", defect_root, "--out", run, *options)
    assert "of 4 latents active" in trained.stdout
    assert "fitting localizer 'learned:pool=32:steps=20', which may take minutes: 50 %" in trained.stderr
    scored = vaelens("score", run, defect_root / "test", "--out", tmp_path / "scored", "--false-alarms", 0.2, "--quiet")
    assert "14 images" in scored.stdout
    rows = pq.read_table(tmp_path / "scored" / "scores.parquet").to_pylist()
    assert len(rows) == 14
    assert all((row["p_value"] <= 0.2) == row["flagged"] for row in rows)
    assert len(list((tmp_path / "scored" / "masks").rglob("*.png"))) == 14
    page = (tmp_path / "scored" / "report.html").read_text()
    assert "class None" not in page
    assert "farther from the normal images than all but 20%" in page
    result = json.loads(vaelens("evaluate", run, "--json", "--quiet").stdout)
    assert result["localizers"].keys() >= {"matching", "deviation", "floor-mean", "floor-neighbours", "floor-contrast"}
    assert all(one.keys() >= KEYS for one in result["localizers"].values())


def test_evaluation_in_words_and_on_synthetic_defects(folder_copy: Path, cli: Callable[..., Any]) -> None:
    done = cli("evaluate", folder_copy, "--localizer", "mean-sum,floor-neighbours", "--quiet")
    assert done.code == 0, done.err
    assert "best IoU (oracle)" in done.out
    assert "mean-sum is not above floor-neighbours in both AUROC and AP: it has not localized anything" in done.out
    by_type = done.out.partition("By type of defect")[2].splitlines()
    assert [word for word in by_type[2].split() if word.isalpha()] == ["localizer", "line", "spot", "mean"]
    done = cli("evaluate", folder_copy, "--synthetic", "--localizer", "matching:window=1", "--json", "--quiet")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["synthetic"] is True
    assert result["images"]["test"] == 200
    assert set(result["localizers"]) == {"matching:window=1"}
    assert (folder_copy / "report-synthetic" / "report.html").is_file()
    assert (folder_copy / "report" / "report.html").is_file()


def test_a_data_set_that_has_moved(folder_copy: Path, defect_root: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    config = folder_copy / "config.yaml"
    config.write_text(config.read_text().replace(str(defect_root), str(tmp_path / "gone")))
    done = cli("evaluate", folder_copy, "--localizer", "floor-mean", "--quiet")
    assert done.code == 2
    assert "--root" in done.err
    done = cli("evaluate", folder_copy, "--localizer", "floor-mean", "--root", defect_root, "--quiet")
    assert done.code == 0, done.err
    done = cli("evaluate", folder_copy, "--localizer", "floor-mean", "--synthetic", "--quiet")
    assert done.code == 0, "which takes no more than the run"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("folder", "--root", "ROOT", "--size", "abc"), "--size"),
        (("folder", "--root", "ROOT", "--size", "1x2x3"), "--size"),
        (("folder", "--root", "ROOT", "--size", "-5"), "size"),
        (("folder", "--root", "ROOT", "--size", "33"), "compact"),
        (("folder", "--root", "ROOT", "--size", "1000000"), "pixels"),
        (("folder", "--root", "ROOT", "--augment", "foo"), "rotate30"),
        (("folder", "--root", "ROOT", "--augment", "rotate999"), "180"),
        (("folder", "--root", "ROOT", "--normal", "3"), "--normal"),
        (("folder", "--root", "ROOT", "--frames", "3"), "frames"),
        (("folder", "--root", "ROOT", "--frames", "2"), "odd"),
        (("folder", "--root", "ROOT", "--network", "nope"), "compact"),
        (("folder", "--root", "ROOT", "--network", "mnist", "--size", "33"), "mnist"),
        (("folder", "--root", "ROOT", "--objective", "nope"), "ae-ssim"),
        (("folder", "--root", "ROOT", "--beta", "4"), "'beta'"),
        (("folder", "--root", "ROOT", "--held-out", "0.01"), "leaves"),
        (("folder", "--root", "ROOT", "--held-out", "1.5"), "(0, 1)"),
        (("folder", "--root", "ROOT", "--held-out", "0.025"), "--held-out"),
        (("folder", "--root", "ROOT", "--category", "nope"), "nope"),
        (("folder", "--root", "ROOT", "--layer", "conv9", "--size", "32"), "encoder.relu4"),
        (("folder",), "--root"),
        (("mvtec", "--root", "ROOT"), "name a category of MVTec AD by --category"),
        (("mvtec", "--root", "ROOT", "--category", "spoon"), "bottle"),
        (("mnist", "--category", "screw"), "category"),
        (("digits", "--size", "32"), "size"),
        (("digits", "--frames", "3"), "frames"),
        (("digits", "--even-brightness"), "brightness"),
        (("digits", "--fixed-camera"), "--fixed-camera is for"),
        (("digits", "--augment", "mirror"), "augmentation"),
        (("digits", "--network", "compact"), "'mnist'"),
        (("digits", "--objective", "ae"), "mvtec"),
        (("nope",), "ucsd-ped2"),
    ],
    ids=" ".join,
)
def test_nonsense_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], says: str, defect_root: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    given = [str(defect_root) if one == "ROOT" else one for one in arguments]
    assert says in fails("train", *given, "--out", tmp_path / "run", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nope", "matching"),
        ("anogan", "--objective anogan"),
        ("ae-l2", "--objective ae "),
        ("floor-motion", "--frames 3"),
        ("matching,nope", "'nope'"),
        ("matching:window=x", "window"),
        ("matching:windows=3", "window"),
        ("matching:", "NAME:OPTION=VALUE"),
        ("", "matching"),
        (",", "matching"),
    ],
)
def test_a_localizer_that_cannot_be(folder_run: Path, spec: str, says: str, fails: Callable[..., str]) -> None:
    for options in ((), ("--synthetic",)):
        assert says in fails("evaluate", folder_run, "--localizer", spec, *options, "--quiet", code=2)


def test_synthetic_defects_are_not_for_classes(tiny_run: Path, fails: Callable[..., str]) -> None:
    assert "--synthetic" in fails("evaluate", tiny_run, "--synthetic", code=2)


@pytest.mark.parametrize("options", [[], ["--synthetic"]])
def test_a_report_that_cannot_be_written_is_refused_first(
    folder_copy: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    from vaelens.scoring import localization, synthetic

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("evaluated for nothing")

    monkeypatch.setattr(localization, "evaluate_localization", never)
    monkeypatch.setattr(synthetic, "evaluate_synthetic", never)
    place = folder_copy / ("report-synthetic" if options else "report")
    place.write_text("of the person")
    assert fails("evaluate", folder_copy, *options, code=1) == (
        f"{place} is a file, in the place of a folder of results; move it away"
    )
    assert place.read_text() == "of the person"


def test_a_folder_of_something_else_is_not_replaced_by_the_report(tiny_copy: Path, fails: Callable[..., str]) -> None:
    other = tiny_copy / "report"
    other.mkdir()
    (other / ".vaelens").write_text("explain\nseen.png")
    (other / "seen.png").write_bytes(b"of the person")
    assert fails("evaluate", tiny_copy, code=2) == f"{other} holds what 'vaelens explain' wrote; move it away"
    assert (other / "seen.png").read_bytes() == b"of the person"


def test_resuming_with_something_else_is_refused(folder_copy: Path, fails: Callable[..., str]) -> None:
    for option, value, says in (
        ("--size", "64", "size"),
        ("--frames", "3", "frames"),
        ("--augment", "mirror", "augmentation"),
        ("--objective", "ae", "objective"),
        ("--network", "mvtec", "network"),
        ("--category", "x", "category"),
    ):
        said = fails("train", "folder", "--out", folder_copy, "--resume", option, value, "--epochs", 9, code=2)
        assert f"has {says} " in said, said
    assert "data set" in fails("train", "mvtec", "--out", folder_copy, "--resume", code=2)
