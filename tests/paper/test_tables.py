"""Tables and figures of images with defects, from made-up trees of the official layouts and from the real data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from vaelens.data.images import to_float
from vaelens.errors import DataError, UsageError
from vaelens.localizers import AnoGANLocalizer
from vaelens.paper import anomaly_runs, kept, reproduce, trained
from vaelens.paper.asked import Asked
from vaelens.paper.figure5 import most_masked
from vaelens.paper.figure6 import first_of_each
from vaelens.paper.rows import FIGURES
from vaelens.runs import load_run
from vaelens.runs.data import load_defects
from vaelens.runs.train import train_run
from vaelens.training.result import TrainingInterrupted

PNG = b"\x89PNG"
SMALL: dict[str, Any] = {"preset": "small", "progress": False}


def read(out: Path, name: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (out / f"{name}.csv").open(newline="") as file:
        return json.loads((out / f"{name}.json").read_text()), list(csv.DictReader(file))


@pytest.mark.usefixtures("tiny_presets")
def test_table1(pedestrians: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, said = tmp_path / "out", list[str]()
    result = reproduce("table1", out, root=pedestrians, seeds=(0, 4), notice=said.append, **SMALL)
    assert said[0].startswith("2 of 2 runs are to be trained")
    assert said[1].startswith("training will take about ")
    table, lines = read(out, "table1")
    rows = {row["localizer"]: row for row in table["rows"]}
    assert [row for row in rows if not row.startswith("attention, mean sum")] == [
        "reconstruction (Vanilla-VAE)",
        *(f"attention, eq. 4, conv{n}" for n in (1, 2, 3, 4)),
        "deviation",
        "deviation, all layers",
        "matching",
        "learned",
        "floor-mean",
        "floor-neighbours",
        "floor-contrast",
    ]
    # An independent measurement: every pixel of every test frame, by scikit-learn.
    for seed, place in ((0, 0), (4, 1)):
        run = load_run(out / "runs" / f"ucsd-ped2-seed{seed}")
        assert (run.config.training["seed"], run.config.training["epochs"]) == (seed, 1)
        split = load_defects(run.config)
        assert split.test is not None
        assert split.masks is not None
        for spec in ("attention:layer=encoder.relu2", "floor-mean"):
            (row,) = (row for row in rows.values() if row["spec"] == spec)
            maps = run.localizer(spec).anomaly_map(to_float(split.test.images)).flatten()
            assert row["pixel_auroc_seeds"][place] == pytest.approx(roc_auc_score(split.masks.flatten(), maps), abs=1e-9)
            assert row["pixel_ap_seeds"][place] == pytest.approx(average_precision_score(split.masks.flatten(), maps), abs=1e-9)
    for row, line in zip(table["rows"], lines, strict=True):
        assert (line["localizer"], line["seeds"], row["size"]) == (row["localizer"], "0 4", [32, 32])
        for figure in FIGURES:
            assert float(line[figure]) == row[figure] == sum(row[f"{figure}_seeds"]) / 2
            low, high = sorted(row[f"{figure}_seeds"])
            assert float(line[f"{figure}_spread"]) == pytest.approx((high - low) / 2**0.5)
        assert not row["paper"], "the paper's figures are of Ped1"
    text = (out / "table1.txt").read_text()
    assert result.text == text.rstrip("\n")
    assert "over seeds 0, 4" in text
    assert f"{rows['matching']['pixel_auroc']:.3f} ± {rows['matching']['pixel_auroc_spread']:.3f}" in text
    for name in ("deviation ", "deviation, all layers "):
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        assert ("*" in line) == bool(rows[name.strip()]["below_floors"])
    assert (out / "table1.png").read_bytes().startswith(PNG)
    assert [file.suffix for file in result.files] == [".txt", ".json", ".csv", ".png"]

    # The same call again trains nothing and measures nothing, and comes to the same.
    before = {name: (out / f"table1.{name}").read_bytes() for name in ("txt", "json", "csv", "png")}

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("was done before")

    with monkeypatch.context() as patch:
        patch.setattr("vaelens.training.fit.fit", never)
        patch.setattr(kept, "evaluate_localization", never)
        reproduce("table1", out, root=pedestrians, seeds=(0, 4), **SMALL)
        assert {name: (out / f"table1.{name}").read_bytes() for name in before} == before

    # Runs that are there serve for a table of their own.
    own = [out / "runs" / "ucsd-ped2-seed4"]
    given = reproduce("table1", tmp_path / "given", runs=own, progress=False)
    assert given.table is not None
    assert [row["seeds"] for row in given.table["rows"]] == [[4]] * len(lines)
    assert given.table["rows"][0]["pixel_auroc"] == table["rows"][0]["pixel_auroc_seeds"][1]
    assert given.table["rows"][0]["pixel_auroc_spread"] is None
    with pytest.raises(UsageError, match="trained with other settings; choose another --out, or pass --overwrite"):
        reproduce("table1", out, root=pedestrians, seeds=(0, 4), epochs=2, **SMALL)
    (tmp_path / "copy").symlink_to(own[0])
    with pytest.raises(UsageError, match="several runs have seed 4"):
        reproduce("table1", tmp_path / "given", runs=[*own, tmp_path / "copy"], progress=False)


@pytest.mark.usefixtures("tiny_presets")
def test_a_stopped_table_goes_on(pedestrians: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    trains = trained.train_run

    def stops(folder: Path, *rest: Any, **options: Any) -> Any:
        if folder.name.endswith("seed1"):
            raise TrainingInterrupted("training was stopped", None)  # type: ignore[arg-type]
        return trains(folder, *rest, **options)

    call = lambda: reproduce("table1", out, root=pedestrians, seeds=(0, 1), **SMALL)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(trained, "train_run", stops)
        with pytest.raises(TrainingInterrupted, match="the same call goes on"):
            call()
    (first,) = (out / "results").iterdir()
    assert len(json.loads(first.read_text())["localizers"]) == 16
    seen = (out / "runs" / "ucsd-ped2-seed0" / "model.safetensors").stat().st_mtime_ns, first.stat().st_mtime_ns
    assert call().table is not None
    again = (out / "runs" / "ucsd-ped2-seed0" / "model.safetensors").stat().st_mtime_ns, first.stat().st_mtime_ns
    assert seen == again
    # A damaged file of results is measured anew, and so are other weights under the same name.
    content = json.loads(first.read_text())
    first.write_text("{")
    call()
    assert json.loads(first.read_text()) == content


@pytest.mark.usefixtures("tiny_presets")
def test_table2(objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnoGANLocalizer.__init__, "__defaults__", (2, 0.1, 0.1, 0))  # of the search, two steps
    out = tmp_path / "out"
    reproduce("table2", out, root=objects, categories=("screw",), seeds=(3,), **SMALL)
    table, lines = read(out, "table2")
    assert [row["localizer"] for row in table["rows"]] == [
        "attention, eq. 4", "attention, mean sum", "deviation", "deviation, all layers", "matching", "learned",
        "reconstruction", "feature dictionary", "AE L2", "AE SSIM", "AnoGAN", "floor-mean", "floor-neighbours",
        "floor-contrast",
    ]  # fmt: skip
    assert {row["data"] for row in table["rows"]} == {"mvtec/screw"}
    assert [float(line["best_iou"]) for line in lines] == [row["best_iou"] for row in table["rows"]]
    assert [run["objective"] for run in table["runs"]] == ["vae", "ae", "ae-ssim", "anogan"]
    text = (out / "table2.txt").read_text()
    shown = [line.split() for line in text.splitlines()]
    at = next(i for i, line in enumerate(shown) if line[:2] == ["AE", "L2"])
    (row,) = (row for row in table["rows"] if row["localizer"] == "AE L2")
    assert [cell for cell in shown[at] if cell[0].isdigit()][:2] == [f"{row['pixel_auroc']:.3f}", "0.96"]
    assert shown[at + 1] == [f"{row['best_iou']:.3f}", "0.34"], "the best IoU stands below the AUROC, the paper's beside ours"
    assert "Few-Shot Fast-Adaptive Anomaly Detection" in text, "whose quotation they are"
    assert "features of the run's own encoder" in text
    assert "2 search steps (the paper: 500)" in text
    # Given runs alone: the rows that they allow, of every category given.
    vae = out / "runs" / "screw-vae-seed3"
    other = train_run(tmp_path / "grid", "mvtec", category="grid", root=objects, progress=False, **anomaly_runs.MVTEC["small"])
    given = reproduce("table2", tmp_path / "given", runs=[vae, other.path], progress=False)
    assert given.table is not None
    assert [row["data"] for row in given.table["rows"]] == ["mvtec/screw"] * 11 + ["mvtec/grid"] * 11
    with pytest.raises(UsageError, match=r"grid, not of screw"):
        reproduce("figure6", tmp_path / "f", runs=[other.path], categories=("screw",), progress=False)
    drawn = reproduce("figure6", tmp_path / "figure6", runs=[vae, other.path], progress=False)
    assert drawn.files[0].read_bytes().startswith(PNG)
    assert "mvtec/screw, mvtec/grid" in drawn.text
    split = load_defects(other.config)
    chosen = first_of_each(split)
    assert [split.test.names[i] for i in chosen] == [f"mvtec/grid/test/{d}/000.png" for d in ("bent", "scratch")]  # type: ignore[union-attr]


@pytest.mark.usefixtures("tiny_presets")
def test_figure5_takes_the_first_of_the_frames_with_most_masked_pixels(pedestrians: Path, tmp_path: Path) -> None:
    result = reproduce("figure5", tmp_path / "out", root=pedestrians, **SMALL)
    assert result.files[0].read_bytes().startswith(PNG)
    run = load_run(tmp_path / "out" / "runs" / "ucsd-ped2-seed0")
    split = load_defects(run.config)
    assert split.test is not None
    names = [split.test.names[i] for i in most_masked(split)]
    assert names == ["ucsd-ped2/test/Test001/003", "ucsd-ped2/test/Test002/002"]
    assert most_masked(split, clips=1) == [2]
    with pytest.raises(UsageError, match="is of ucsd-ped2, not of ucsd-ped1"):
        reproduce("figure5", tmp_path / "f", runs=[run.path], dataset="ucsd-ped1", progress=False)
    with pytest.raises(UsageError, match="is of ucsd-ped2, objective vae; this takes mvtec"):
        reproduce("table2", tmp_path / "f", runs=[run.path], progress=False)
    assert not (tmp_path / "f").exists()


def test_presets_are_the_papers(pedestrians: Path, objects: Path) -> None:
    (video,) = anomaly_runs.ucsd_recipes([2], Asked(root=pedestrians))
    config = video.config(pedestrians)
    assert (config.network["name"], config.network["input_shape"], config.training["seed"]) == ("ucsd", [1, 100, 100], 2)
    assert config.training["augmentation"] == "none"
    assert config.dataset["preparation"]["frames"] == 1
    recipes = anomaly_runs.mvtec_recipes([0], anomaly_runs.OBJECTIVES, Asked(root=objects))
    assert [recipe.name for recipe in recipes[:4]] == [f"grid-{o}-seed0" for o in ("vae", "ae", "ae-ssim", "anogan")]
    config = recipes[0].config(objects)
    assert (config.network["name"], config.network["input_shape"]) == ("mvtec", [1, 256, 256])
    assert (config.training["epochs"], config.training["augmentation"]) == (300, "rotate30,mirror")
    assert not config.dataset["preparation"]["brightness"]
    assert recipes[3].config(objects).network["input_shape"] == [1, 64, 64]
    shorter = anomaly_runs.mvtec_recipes(
        [0], ("vae", "ae"), Asked(root=objects, epochs=7, categories=("screw",), preset="small")
    )
    assert [recipe.config(objects).training["epochs"] for recipe in shorter] == [7, 7]
    assert shorter[0].config(objects).network["name"] == "compact"


def test_which_data_the_root_has(pedestrians: Path, objects: Path, tmp_path: Path) -> None:
    assert anomaly_runs.video(Asked(root=pedestrians)) == "ucsd-ped2"
    both = pedestrians / "UCSD_Anomaly_Dataset.v1p2"
    (both / "UCSDped1" / "Train").mkdir(parents=True)
    assert [anomaly_runs.video(Asked(root=root)) for root in (pedestrians, both)] == ["ucsd-ped1"] * 2
    assert anomaly_runs.video(Asked(root=both / "UCSDped2")) == "ucsd-ped2"
    assert anomaly_runs.video(Asked(root=both, dataset="ucsd-ped2")) == "ucsd-ped2"
    assert anomaly_runs.present(Asked(root=objects)) == ("grid", "screw")
    assert anomaly_runs.present(Asked(root=objects / "screw")) == ("screw",)
    with pytest.raises(DataError, match=r"no bottle/train/good; it has grid, screw"):
        anomaly_runs.present(Asked(root=objects, categories=("bottle",)))
    with pytest.raises(DataError, match="has neither"):
        anomaly_runs.video(Asked(root=tmp_path))
    with pytest.raises(DataError, match="no category of MVTec AD"):
        anomaly_runs.present(Asked(root=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("table9",),
            "unknown figure or table 'table9'; there are: figure1, figure4, figure5, figure6, figure8, figure9, ",
        ),
        (("table1", "--dataset", "mnist"), "unknown data set of this table or figure 'mnist'; there are: ucsd-ped1, ucsd-ped2"),
        (("table2", "--category", "spoon"), "unknown category of MVTec AD 'spoon'; there are: bottle, cable"),
        (("table2", "--category", "screw", "--category", "screw"), "category screw is given twice"),
        (("table1", "--preset", "large"), "unknown preset 'large'; there are: paper, small"),
        (("table1", "--seeds", "0,x"), "--seeds takes whole numbers such as 0,1,2, got '0,x'"),
        (("table1", "--seeds", "1,1"), "seed 1 is given twice"),
        (("table1", "--seeds=-1"), "a seed must be a whole number from 0 on, got -1"),
        (("table1", "--seeds", "0", "--run", "r"), "--seeds is for runs to be trained; with --run leave it out"),
        (("table1", "--seed", "1"), "table1 takes no --seed; leave it out"),
        (("figure1", "--category", "screw"), "figure1 takes no --category; leave it out"),
        (("figure6", "--dataset", "ucsd-ped1"), "figure6 takes no --dataset; leave it out"),
        (("table1", "--epochs", "0"), "epochs must be a whole number from 1 on, got 0"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, fails: Callable[..., str], pedestrians: Path, tmp_path: Path
) -> None:
    assert fails("reproduce", *arguments, "--root", pedestrians, "--out", tmp_path / "out", "--quiet", code=2).startswith(
        message
    )
    assert not (tmp_path / "out").exists()


def link(target: Path, files: list[Path]) -> None:
    target.mkdir(parents=True)
    for file in files:
        (target / file.name).symlink_to(file)


@pytest.mark.usefixtures("tiny_presets")
def test_real_pedestrians_and_screws(real_data: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    source = real_data / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"
    target = tmp_path / "ped" / "UCSDped2"
    for clip in ("Train/Train001", "Train/Train002", "Train/Train005", "Test/Test001", "Test/Test006"):
        frames = sorted((source / clip).glob("[0-9]*.tif"))[60:120:6]
        link(target / clip, frames)
        if clip.startswith("Test"):
            masks = [file for file in (source / f"{clip}_gt").glob("*.bmp") if file.stem[-3:] in {f.stem for f in frames}]
            link(target / f"{clip}_gt", masks)
    out = tmp_path / "table1"
    done = cli(
        "reproduce", "table1", "--root", tmp_path / "ped", "--preset", "small", "--seeds", 0, "--out", out, "--json", "--quiet"
    )
    assert done.code == 0, done.err
    rows = {row["spec"]: row for row in json.loads(done.out)["table"]["rows"]}
    assert rows["floor-neighbours"]["pixel_auroc"] > 0.8
    assert rows["matching"]["pixel_auroc"] > 0.8
    assert read(out, "table1")[0]["rows"] == json.loads(done.out)["table"]["rows"]
    screws = tmp_path / "mvtec" / "screw"
    of = real_data / "mvtec_ad" / "screw"
    link(screws / "train" / "good", sorted((of / "train" / "good").iterdir())[:20])
    for defect in ("thread_top", "scratch_head"):
        link(screws / "test" / defect, sorted((of / "test" / defect).iterdir())[:2])
        link(screws / "ground_truth" / defect, sorted((of / "ground_truth" / defect).iterdir())[:2])
    done = cli("reproduce", "figure6", "--root", screws.parent, "--preset", "small", "--out", tmp_path / "f6", "--quiet")
    assert done.code == 0, done.err
    assert (tmp_path / "f6" / "figure6.png").read_bytes().startswith(PNG)
