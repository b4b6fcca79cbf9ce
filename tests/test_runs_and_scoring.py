"""Runs: what is saved loads back and gives the same answers; what is damaged is refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vaelens.data.images import to_float
from vaelens.demo import run_demo
from vaelens.errors import RunError, UsageError, VaelensError
from vaelens.output import MARK, OutputError, result_folder, write_bytes
from vaelens.runs import Run, load_run
from vaelens.runs.objective import OF_CLASSES
from vaelens.runs.train import load_split, train_run
from vaelens.scoring.evaluate import evaluate
from vaelens.scoring.evaluation_report import write_evaluation
from vaelens.scoring.explain import explain
from vaelens.scoring.local import score
from vaelens.scoring.sources import Source


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def test_images(run: Run) -> torch.Tensor:
    return to_float(load_split(run.config).test.images[:24])


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def png(path: Path, image: torch.Tensor) -> Path:
    Image.fromarray(image[0].numpy()).save(path)
    return path


def test_the_same_seed_gives_the_same_run_and_another_does_not(run: Run, tmp_path: Path) -> None:
    again = train_run(tmp_path / "again", "digits", epochs=3, batch_size=32, latent_dim=8, progress=False)
    other = train_run(tmp_path / "other", "digits", epochs=3, batch_size=32, latent_dim=8, seed=1, progress=False)
    weight = "encoder.linear.weight"
    assert torch.equal(run.model.state_dict()[weight], again.model.state_dict()[weight])
    assert not torch.equal(run.model.state_dict()[weight], other.model.state_dict()[weight])
    assert load_file(run.path / "calibration.safetensors").keys() == load_file(again.path / "calibration.safetensors").keys()
    for name, tensor in load_file(run.path / "calibration.safetensors").items():
        assert torch.equal(tensor, load_file(again.path / "calibration.safetensors")[name]), name


def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_run(tmp_path / "run", "digits", epochs=1, batch_size=64, latent_dim=4, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_verdict_follows_from_scores_and_thresholds(run: Run, test_images: torch.Tensor) -> None:
    for name in OF_CLASSES:
        verdict = run.localize(test_images, name, false_alarms=0.1)
        calibration = run.calibration(name)
        assert verdict.maps.shape == (24, 28, 28)
        assert bool((verdict.maps >= 0).all())
        assert bool(verdict.maps.isfinite().all())
        assert torch.equal(verdict.flagged, verdict.score > verdict.score_threshold)
        assert torch.equal(verdict.masks, verdict.maps > verdict.pixel_threshold)
        for i, value in enumerate(verdict.score):
            at_least = int((calibration.scores >= value).sum())
            assert verdict.p_value[i] == (1 + at_least) / (len(calibration.scores) + 1)


def test_a_score_does_not_depend_on_the_batch(run: Run, test_images: torch.Tensor) -> None:
    for name in OF_CLASSES:
        together = run.localizer(name).localize(test_images[:6])
        alone = [run.localizer(name).localize(image[None]) for image in test_images[:6]]
        assert torch.allclose(together.score, torch.cat([a.score for a in alone]), rtol=1e-4, atol=1e-6), name
        assert torch.allclose(together.maps, torch.cat([a.maps for a in alone]), rtol=1e-3, atol=1e-5), name


def test_fired_latents_are_far_from_normal_and_carry_information(run: Run, test_images: torch.Tensor) -> None:
    found = run.explain(test_images)
    held_out = load_file(run.path / "calibration.safetensors")["held_out.mean"]
    z = (found.maps.mean - held_out.mean(0)) / held_out.std(0)
    nats = 0.5 * (found.maps.mean**2 + found.maps.logvar.exp() - 1 - found.maps.logvar)
    assert torch.allclose(found.z_scores, z, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.fired, (z.abs() >= 3) & (nats > 0.05))


def test_evaluation_equals_scores_counted_by_hand(run: Run) -> None:
    split = load_split(run.config)
    result = evaluate(run, ["deviation"]).scores["deviation"]
    scores, labels = result.values, split.test.labels
    assert labels is not None
    normal, sevens = scores[labels == 1], scores[labels == 7]
    wins = (sevens[:, None] > normal).double() + 0.5 * (sevens[:, None] == normal).double()
    assert result.per_class[7] == pytest.approx(float(wins.mean()), abs=1e-9)
    assert set(result.per_class) == {0, 2, 3, 4, 5, 6, 7, 8, 9}
    assert result.mean == pytest.approx(sum(result.per_class.values()) / 9)


def test_score_writes_what_the_run_says(run: Run, tmp_path: Path) -> None:
    images = load_split(run.config).test.images
    folder = tmp_path / "in" / "deeper"
    folder.mkdir(parents=True)
    for i in range(3):
        png(folder / f"{i}.png", images[i])
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (28, 28)).save(tmp_path / "in" / "colour.png")
    result = score(run, Source(run, [str(tmp_path / "in")]), tmp_path / "out", false_alarms=0.1)
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()}
    assert set(rows) == {"broken.png", "colour.png", "deeper/0.png", "deeper/1.png", "deeper/2.png"}
    assert "broken.png" in rows["broken.png"]["error"]
    assert "--convert" in rows["colour.png"]["error"]
    verdict = run.localize(to_float(images[:3]), false_alarms=0.1)
    for i in range(3):
        row = rows[f"deeper/{i}.png"]
        assert row["score"] == pytest.approx(float(verdict.score[i]), rel=1e-6)
        assert row["flagged"] == bool(verdict.flagged[i])
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "deeper" / f"{i}.png.png"))
        assert np.array_equal(mask > 0, verdict.masks[i].numpy())
        assert row["area"] == pytest.approx(float((mask > 0).mean()))
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["score_threshold"] == result.score_threshold
    assert "deeper/0.png" in (tmp_path / "out" / "report.html").read_text()


def test_convert_mends_what_it_can(run: Run, tmp_path: Path) -> None:
    Image.new("RGBA", (60, 40), (200, 10, 10, 128)).save(tmp_path / "x.png")
    result = score(run, Source(run, [str(tmp_path / "x.png")], convert=True), tmp_path / "out", pictures=False)
    assert result.rows[0].error is None


def test_no_readable_image_is_an_error_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(VaelensError, match=r"none of the 1 images can be read"):
        score(run, Source(run, [str(tmp_path / "in")]), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_images_of_one_name_from_two_folders_keep_apart(run: Run, tmp_path: Path) -> None:
    images = load_split(run.config).test.images
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        png(tmp_path / name / "same.png", images[i])
    result = score(run, Source(run, [str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "out")
    assert len({row.path for row in result.rows}) == 2
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 2


@pytest.mark.parametrize("name", ["a\nb<script>'\".png", "x" * 251 + ".png"], ids=["hostile", "long"])
def test_odd_names_are_scored_and_escaped(run: Run, tmp_path: Path, name: str) -> None:
    png_path = tmp_path / "in"
    png_path.mkdir()
    png(png_path / "tmp.png", load_split(run.config).test.images[0]).rename(png_path / name)
    result = score(run, Source(run, [str(png_path)]), tmp_path / "out")
    assert [row.error for row in result.rows] == [None]
    assert "<script>'" not in (tmp_path / "out" / "report.html").read_text()
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 1
    explain(run, Source(run, [str(png_path / name)]), tmp_path / "explained")


def test_a_picture_does_not_take_the_name_of_a_folder(run: Run, tmp_path: Path) -> None:
    given = tmp_path / "in"
    (given / "a.png.png").mkdir(parents=True)
    images = load_split(run.config).test.images
    for i, file in enumerate((given / "a.png", given / "a.png.png" / "b.png")):
        png(file, images[i])
    result = score(run, Source(run, [str(given)]), tmp_path / "out")
    assert [row.error for row in result.rows] == [None, None]
    assert len([p for p in (tmp_path / "out" / "overlays").rglob("*.png") if p.is_file()]) == 2


def test_results_do_not_replace_the_run_or_the_images(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    score(run, Source(run, ["digits/0043"]), results, pictures=False)
    inside = Path(shutil.copytree(run.path, results / "run"))
    copy = load_run(inside)
    image = png(results / "image.png", load_split(run.config).test.images[0])
    for made in (score, explain):
        for source in (Source(copy, ["digits/0043"]), Source(run, [str(image)])):
            with pytest.raises(UsageError, match=r"lies in --out|wrote, not"):
                made(source.run, source, results, overwrite=True)  # type: ignore[operator]
    with pytest.raises(UsageError, match="lies in --out"):
        score(copy, Source(copy, ["digits/0043"]), results, overwrite=True)
    assert load_run(inside).metrics == run.metrics
    assert image.is_file()
    with pytest.raises(UsageError, match="wrote, not 'demo'"):
        run_demo(results, epochs=1, progress=False)


def test_an_output_below_a_link_to_itself_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(VaelensError, match="loop") as error:
        explain(run, Source(run, ["digits/0043"]), tmp_path / "loop" / "out")
    assert "\n" not in str(error.value)


def test_an_evaluation_is_written_whole_or_not_at_all(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_run(copy)
    evaluation = evaluate(loaded, ["kl"])
    report = write_evaluation(loaded, evaluation)
    assert {p.name for p in report.parent.iterdir()} == {"evaluation.json", "report.html", MARK}
    before = (report.parent / "evaluation.json").read_text()
    other = evaluate(loaded, ["mean-sum"])

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr("vaelens.scoring.evaluation_report.write_report", full)
    with pytest.raises(OutputError):
        write_evaluation(loaded, other)
    assert (report.parent / "evaluation.json").read_text() == before
    monkeypatch.undo()
    (report.parent / "notes.txt").write_text("mine")
    (report.parent / MARK).unlink()
    write_evaluation(loaded, other)
    assert (report.parent / "notes.txt").read_text() == "mine"
    assert (report.parent / "evaluation.json").read_text() != before


def test_explain_draws_each_image_or_nothing(run: Run, tmp_path: Path) -> None:
    good = png(tmp_path / "good.png", load_split(run.config).test.images[0])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(VaelensError, match=r"bad\.png"):
        explain(run, Source(run, [str(good), str(tmp_path / "bad.png")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = explain(run, Source(run, [str(good)]), tmp_path / "out", run.attend(latents="top3"))
    numbers = json.loads((tmp_path / "out" / "latents.json").read_text())
    assert len(numbers["images"][0]["z_score"]) == 8
    assert result.files[0].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "calibration.safetensors", "metrics.json"])
def test_an_incomplete_or_damaged_run_is_refused(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    with pytest.raises(RunError) as missing:
        load_run(copy)
    (copy / name).write_bytes(content[: len(content) // 2] + b"\x00\xff[")
    with pytest.raises(RunError) as damaged:
        load_run(copy)
    for error in (missing, damaged):
        assert "\n" not in str(error.value)
        assert str(copy) in str(error.value)


def test_a_run_of_another_format_is_refused(copy: Path) -> None:
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("format: 2", "format: 99"))
    with pytest.raises(RunError, match="format 99"):
        load_run(copy)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['touch bomb']", "- a list", "", "format: 2\ndataset: 3", "a: [1,", "format: 2"]
)
def test_hostile_configurations_are_refused(copy: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    (copy / "config.yaml").write_text(text)
    with pytest.raises(RunError) as error:
        load_run(copy)
    assert "\n" not in str(error.value)
    assert not (copy / "bomb").exists()


def test_weights_are_never_unpickled(copy: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (copy / "bomb",))  # type: ignore[return-value]

    (copy / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match="damaged"):
        load_run(copy)
    assert not (copy / "bomb").exists()


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["mean.weight"] = weights["mean.weight"][:4].clone()
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(RunError, match="does not fit"):
        load_run(copy)


def test_resume_of_a_complete_run_changes_nothing_and_more_epochs_go_on(copy: Path) -> None:
    before = (copy / "model.safetensors").read_bytes()
    train_run(copy, "digits", resume=True, progress=False)
    assert (copy / "model.safetensors").read_bytes() == before
    longer = train_run(copy, "digits", resume=True, epochs=4, progress=False)
    assert longer.metrics["epochs"] == 4
    with pytest.raises(UsageError, match="only be raised"):
        train_run(copy, "digits", resume=True, epochs=2, progress=False)


def test_two_processes_do_not_train_in_one_folder(copy: Path) -> None:
    from filelock import FileLock

    with FileLock(copy / ".lock"), pytest.raises(RunError, match="another process"):
        train_run(copy, "digits", resume=True, epochs=5, progress=False)


def test_a_run_folder_is_not_overwritten_by_accident(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite"):
        train_run(copy, "digits", epochs=1, progress=False)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            train_run(foreign, "digits", epochs=1, overwrite=overwrite, progress=False)
        with pytest.raises(UsageError), result_folder(foreign, "test", overwrite=overwrite):
            pass
    assert (foreign / "thesis.tex").read_text() == "mine"


def test_a_folder_of_results_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stopped(overwrite: bool) -> None:
        with result_folder(out, "test", overwrite) as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped(overwrite=False)
    assert list(tmp_path.iterdir()) == []
    with result_folder(out, "test") as folder:
        (folder / "whole").write_text("x")
        assert not out.exists()
    assert (out / "whole").exists()
    with pytest.raises(UsageError, match="not empty"), result_folder(out, "test"):
        pass
    with pytest.raises(KeyboardInterrupt):
        stopped(overwrite=True)
    assert (out / "whole").exists(), "a failed replacement leaves what was there"
    with result_folder(out, "test", overwrite=True) as folder:
        (folder / "new").write_text("x")
    assert {p.name for p in out.iterdir() if p.name[0] != "."} == {"new"}


def test_full_disk_and_forbidden_places_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as no_folder:
        write_bytes(tmp_path / "none" / "file", b"x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError) as below_a_file, result_folder(tmp_path / "file" / "out", "test"):
        pass
    for error in (no_folder, below_a_file):
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)
