"""Runs of dSprites: measured in steps, of all images, without normal ones; gone on with exactly, and refused before a trace."""

from __future__ import annotations

import csv
import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from vaelens.data.factors import FactorSplit
from vaelens.data.sprites import Sprites
from vaelens.errors import RunError, UsageError
from vaelens.objectives import Discriminator
from vaelens.objectives.elbo import kl_per_latent
from vaelens.runs import Run, RunConfig, load_run, new
from vaelens.runs import data as run_data
from vaelens.runs.data import load_classes, load_defects, load_known_factors
from vaelens.runs.new import configured
from vaelens.runs.objective import AD_WEIGHT
from vaelens.runs.recipes import is_begun_with, recipe_of
from vaelens.runs.train import SPRITES, train_run

pytestmark = pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")

FEW: dict[str, Any] = {"steps": 4, "batch_size": 6, "warmup_epochs": 0, "progress": False}


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return Sprites()


@pytest.fixture(scope="module", autouse=True)
def _quick(sprites: Sprites) -> Iterator[None]:
    """The sprites are drawn once and not by every run; discriminators are small, and so are their checkpoints."""
    load, units = run_data.load_factors, Discriminator.__init__.__defaults__

    def shared(name: str, root: Path | None = None, *others: Any) -> FactorSplit:
        return FactorSplit(name, sprites) if root is None else load(name, root, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_data, "load_factors", shared)
        patch.setattr(Discriminator.__init__, "__defaults__", (64,))
        yield
    assert Discriminator.__init__.__defaults__ == units


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of four steps, with all terms of the loss."""
    out = tmp_path_factory.mktemp("sprites") / "run"
    train_run(out, "dsprites", objective="ad-factor", gamma=7.0, ad_weight=2.0, ad_pairs="random", **FEW)
    return load_run(out)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.path, tmp_path / "run"))


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    change(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_run_says_what_it_was_made_from(run: Run) -> None:
    written = yaml.safe_load((run.path / "config.yaml").read_text())
    assert written["dataset"] == {
        **{"name": "dsprites", "root": None, "normal": None, "category": None, "held_out": None, "seed": 0},
        "preparation": None,
    }
    assert written["network"] == {"name": "dsprites", "input_shape": [1, 64, 64], "latent_dim": 10}
    assert written["explain"] == {"layer": None, "fixed_camera": False}
    assert written["objective"] == "ad-factor"
    training = written["training"]
    assert (training["epochs"], training["steps_per_epoch"], training["batch_size"]) == (1, 4, 6)
    assert (training["gamma"], training["ad_weight"], training["ad_pairs"]) == (7.0, 2.0, "random")
    assert (training["kl_weight"], training["ad_layer"], training["learning_rate"]) == (1.0, None, 1e-4)
    assert run.config.of_factors
    assert not run.config.of_classes
    assert run.settings()["layer"] == "encoder.relu4"
    assert "root" not in run.settings()["data set"]


def test_metrics_say_what_training_came_to(run: Run) -> None:
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics == run.metrics
    assert metrics["images"] == {"train": 737_280}
    assert (metrics["epochs"], metrics["stopped_early"], metrics["held_out_clips"]) == (1, False, 0)
    parts = ("loss", "reconstruction", "kl", "overlap", "total_correlation", "discriminator")
    assert set(metrics["losses"]) == {f"train/{part}" for part in parts}
    found = {part: metrics["losses"][f"train/{part}"] for part in parts}
    expected = found["reconstruction"] + found["kl"] + 7 * found["total_correlation"] + 2 * found["overlap"]
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert len(metrics["mean_kl"]) == 10
    assert metrics["active_latents"] == sum(kl > 0.05 for kl in metrics["mean_kl"])
    (row,) = rows(run.path)
    assert float(row["train/loss"]) == found["loss"]
    assert [float(row[f"kl/z{latent}"]) for latent in range(10)] == metrics["mean_kl"]
    assert 0 <= float(row["attention_overlap"]) <= 1


def test_it_loads_as_it_was_and_keeps_sprites_to_compare_with(run: Run, sprites: Sprites) -> None:
    kept = load_file(run.path / "calibration.safetensors")
    assert set(kept) == {"normal.images", "held_out.images", "held_out.mean", "held_out.logvar"}
    assert run.normal_images.shape == run.held_out_images.shape == (SPRITES, 1, 64, 64)
    assert set(run.held_out_images.unique().tolist()) == {0, 255}
    numbers = sprites.draw(2 * SPRITES, torch.Generator().manual_seed(0))
    drawn = torch.cat([run.normal_images, run.held_out_images])
    assert torch.equal(drawn, (255 * sprites.take(numbers)).to(torch.uint8))
    with torch.no_grad():
        mean, _ = run.model.encode(run.held_out_images[:20].float() / 255)
    torch.testing.assert_close(mean, kept["held_out.mean"][:20], rtol=1e-3, atol=1e-4)
    expected = kl_per_latent(kept["held_out.mean"], kept["held_out.logvar"]).mean(0) > 0.05
    assert torch.equal(run.active, expected)
    assert torch.equal(load_run(run.path).active, expected)
    assert not any(name.startswith("discriminator") for name in load_file(run.path / "model.safetensors"))
    assert run.attention.method == "closed_form"
    assert not (run.path / "localizers").exists()


def test_sprites_are_explained(run: Run, sprites: Sprites) -> None:
    images = sprites.take(torch.tensor([0, 300_000, 700_000]))
    explanation = run.explain(images)
    assert explanation.maps.per_latent.shape == (3, 10, 4, 4)
    assert explanation.maps.per_latent.any()
    assert explanation.z_scores.shape == explanation.fired.shape == (3, 10)
    assert torch.equal(explanation.active, run.active)
    assert run.reconstruct(images).shape == images.shape


def test_there_is_no_normal_image_to_localize_with(
    run: Run, sprites: Sprites, tmp_path: Path, fails: Callable[..., str]
) -> None:
    images = sprites.take(torch.tensor([0, 1]))
    message = "^dsprites has no normal images to compare with; explain or evaluate a run of it$"
    for call in (
        lambda: run.localize(images),
        lambda: run.localize(images, "deviation"),
        lambda: run.localize(images, "floor-mean"),
        lambda: run.main_localizer,
        lambda: run.calibration("matching"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    Image.fromarray((255 * images[0, 0]).byte().numpy()).save(tmp_path / "sprite.png")
    said = fails("score", run.path, tmp_path / "sprite.png", "--out", tmp_path / "scored", code=2)
    assert said == message.strip("^$")
    assert not (tmp_path / "scored").exists()
    with pytest.raises(UsageError, match="dsprites has no classes; this takes a run of"):
        load_classes(run.config)
    with pytest.raises(UsageError, match="dsprites has no images with defects; this takes a run of"):
        load_defects(run.config)
    assert load_known_factors(run.config).train is sprites


def test_the_command_trains_resumes_and_prints(tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]) -> None:
    out = tmp_path / "run"
    options = ("--objective", "ad-beta", "--ad-weight", "1", "--ad-pairs", "top2", "--latents", "4", "--layer", "encoder.conv3")
    done = cli("train", "dsprites", *options, "--batch-size", "4", "--steps", "3", "--beta", "2", "--out", out, "--quiet")
    assert done.code == 0, done.err
    assert f"{out}: 3 steps in " in done.out
    assert "training loss " in done.out
    assert "of 4 latents active; layer encoder.conv3 by vjp" in done.out
    again = cli("train", "dsprites", "--out", out, "--resume", "--steps", "6", "--json", "--quiet")
    assert again.code == 0, again.err
    metrics = json.loads(again.out)
    assert metrics["epochs"] == 2
    assert "train/total_correlation" not in metrics["losses"]
    config = RunConfig.load(out)
    assert (config.training["ad_layer"], config.training["kl_weight"]) == ("encoder.conv3", 2.0)
    assert (config.training["epochs"], config.training["steps_per_epoch"]) == (2, 3)
    said = fails("train", "dsprites", "--out", out, "--resume", "--steps", "7", code=2)
    assert said.endswith("goes on by 3 steps at a time; give a multiple of it as --steps")
    assert "holds a run already" in fails("train", "dsprites", "--steps", "3", "--out", out, code=2)


def test_the_settings_of_factor_vaes_training_are_options(
    tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "STEPS_PER_EPOCH", 2)
    out, command = tmp_path / "run", ("train", "dsprites", "--objective", "factor", "--steps", "4", "--batch-size", "4")
    pace = ("--kl-start", "9", "--warmup-epochs", "2", "--standardize-after", "0.5", "--discriminator-rate", "0.002")
    done = cli(
        *command,
        *pace,
        "--pooled-until",
        "1",
        "--rate-warmup",
        "0.5",
        "--rate-cooldown",
        "0.25",
        "--wake-after",
        "1.5",
        "--gather-after",
        "0.25",
        "--turn-after",
        "0.5",
        "--quiet",
        "--out",
        out,
    )
    assert done.code == 0, done.err
    training = RunConfig.load(out).training
    assert (training["kl_start"], training["warmup_epochs"]) == (9.0, 2.0)
    assert (training["standardize_after"], training["discriminator_learning_rate"]) == (0.5, 0.002)
    assert (training["pooled_until"], training["rate_warmup_epochs"], training["rate_cooldown_epochs"]) == (1.0, 0.5, 0.25)
    assert (training["gather_after"], training["turn_after"], training["wake_after"]) == (0.25, 0.5, 1.5)
    with (out / "logs" / "metrics.csv").open(newline="") as file:
        weights = [float(row["kl_weight"]) for row in csv.DictReader(file)]
    assert weights == pytest.approx([9 * 9**-0.25, 9 * 9**-0.75])  # after steps 2 and 4 of 4
    assert "must be a number from 0 on" in fails(*command, "--kl-start", "-1", "--out", tmp_path / "bad", code=2)
    assert "--kl-start, 4, during the warm-up: give --warmup-epochs above 0" in fails(
        *command, "--kl-start", "4", "--out", tmp_path / "bad", code=2
    )
    assert "--rate-cooldown must be at most epochs, 2, got 3" in fails(
        *command, "--rate-cooldown", "3", "--out", tmp_path / "bad", code=2
    )
    assert "--beta must be a number from 0 on, got -1" in fails(
        "train", "dsprites", "--objective", "beta", "--beta", "-1", "--out", tmp_path / "bad", code=2
    )
    for option in ("--gather-after", "--wake-after"):
        assert f"{option} must be above 0 and below" in fails(*command, option, "2", "--out", tmp_path / "bad", code=2)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("steps", [30, 1000, 2000, 4000, 13_000, 15_000])
def test_a_run_goes_on_by_its_recipe_when_its_length_was_raised(tmp_path: Path, steps: int) -> None:
    """Though at that length the recipe would have had other settings."""
    asked: dict[str, Any] = dict.fromkeys(inspect.signature(train_run).parameters)
    asked |= {"objective": "factor", "steps": steps}
    of = {name: configured("dsprites", None, {**asked, "recipe": name}, {}).training for name in ("paced", "published")}
    for times in (1, 2, 7, 100):
        for recipe, training in of.items():
            raised = {**training, "epochs": times * training["epochs"]}
            assert [name for name in of if is_begun_with(name, raised)] == [recipe]
    longer = recipe_of({**of["paced"], "epochs": 4 * of["paced"]["epochs"]})
    assert longer == (None if steps in (1000, 2000, 4000) else "paced")  # tables tell it from a run that was that long at once
    otherwise = {**of["paced"], "kl_start": 100.0}
    assert not any(is_begun_with(name, otherwise) for name in of)
    assert [name for name in of if is_begun_with(name, otherwise, given={"kl_start"})] == ["paced"]
    assert is_begun_with("published", {**of["published"], "gather_after": 0.3}, given={"gather_after"})
    assert {recipe_of({**training, "gather_after": 0.3}) for training in of.values()} == {None}


def test_latents_are_looked_at_after_a_step_at_least(tmp_path: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"objective": "factor", "steps": 3, "batch_size": 4, "wake_after": 0.01}
    options |= {"gather_after": 0.01, "turn_after": 0.01}
    run = train_run(tmp_path / "run", "dsprites", notice=said.append, progress=False, **options)
    assert run.config.training["wake_after"] == 0.01
    assert said == ["latents are woken, and the run ends before they are in place again, 7 epochs after wake_after"]


def test_a_recipe_stands_for_settings(
    tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "STEPS_PER_EPOCH", 1)
    out, command = tmp_path / "run", ("train", "dsprites", "--objective", "factor", "--batch-size", "4", "--quiet")
    done = cli(*command, "--recipe", "paced", "--pooled-until", "1", "--steps", "4", "--out", out)
    assert done.code == 0, done.err
    training = RunConfig.load(out).training
    assert (training["kl_start"], training["warmup_epochs"], training["standardize_after"]) == (200, 1, 2.5)
    assert (training["rate_warmup_epochs"], training["wake_after"]) == (1, None)  # there are too few steps to wake
    assert (training["pooled_until"], training["learning_rate"]) == (1, 6e-4)  # what is given comes first
    said = fails(*command, "--recipe", "paced", "--steps", "5", "--resume", "--out", out, code=2)
    assert said.endswith("was not begun with --recipe paced: leave that out to go on with it")
    again = (*command, "--recipe", "paced", "--pooled-until", "1", "--steps", "4", "--resume")
    assert cli(*again, "--out", out).code == 0  # the very command that it was begun with
    plain = tmp_path / "plain"
    assert cli(*command, "--recipe", "published", "--steps", "1", "--out", plain).code == 0
    assert RunConfig.load(plain).training["learning_rate"] == 1e-4
    assert "not begun with --recipe paced" in fails(*command, "--recipe", "paced", "--resume", "--out", plain, code=2)
    assert cli(*command, "--recipe", "published", "--resume", "--steps", "2", "--out", plain).code == 0
    bad = tmp_path / "bad"
    assert "unknown recipe 'fast'; there are: published, paced" in fails(*command, "--recipe", "fast", "--out", bad, code=2)
    assert "unknown objective ''" in fails("train", "dsprites", "--objective", "", "--steps", "1", "--out", bad, code=2)
    said = fails("train", "dsprites", "--objective", "beta", "--recipe", "paced", "--out", bad, code=2)
    assert said.endswith("a recipe is for objective factor or ad-factor, not for 'beta'; leave --recipe out")
    said = fails("train", "digits", "--objective", "factor", "--recipe", "paced", "--out", bad, code=2)
    assert said.endswith("a recipe is for dsprites, not for digits; leave --recipe out")
    assert not bad.exists()


def test_raising_the_steps_equals_a_run_that_was_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "STEPS_PER_EPOCH", 2)  # steps between two checkpoints, of which there are 1,000 else
    options = {**FEW, "objective": "ad-factor", "latent_dim": 3}
    whole = train_run(tmp_path / "whole", "dsprites", **options)
    assert (whole.config.training["epochs"], whole.config.training["steps_per_epoch"]) == (2, 2)
    part = train_run(tmp_path / "part", "dsprites", **{**options, "steps": 2})
    assert part.metrics["epochs"] == 1
    longer = train_run(tmp_path / "part", "dsprites", resume=True, steps=4, progress=False)
    assert rows(longer.path) == rows(whole.path)
    assert len(rows(whole.path)) == 2
    for file in ("model.safetensors", "calibration.safetensors"):
        assert (longer.path / file).read_bytes() == (whole.path / file).read_bytes(), file
    assert longer.metrics["losses"] == whole.metrics["losses"]
    assert longer.config.training == whole.config.training
    before = (longer.path / "metrics.json").stat().st_mtime_ns
    assert train_run(longer.path, "dsprites", resume=True, steps=4, progress=False).metrics == longer.metrics
    assert (longer.path / "metrics.json").stat().st_mtime_ns == before  # it was complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 8.0}, r"has gamma 7.0, not 8.0: leave that out to go on with it, or choose another --out"),
        ({"ad_weight": 3.0}, r"has ad_weight 2.0, not 3.0"),
        ({"ad_pairs": "all"}, r"has ad_pairs 'random', not 'all'"),
        ({"objective": "factor"}, r"has objective 'ad-factor', not 'factor'"),
        ({"latent_dim": 9}, r"has latent_dim 10, not 9"),
        ({"layer": "encoder.relu3"}, r"has layer None, not 'encoder.relu3'"),
        ({"batch_size": 5}, r"has batch_size 6, not 5"),
        ({"patience": 2}, r"has patience None, not 2"),
        ({"held_out": 0.1}, r"has held_out None, not 0.1"),
        ({"steps": 3}, r"goes on by 4 steps at a time; give a multiple of it as --steps"),
        ({"steps": 6}, r"goes on by 4 steps at a time"),
        ({"steps": 0}, r"steps must be a whole number from 1 on, got 0"),
        ({"epochs": 2}, r"is measured in steps: give --steps in place of --epochs"),
        ({"epochs": 2, "steps": 8}, r"is measured in steps: give --steps in place of --epochs"),
    ],
)
def test_what_does_not_agree_with_the_run_is_refused(run: Run, change: dict[str, Any], message: str) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()}
    with pytest.raises(UsageError, match=message) as caught:
        train_run(run.path, "dsprites", resume=True, progress=False, **change)
    assert "\n" not in str(caught.value)
    assert {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()} == before


def test_steps_are_only_raised_and_only_where_there_are_steps(copy: Path, tiny_run: Path) -> None:
    edited(copy, lambda values: values["training"].update(epochs=3))
    with pytest.raises(UsageError, match="was to train for 12 steps; --steps can only be raised on resuming"):
        train_run(copy, "dsprites", resume=True, steps=8, progress=False)
    with pytest.raises(UsageError, match="is measured in epochs; leave --steps out"):
        train_run(tiny_run, "digits", resume=True, steps=8, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "factor", "gamma": -1.0}, "gamma must be a number from 0 on, got -1.0"),
        ({"gamma": 3.0}, "gamma is for objective factor or ad-factor, not for 'vae'; leave it out"),
        ({"objective": "ad-beta", "gamma": 3.0}, "gamma is for objective factor or ad-factor, not for 'ad-beta'"),
        ({"objective": "factor", "ad_weight": 1.0}, "ad_weight is for objective ad-beta or ad-factor, not for 'factor'"),
        ({"objective": "beta", "ad_pairs": "all"}, "ad_pairs is for objective ad-beta or ad-factor, not for 'beta'"),
        ({"objective": "ad-factor", "ad_weight": -1.0}, "ad_weight must be a number from 0 on"),
        ({"objective": "ad-factor", "ad_pairs": "most"}, "unknown ad_pairs 'most'; there are: random, top2, all"),
        ({"objective": "ad-factor", "ad_rectifier": "square"}, "unknown ad_rectifier 'square'; there are: relu, abs"),
        ({"objective": "vae", "pooled_until": 1.0}, "pooled_until is for objective factor or ad-factor, not for 'vae'"),
        (
            {"objective": "ad-beta", "standardize_after": 1.0},
            "standardize_after is for objective factor or ad-factor, not for 'ad-beta'",
        ),
        (
            {"objective": "factor", "ad_rectifier": "abs"},
            "ad_rectifier is for objective ad-beta or ad-factor, not for 'factor'",
        ),
        ({"kl_weight": 4.0}, "objective 'vae' has a KL weight of 1; use objective 'beta' for another"),
        ({"objective": "factor", "batch_size": 1}, "'factor' shuffles latents over a batch: take a batch_size of 2 or more"),
        ({"objective": "factor", "latent_dim": 1}, "'factor' compares latents with each other: take --latents 2 or more"),
        ({"objective": "ad-beta", "latent_dim": 1}, "'ad-beta' compares latents with each other: take --latents 2 or more"),
        ({"objective": "ad-factor", "latent_dim": 1}, "take --latents 2 or more, not 1"),
        ({"objective": "factor", "latent_dim": 0}, "latent_dim must be a whole number from 1 on, got 0"),
        ({"objective": "ad-factor", "layer": "encoder.conv5"}, "layer 'encoder.conv5' gives a map of one pixel"),
        ({"objective": "ad-beta", "layer": "mean"}, "layer 'mean' gives a map of one pixel"),
        ({"objective": "ad-beta", "layer": "encoder.conv9"}, "unknown layer 'encoder.conv9'; there are: encoder.conv1, "),
        ({"layer": "encoder.conv9"}, "unknown layer 'encoder.conv9'"),
        ({"layer": "mean"}, "layer 'mean' gives a map of one pixel, where nothing can lie apart; take one of: encoder.conv1, "),
        ({"objective": "ad-beta", "ad_layer": "encoder.relu3"}, "ad_layer follows from layer; give that in its place"),
        ({"steps_per_epoch": 2}, "steps_per_epoch follows from steps; give that in its place"),
        ({"patience": 2}, "patience watches the loss on held-out images, and dsprites has none; leave it out"),
        ({"objective": "factor", "patience": 2}, "patience watches the loss on held-out images, and dsprites has none"),
        ({"steps": 0}, "steps must be a whole number from 1 on, got 0"),
        ({"steps": 2.5}, "steps must be a whole number from 1 on, got 2.5"),
        ({"steps": 1500}, "steps above 1000 come in thousands, got 1500: take 1000 or 2000"),
        ({"steps": None, "epochs": 3}, "images of dsprites are drawn and not gone through: give --steps in place of --epochs"),
        ({"epochs": 3}, "give --steps in place of --epochs"),
        ({"held_out": 0.2}, "dsprites has no normal images, so held_out means nothing; leave it out"),
        ({"localizer": "deviation"}, "dsprites has no normal images, so localizer means nothing; leave it out"),
        ({"normal": 1}, "dsprites has no classes, one of which could be normal; leave --normal out"),
        ({"category": "screw"}, "category is for ucsd-ped1, .*, not for dsprites; leave it out"),
        ({"size": 32}, "size is for ucsd-ped1, .*, not for dsprites; leave it out"),
        ({"frames": 3}, "frames is for ucsd-ped1, .*, not for dsprites; leave it out"),
        ({"fixed_camera": True}, "fixed_camera is for ucsd-ped1, .*, not for dsprites"),
        ({"augmentation": "mirror"}, "augmentation is for ucsd-ped1, .*, not for dsprites"),
        ({"network": "mnist"}, "dsprites takes network 'dsprites', not 'mnist'; leave --network out"),
        ({"network": "vgg"}, "unknown network 'vgg'; there are: "),
        ({"objective": "ae"}, "objective 'ae' is for ucsd-ped1, .*, not for dsprites"),
        ({"objective": "anogan"}, "objective 'anogan' is for ucsd-ped1, .*, not for dsprites"),
        ({"objective": "ad"}, "unknown objective 'ad'; there are: vae, beta, factor, ad-beta, ad-factor, ae"),
        ({"warmup_epochs": 2}, "warmup_epochs must be at most epochs, got 2 and 1"),
        ({"root": Path("nowhere")}, "the dSprites folder or file .*nowhere.* does not exist"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        train_run(tmp_path / "run", "dsprites", **{**FEW, **change})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "change", "message"),
    [
        ("digits", {"steps": 5}, "steps is for dsprites, whose images are drawn; give digits --epochs"),
        ("mnist", {"steps": 1000}, "steps is for dsprites, whose images are drawn; give mnist --epochs"),
        ("digits", {"steps_per_epoch": 5}, "steps_per_epoch follows from steps"),
        ("digits", {"objective": "factor", "latent_dim": 1}, "take --latents 2 or more, not 1"),
        ("digits", {"objective": "ad-beta", "layer": "encoder.linear"}, "layer 'encoder.linear' gives .* no feature map"),
        ("digits", {"gamma": 2.0}, "gamma is for objective factor or ad-factor, not for 'vae'"),
    ],
    ids=str,
)
def test_other_data_sets_refuse_what_is_of_dsprites(tmp_path: Path, dataset: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_run(tmp_path / "run", dataset, epochs=1, progress=False, **change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 2}, "patience watches the loss on held-out images, and objective 'anogan' has none"),
        ({"wake_after": 0.5}, "wake_after is for latents with a posterior, and objective 'anogan' has none"),
        ({"turn_after": 0.5}, "turn_after is for latents with a posterior, and objective 'anogan' has none"),
        ({"rate_warmup_epochs": 1}, "the two networks of objective 'anogan' train at one rate; leave rate_warmup_epochs out"),
        ({"rate_cooldown_epochs": 1}, "objective 'anogan' train at one rate; leave rate_cooldown_epochs out"),
    ],
)
def test_what_means_nothing_for_anogan_is_refused(
    defect_root: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_run(tmp_path / "run", "folder", root=defect_root, objective="anogan", epochs=1, progress=False, **change)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_leaves_the_run_that_was_to_be_overwritten(copy: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in copy.iterdir()}
    for change in ({"patience": 2}, {"objective": "ad-beta", "layer": "encoder.conv5"}, {"steps": 1500}):
        with pytest.raises(UsageError):
            train_run(copy, "dsprites", overwrite=True, **{**FEW, **change})
    assert {file.name: file.stat().st_mtime_ns for file in copy.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "factor", "--gamma", "-1", "--steps", "4"), "gamma must be a number from 0 on, got -1.0"),
        (("--gamma", "3", "--steps", "4"), "gamma is for objective factor or ad-factor, not for 'vae'; leave it out"),
        (("--objective", "ad-factor", "--layer", "encoder.conv5", "--steps", "4"), "'encoder.conv5' gives a map of one pixel"),
        (("--steps", "1500"), "take 1000 or 2000"),
        (("--epochs", "2"), "give --steps in place of --epochs"),
        (("--steps", "4", "--patience", "2"), "patience watches the loss on held-out images, and dsprites has none"),
        (("--steps", "4", "--localizer", "deviation"), "dsprites has no normal images"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path, options: tuple[str, ...], message: str, fails: Callable[..., str]
) -> None:
    assert message in fails("train", "dsprites", *options, "--out", tmp_path / "run", "--quiet", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("objective", "has"),
    [
        ("vae", {"kl_weight": 1.0, "gamma": None, "ad_weight": None}),
        ("beta", {"kl_weight": 4.0, "gamma": None, "ad_weight": None}),
        ("factor", {"kl_weight": 1.0, "gamma": 40.0, "ad_weight": None}),
        ("ad-beta", {"kl_weight": 4.0, "gamma": None, "ad_weight": AD_WEIGHT}),
        ("ad-factor", {"kl_weight": 1.0, "gamma": 40.0, "ad_weight": AD_WEIGHT}),
    ],
)
def test_each_objective_trains_with_weights_of_its_own(tmp_path: Path, objective: str, has: dict[str, Any]) -> None:
    made = train_run(tmp_path / "run", "dsprites", objective=objective, **{**FEW, "steps": 2, "batch_size": 4})
    assert {name: made.config.training[name] for name in has} == has
    losses = made.metrics["losses"]
    assert ("train/total_correlation" in losses) == (has["gamma"] is not None)
    assert ("train/overlap" in losses) == (has["ad_weight"] is not None)
    expected = losses["train/reconstruction"] + has["kl_weight"] * losses["train/kl"]
    expected += (has["gamma"] or 0) * losses.get("train/total_correlation", 0)
    expected += (has["ad_weight"] or 0) * losses.get("train/overlap", 0)
    assert losses["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert "attention_overlap" in rows(made.path)[0]


def test_defaults_are_those_of_factor_vae(tmp_path: Path) -> None:
    asked = dict.fromkeys(
        ("normal", "category", "held_out", "size", "frames", "brightness", "fixed_camera", "network", "latent_dim", "layer")
    )
    asked |= dict.fromkeys(("localizer", "objective", "augmentation", "steps", "recipe"))
    config = new.configured("dsprites", None, asked, {})
    assert (config.training["epochs"], config.training["steps_per_epoch"]) == (300, 1000)
    assert (config.training["batch_size"], config.training["learning_rate"]) == (64, 1e-4)
    assert (config.network["latent_dim"], config.network["name"], config.objective) == (10, "dsprites", "vae")
    for steps, length in ((1, (1, 1)), (999, (1, 999)), (1000, (1, 1000)), (5000, (5, 1000))):
        config = new.configured("dsprites", None, {**asked, "steps": steps}, {})
        assert (config.training["epochs"], config.training["steps_per_epoch"]) == length


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["dataset"].update(held_out=0.1), "dataset.held_out is 0.1"),
        (lambda values: values["dataset"].update(normal=1), "dataset.normal is 1"),
        (lambda values: values["dataset"].update(preparation={"size": [64, 64]}), "dataset.preparation is "),
        (lambda values: values["dataset"].pop("held_out"), "it lacks 'held_out'"),
        (lambda values: values.update(objective="ad-vae"), "objective is 'ad-vae'"),
        (lambda values: values["training"].update(gamma=-1.0), "gamma must be a number from 0 on"),
        (lambda values: values["training"].update(ad_pairs="most"), "unknown ad_pairs 'most'"),
        (lambda values: values["training"].update(steps_per_epoch=0), "steps_per_epoch must be a whole number"),
        (lambda values: values["training"].pop("kl_weight"), "it lacks 'kl_weight'"),
        (lambda values: values["explain"].update(layer="encoder.conv9"), "unknown layer 'encoder.conv9'"),
    ],
)
def test_a_damaged_configuration_is_named(copy: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edited(copy, change)
    with pytest.raises(RunError, match="damaged: ") as caught:
        load_run(copy)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_held_out_of_other_data_sets_is_still_a_share(tiny_copy: Path) -> None:
    edited(tiny_copy, lambda values: values["dataset"].update(held_out=None))
    with pytest.raises(RunError, match=r"damaged: dataset\.held_out is None"):
        load_run(tiny_copy)


def test_runs_of_before_the_new_settings_load_and_go_on(tiny_copy: Path, younger_settings: dict[str, Any]) -> None:
    def older(values: dict[str, Any]) -> None:
        for name in younger_settings:
            del values["training"][name]

    edited(tiny_copy, older)
    images = load_run(tiny_copy).held_out_images[:3].float() / 255
    assert load_run(tiny_copy).localize(images).score.isfinite().all()
    with pytest.raises(UsageError, match=r"has gamma None, not 3\.0"):
        train_run(tiny_copy, "digits", resume=True, gamma=3.0, progress=False)
    run = train_run(tiny_copy, "digits", resume=True, epochs=3, progress=False)  # as many as it has: nothing is left to do
    assert run.metrics["epochs"] == 3
    assert younger_settings.keys().isdisjoint(run.config.training)


def test_digits_too_train_with_maps_kept_apart_and_are_calibrated(tmp_path: Path) -> None:
    made = train_run(tmp_path / "run", "digits", objective="ad-factor", epochs=1, batch_size=32, latent_dim=4, progress=False)
    assert {"train/total_correlation", "train/overlap", "val/overlap"} <= set(made.metrics["losses"])
    assert made.main_localizer == "deviation"
    assert made.localize(made.held_out_images[:2].float() / 255).score.isfinite().all()
