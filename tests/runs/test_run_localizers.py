"""What a run's folder keeps of its localizers: read back as it was, measured once, never another model's."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from vaelens.data.images import to_float
from vaelens.errors import RunError, UsageError
from vaelens.localizers import Calibration, build_localizer
from vaelens.localizers import features as features_module
from vaelens.runs import RunConfig, load_run
from vaelens.runs.localizers import in_lines, keep, read_kept, suitable
from vaelens.runs.train import train_run

KEPT = "feature-dictionary"


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The run's own encoder serves the feature dictionary, whatever this machine has."""
    monkeypatch.setattr(features_module, "find_weights", lambda weights=None: None)


@pytest.fixture
def folder_copy(folder_copy: Path) -> Path:
    """A run whose folder keeps nothing of any localizer."""
    shutil.rmtree(folder_copy / "localizers")
    return folder_copy


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each dictionary that is learned."""
    counted: list[int] = []
    learn = features_module.learn

    def counting(*arguments: Any) -> Any:
        counted.append(1)
        return learn(*arguments)

    monkeypatch.setattr(features_module, "learn", counting)
    return counted


def test_what_takes_long_to_learn_is_learned_once(folder_copy: Path, fits: list[int]) -> None:
    first = load_run(folder_copy)
    images = 0.9 * to_float(first.held_out_images[:4])  # not the same: of equal scores rounding decides which is higher
    verdict = first.localize(images, KEPT)
    file = folder_copy / "localizers" / f"{KEPT}.safetensors"
    assert fits == [1]
    assert {"score", "peak", "state.words", "state.mean"} <= set(load_file(file))
    content = file.read_bytes()
    again = load_run(folder_copy)
    other = again.localize(images, KEPT)
    assert fits == [1], "read from the folder"
    assert torch.allclose(verdict.maps, other.maps, rtol=1e-4)
    assert torch.equal(verdict.p_value, other.p_value)
    assert verdict.pixel_threshold == other.pixel_threshold
    assert file.read_bytes() == content
    assert [path.name for path in (folder_copy / "localizers").iterdir()] == [file.name]


def test_what_is_kept_is_the_calibration_of_held_out_images(folder_copy: Path) -> None:
    run = load_run(folder_copy)
    run.calibration("floor-mean")
    kept = load_file(folder_copy / "localizers" / "floor-mean.safetensors")
    localizer = build_localizer("floor-mean", run.model).fit(run.normal_images)
    expected = Calibration.measure(localizer, run.held_out_images)
    assert torch.equal(kept["score"], expected.scores)
    assert torch.equal(kept["peak"], expected.peaks)


def test_one_with_options_is_kept_by_itself(folder_copy: Path) -> None:
    run = load_run(folder_copy)
    spec = "matching:neighbours=2:window=0"
    found = run.calibration(spec)
    localizer = build_localizer("matching", run.model, neighbours=2, window=0).fit(run.normal_images)
    assert torch.allclose(found.scores, Calibration.measure(localizer, run.held_out_images).scores)
    assert not torch.allclose(found.scores, run.calibration("matching").scores)
    assert run.calibration(spec) is found
    kept = load_run(folder_copy).calibration(spec)
    assert torch.equal(kept.scores, found.scores)
    assert not torch.allclose(kept.scores, load_run(folder_copy).calibration("matching").scores)


@pytest.mark.parametrize("value", ["../out", "x" * 300, "\u2028 é", "con.txt"])
def test_whatever_options_hold_it_is_kept_in_its_folder(folder_copy: Path, value: str) -> None:
    one, other = (Calibration(torch.tensor([score]), torch.tensor([score])) for score in (1.0, 2.0))
    model = load_run(folder_copy).model
    for end, calibration in (("1", one), ("2", other)):
        keep(folder_copy, f"floor-mean:note={value}{end}", build_localizer("floor-mean", model), calibration)
    assert len(list((folder_copy / "localizers").iterdir())) == 2
    assert read_kept(folder_copy, f"floor-mean:note={value}1")["score"] == 1
    assert read_kept(folder_copy, f"floor-mean:note={value}2")["score"] == 2
    assert not read_kept(folder_copy, "floor-mean")


def test_a_run_scores_by_the_localizer_that_was_chosen(defect_root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": 32, "network": "compact", "held_out": 0.5, "latent_dim": 4}
    spec = "learned:pool=8:steps=2"
    lines: list[str] = []
    run = train_run(
        tmp_path / "run",
        "folder",
        root=defect_root,
        epochs=1,
        batch_size=8,
        progress=False,
        localizer=spec,
        notice=lines.append,
        **options,
    )
    assert not any("fitting" in line for line in lines)  # of which progress=False wants nothing
    assert run.main_localizer == load_run(run.path).main_localizer == spec
    assert suitable(run.config)[0] == spec
    assert len(read_kept(run.path, spec)["score"]) == 20  # calibrated with the training
    assert run.localize(to_float(run.held_out_images[:2])).localizer == spec
    with pytest.raises(UsageError, match="has localizer 'learned:pool=8:steps=2', not 'matching'"):
        train_run(run.path, "folder", root=defect_root, resume=True, localizer="matching")


@pytest.mark.parametrize(
    ("localizer", "message"),
    [
        ("learnt", "unknown localizer 'learnt'"),
        ("learned:steps=0", "steps"),
        ("learned:depth=3", "unknown option of localizer 'learned' 'depth'"),
        ("anogan", "takes a model of its own"),
    ],
)
def test_one_that_cannot_be_is_refused_before_training(localizer: str, message: str, defect_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        train_run(tmp_path / "run", "folder", root=defect_root, size=32, localizer=localizer, progress=False)
    assert not (tmp_path / "run").exists()


def test_thresholds_change_with_the_rate_and_nothing_is_fitted_for_it(folder_copy: Path, fits: list[int]) -> None:
    run = load_run(folder_copy)
    images = to_float(run.held_out_images[:2])
    thresholds = [run.localize(images, KEPT, rate).pixel_threshold for rate in (0.05, 0.1, 0.3)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) == 3
    assert fits == [1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.pop("score"),
        lambda t: t.pop("state.words"),
        lambda t: t.update({"score": t["score"] * float("nan")}),
        lambda t: t.update({"peak": t["peak"][:3].clone()}),
        lambda t: t.update({"state.words": t["state.words"] * float("nan")}),
        lambda t: t.update({"state.mean": t["state.mean"][:3].clone()}),
        lambda t: t.update({"state.source": t["state.source"] + 5}),
    ],
    ids=["no scores", "no words", "scores of NaN", "few peaks", "words of NaN", "a short mean", "other features"],
)
def test_a_damaged_file_is_one_line(folder_copy: Path, damage: Callable[[dict[str, Tensor]], object]) -> None:
    load_run(folder_copy).calibration(KEPT)
    file = folder_copy / "localizers" / f"{KEPT}.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    damage(tensors)
    file.unlink()
    save_file(tensors, file)
    said = refused(folder_copy)
    assert str(file) in said
    assert "remove it" in said
    file.unlink()
    assert bool(load_run(folder_copy).calibration(KEPT).scores.isfinite().all())


@pytest.mark.parametrize("content", [b"", b"\x00\xff[{", b"x" * 1000])
def test_a_file_of_something_else_is_one_line(folder_copy: Path, content: bytes) -> None:
    file = folder_copy / "localizers" / f"{KEPT}.safetensors"
    file.parent.mkdir()
    file.write_bytes(content)
    assert str(file) in refused(folder_copy)


def refused(folder: Path) -> str:
    run = load_run(folder)  # which does without
    with pytest.raises(RunError) as error:
        run.localize(to_float(run.held_out_images[:1]), KEPT)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_scores_of_another_number_of_images_are_measured_anew(folder_copy: Path) -> None:
    run = load_run(folder_copy)
    whole = run.calibration("floor-mean").scores
    file = folder_copy / "localizers" / "floor-mean.safetensors"
    few = {name: value[:5].clone() for name, value in load_file(file).items()}
    file.unlink()
    save_file(few, file)
    assert torch.equal(load_run(folder_copy).calibration("floor-mean").scores, whole)


def test_a_run_that_cannot_be_written_to_is_measured_all_the_same(folder_copy: Path) -> None:
    (folder_copy / "localizers").write_text("in the way")
    assert len(load_run(folder_copy).calibration("floor-mean").scores) == 20


def test_a_model_that_is_trained_further_forgets_what_was_learned_of_it(folder_copy: Path, defect_root: Path) -> None:
    """Scores of one model's held-out images would make wrong p-values of another's without anybody noticing."""
    before = load_run(folder_copy).calibration(KEPT)
    run = train_run(folder_copy, "folder", resume=True, epochs=3, progress=False)
    assert run.metrics["epochs"] == 3
    after = run.calibration(KEPT)
    localizer = build_localizer(KEPT, run.model).fit(run.normal_images)
    assert torch.allclose(after.scores, Calibration.measure(localizer, run.held_out_images).scores, rtol=1e-4)
    assert not torch.equal(before.scores, after.scores)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("anogan", "--objective anogan "),
        ("ae-l2", "--objective ae "),
        ("ae-ssim", "--objective ae-ssim "),
        ("floor-motion", "--frames 3"),
        ("nope", "there are: "),
        ("matching:layer=conv9", "encoder.relu4"),
        ("kl:nonsense=3", "'layer', 'variant'"),
        ("kl:layer", "NAME:OPTION=VALUE"),
    ],
)
def test_what_a_run_does_not_allow_is_one_line(folder_run: Path, spec: str, says: str) -> None:
    run = load_run(folder_run)
    with pytest.raises(UsageError) as error:
        run.localize(torch.rand(1, 1, 32, 32), spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_layer_and_the_camera_of_the_run_are_the_defaults(folder_copy: Path) -> None:
    path = folder_copy / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["explain"] = {"layer": "encoder.relu2", "fixed_camera": True}
    path.write_text(yaml.safe_dump(values))
    run = load_run(folder_copy)
    assert run.localizer("deviation").attentions[0].layer == "encoder.relu2"  # type: ignore[attr-defined]
    assert run.localizer("deviation:layer=encoder.relu3").attentions[0].layer == "encoder.relu3"  # type: ignore[attr-defined]
    matching = run.localizer("matching")
    assert (matching.layer, matching.neighbours) == ("encoder.relu1", None)  # type: ignore[attr-defined]
    assert run.localizer("matching:neighbours=4").neighbours == 4  # type: ignore[attr-defined]


def test_which_localizers_a_run_is_evaluated_by(folder_run: Path, tiny_run: Path) -> None:
    assert suitable(RunConfig.load(tiny_run)) == ("mean-sum", "normal-difference", "deviation", "kl", "reconstruction")
    of_images = suitable(RunConfig.load(folder_run))
    assert of_images[0] == load_run(folder_run).main_localizer == "learned"
    assert of_images[-3:] == ("floor-mean", "floor-neighbours", "floor-contrast")


def test_every_value_of_a_preparation_is_checked(folder_copy: Path) -> None:
    path = folder_copy / "config.yaml"
    whole = yaml.safe_load(path.read_text())
    assert whole["dataset"]["preparation"] == {"size": [32, 32], "channels": 1, "frames": 1, "brightness": True}
    for key in (*whole["dataset"]["preparation"], None):
        for value in ("missing", None, "x", -1, 1.5, [], {}, [1, 2], float("nan"), 10**30):
            values = yaml.safe_load(path.read_text())
            if key is None:
                values["dataset"]["preparation"] = value
            elif value == "missing":
                del values["dataset"]["preparation"][key]
            else:
                values["dataset"]["preparation"][key] = value
            path.write_text(yaml.safe_dump(values))
            with pytest.raises(RunError) as error:
                RunConfig.load(folder_copy)
            assert "\n" not in str(error.value), (key, value)
            assert str(path) in str(error.value), (key, value)
            path.write_text(yaml.safe_dump(whole))


def test_a_run_of_the_first_format_is_one_line(folder_copy: Path) -> None:
    path = folder_copy / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["format"] = 1
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RunError, match=r"has format 1 .* with format 2; use that version, or train the run again") as error:
        load_run(folder_copy)
    assert "\n" not in str(error.value)


def test_a_run_tells_how_far_fitting_is(folder_copy: Path) -> None:
    (folder_copy / "localizers" / "learned.safetensors").unlink(missing_ok=True)
    lines: list[str] = []
    run = load_run(folder_copy)
    run.fitting = in_lines(lines.append)
    run.calibration("learned")
    assert lines[0] == "fitting localizer 'learned', which may take minutes"
    assert lines[-1] == "fitting localizer 'learned', which may take minutes: 100 %"
    assert len(lines) == len(set(lines)) <= 11
    run = load_run(folder_copy)
    run.fitting = in_lines(lines.append)
    count = len(lines)
    run.localizer("learned")  # as it was kept
    assert len(lines) == count


def test_a_run_holds_the_latest_localizers_alone(folder_copy: Path) -> None:
    run = load_run(folder_copy)
    images = to_float(run.held_out_images[:2])
    specs = [f"deviation:neighbours={k}" for k in range(1, 7)]
    first = run.localizer(specs[0])
    before = first.anomaly_map(images)
    gone = weakref.ref(first)
    assert run.localizer(specs[0]) is first
    for spec in specs[1:4]:
        run.localizer(spec)
    assert run.localizer(specs[0]) is first, "the latest again"
    del first
    for spec in specs[4:] + specs[1:3]:
        run.localizer(spec)
    gc.collect()
    assert gone() is None
    assert torch.equal(run.localizer(specs[0]).anomaly_map(images), before)
