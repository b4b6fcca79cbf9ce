"""Table 3 and Figure 8 on a few sprites: which runs, kept as each ends, and figures that are the runs' own."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vaelens.errors import UsageError
from vaelens.paper import reproduce, sprite_rows, sprite_runs
from vaelens.paper.asked import Asked
from vaelens.paper.figure8 import kinds
from vaelens.paper.reported import PAPER_TABLE3
from vaelens.paper.sprite_runs import label_of, seeds_of, sprite_recipes
from vaelens.runs import load_run
from vaelens.scoring import disentanglement
from vaelens.scoring.disentanglement import evaluate_disentanglement

SMALL: dict[str, Any] = {"preset": "small", "progress": False}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, few_sprites: Any) -> None:
    tiny = {"steps": 2, "batch_size": 4, "latent_dim": 3, "precision": "32"}
    monkeypatch.setattr(sprite_runs, "PRESETS", {**sprite_runs.PRESETS, "small": tiny})
    monkeypatch.setattr(disentanglement, "_RECONSTRUCTED", 64)
    monkeypatch.setattr(disentanglement, "_EXPLAINED", 64)


@pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")  # of two steps
def test_table3_has_every_seed_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, said = tmp_path / "out", list[str]()
    measure = sprite_rows.evaluate_disentanglement
    left = 3

    def stop_after_three(*args: Any, **options: Any) -> Any:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return measure(*args, **options)

    monkeypatch.setattr(sprite_rows, "evaluate_disentanglement", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        reproduce("table3", out, seeds=(0, 3), notice=said.append, **SMALL)
    assert said[0].startswith("6 of 6 runs are to be trained")
    assert len(list((out / "results").iterdir())) == 3  # each is kept as it ends
    trained = sorted(path.name for path in (out / "runs").iterdir())
    assert "ad-factor-gamma40-lambda20-all-paced-seed0" in trained
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/model.safetensors")}

    left = 3
    result = reproduce("table3", out, seeds=(0, 3), **SMALL)
    assert left == 0  # the three that were measured are not measured again
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    table = json.loads((out / "table3.json").read_text())
    rows = {row["objective"]: row for row in table["rows"]}
    assert list(rows) == ["vae", "beta", "factor", "ad-factor"]
    assert (rows["vae"]["seeds"], rows["beta"]["seeds"]) == ([0], [0])
    assert rows["factor"]["seeds"] == rows["ad-factor"]["seeds"] == [0, 3]
    with (out / "table3.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    of_factor = [float(line["mig"]) for line in lines if line["objective"] == "factor"]
    assert rows["factor"]["mig_seeds"] == of_factor
    assert rows["factor"]["mig"] == pytest.approx(statistics.fmean(of_factor))
    assert rows["factor"]["mig_spread"] == pytest.approx(statistics.stdev(of_factor))
    # The very figures of the run.
    run = load_run(out / "runs" / "ad-factor-gamma40-lambda20-all-paced-seed3")
    expected = evaluate_disentanglement(run, repeats=sprite_rows.REPEATS).to_dict()
    line = next(line for line in lines if line["objective"] == "ad-factor" and line["seed"] == "3")
    for name in ("factor_vae_score", "sap", "dci_completeness"):
        assert float(line[name]) == pytest.approx(expected["disentanglement"][name])
    assert float(line["reconstruction"]) == pytest.approx(expected["reconstruction"])
    assert float(line["attention_overlap"]) == pytest.approx(expected["attention_overlap"])
    assert f"{PAPER_TABLE3['ad-factor']:.2f}" in result.text
    assert (out / "table3.png").read_bytes().startswith(b"\x89PNG")


def test_weights_given_as_lists_make_a_run_for_each() -> None:
    asked = Asked(
        preset="small",
        gammas=(10.0, 40.0),
        ad_weights=(1.0, 20.0),
        ad_pairs=("random", "all"),
        betas=(2.0,),
    )
    names = [recipe.name for recipe in sprite_recipes(("vae", "beta", "factor", "ad-factor"), (0, 1), asked)]
    assert names[:2] == ["vae-seed0", "beta-beta2-seed0"]
    assert names[2:6] == [f"factor-gamma{gamma}-paced-seed{seed}" for gamma in (10, 40) for seed in (0, 1)]
    assert len(names) == 6 + 2 * 2 * 2 * 2
    assert len(set(names)) == len(names)
    of_both = sprite_recipes(("factor", "ad-beta"), (5,), Asked(preset="small", ad_rectifiers=("relu", "abs")))
    assert [recipe.name for recipe in of_both] == [
        "factor-gamma40-paced-seed5",
        "ad-beta-beta4-lambda20-all-relu-seed5",
        "ad-beta-beta4-lambda20-all-abs-seed5",
    ]
    layers = Asked(preset="small", layers=("encoder.relu2", "encoder.relu3"))
    at_layers = sprite_recipes(("factor", "ad-factor"), (5,), layers)
    assert [recipe.options.get("layer") for recipe in at_layers] == [None, "encoder.relu2", "encoder.relu3"]
    assert at_layers[2].name == "ad-factor-gamma40-lambda20-all-encoder.relu3-paced-seed5"
    assert at_layers[2].config(None).training["ad_layer"] == "encoder.relu3"
    near = Asked(preset="small", gammas=(40.0, 40.00000000000001, 0.1, 1e6))
    assert [recipe.name for recipe in sprite_recipes(("factor",), (5,), near)] == [
        f"factor-gamma{gamma}-paced-seed5" for gamma in ("40", "40.00000000000001", "0.1", "1000000")
    ]
    assert seeds_of(Asked(preset="small")) == (0, 1, 2)
    assert seeds_of(Asked()) == (0, 1, 2, 3, 4)
    assert seeds_of(Asked(seeds=(7,))) == (7,)


PACE = {"kl_start": 200.0, "warmup_epochs": 3.0, "standardize_after": 2.5, "pooled_until": 2.5, "rate_warmup_epochs": 1.0}
PACE |= {"gather_after": 0.6, "turn_after": 1.0, "wake_after": 4.0, "rate_cooldown_epochs": 2.0}


def test_recipes_are_settings_of_training_and_part_of_the_names() -> None:
    both = sprite_recipes(("beta", "ad-factor"), (1,), Asked(preset="small", steps=15_000, recipes=("published", "paced")))
    assert [recipe.name for recipe in both] == [
        "beta-beta4-cooldown-seed1",
        "ad-factor-gamma40-lambda20-all-seed1",
        "ad-factor-gamma40-lambda20-all-paced-seed1",
    ]
    paced, published = (each.config(None).training for each in both[:0:-1])
    assert paced == {**published, **PACE, "learning_rate": 6e-4}
    (short,) = sprite_recipes(("factor",), (1,), Asked(preset="small", steps=2000, recipes=("paced",)))
    assert short.config(None).training["warmup_epochs"] == 2  # no longer than the run
    assert (short.config(None).training["wake_after"], short.config(None).training["rate_cooldown_epochs"]) == (None, 0)
    (tiny,) = sprite_recipes(("factor",), (1,), Asked(preset="small", steps=3, recipes=("paced",)))
    assert (tiny.config(None).training["warmup_epochs"], tiny.config(None).training["kl_start"]) == (1, 200.0)
    for asked, cooled in ((Asked(preset="small"), 2), (Asked(preset="small", recipes=("published",)), None), (Asked(), None)):
        (beta,) = sprite_recipes(("beta",), (1,), replace(asked, steps=15_000))
        assert beta.options.get("rate_cooldown_epochs") == cooled  # as FactorVAE's beside it
        assert beta.config(None).training["rate_cooldown_epochs"] == (cooled or 0)
        assert ("cooldown" in beta.name) is (cooled is not None)  # so that neither is in the way of the other
    (theirs,) = sprite_recipes(("factor",), (1,), Asked())  # of the preset "paper"
    assert theirs.name == "factor-gamma40-seed1"
    assert (theirs.config(None).training["kl_start"], theirs.config(None).training["learning_rate"]) == (0, 1e-4)
    (ours,) = sprite_recipes(("factor",), (1,), Asked(preset="small", steps=15_000))
    assert ours.name == "factor-gamma40-paced-seed1"
    assert PACE.items() <= ours.config(None).training.items()
    (long,) = sprite_recipes(("factor",), (1,), Asked(recipes=("paced",)))
    assert {**PACE, "learning_rate": 1e-4}.items() <= long.config(None).training.items()  # the preset's rate stays


def test_a_recipe_is_asked_for_by_name(tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]) -> None:
    command = ("reproduce", "table3", "--preset", "small", "--seeds", "1", "--quiet")
    done = cli(*command, "--recipe", "published,paced", "--layer", "encoder.relu3", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert [name for name in runs if "factor" in name] == [
        "ad-factor-gamma40-lambda20-all-encoder.relu3-paced-seed1",
        "ad-factor-gamma40-lambda20-all-encoder.relu3-seed1",
        "factor-gamma40-paced-seed1",
        "factor-gamma40-seed1",
    ]
    with (tmp_path / "out" / "table3.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    assert [line["label"] for line in lines if "encoder.relu3" in line["label"]] == [
        "AD-FactorVAE, gamma 40, lambda 20, all pairs, at encoder.relu3",
        "AD-FactorVAE, gamma 40, lambda 20, all pairs, at encoder.relu3, paced",
    ]
    out = tmp_path / "bad"
    assert "unknown recipe 'fast'; there are: published, paced" in fails(*command, "--recipe", "fast", "--out", out, code=2)
    assert "recipe paced is given twice" in fails(*command, "--recipe", "paced,paced", "--out", out, code=2)
    assert "takes no --recipe" in fails("reproduce", "figure9", "--recipe", "paced", "--out", out, code=2)
    assert not out.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.update(values=None),
        lambda kept: kept.update(spread=[1]),
        lambda kept: kept.pop("spread"),
        lambda kept: kept["values"].update(mig="abc"),
        lambda kept: kept["values"].update(mig=None),
        lambda kept: kept["spread"].update(mig="abc"),
    ],
)
def test_kept_figures_that_are_damaged_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[dict[str, Any]], Any]
) -> None:
    from vaelens.runs.train import train_run

    run = train_run(tmp_path / "a", "dsprites", objective="vae", steps=2, batch_size=4, latent_dim=3, progress=False)
    values: dict[str, Any] = dict.fromkeys(sprite_rows.FIGURES, 0.5) | {"attention_overlap_of_drawn": None}
    calls: list[int] = []

    class Found:
        def to_dict(self) -> dict[str, Any]:
            calls.append(1)
            return {"disentanglement": values, "spread": {"mig": None}}

    monkeypatch.setattr(sprite_rows, "evaluate_disentanglement", lambda *_, **__: Found())
    (tmp_path / "out").mkdir()
    for _ in range(2):
        assert sprite_rows.measured_sprites(run, tmp_path / "out", Asked()).values == values
    assert len(calls) == 1
    (file,) = (tmp_path / "out" / "results").iterdir()
    kept = json.loads(file.read_text())
    damage(kept["disentanglement"])
    file.write_text(json.dumps(kept))
    assert sprite_rows.measured_sprites(run, tmp_path / "out", Asked()).values == values
    assert len(calls) == 2


def test_a_layer_that_gives_no_maps_is_refused_before_any_run_is_trained(
    tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]
) -> None:
    command = ("reproduce", "table3", "--preset", "small", "--seeds", "0", "--quiet")
    for layer, said in (("encoder.relu9", "unknown layer 'encoder.relu9'; there are: encoder.conv1"), ("mean", "'mean'")):
        assert said in fails(*command, "--layer", layer, "--out", tmp_path / "bad", code=2)
        assert not (tmp_path / "bad" / "runs").exists()
    assert "layer encoder.relu3 is given twice" in fails(
        *command, "--layer", "encoder.relu3,encoder.relu3", "--out", tmp_path / "bad", code=2
    )


def test_figure8_is_of_given_runs_and_draws_what_the_paper_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaelens.runs.train import train_run

    options: dict[str, Any] = {"steps": 2, "batch_size": 4, "latent_dim": 3, "progress": False}
    train_run(tmp_path / "a", "dsprites", objective="factor", gamma=10.0, **options)
    train_run(tmp_path / "p", "dsprites", objective="factor", recipe="paced", **options)
    assert label_of(load_run(tmp_path / "p")) == "FactorVAE, gamma 40, paced"
    near: dict[str, Any] = {"objective": "factor", "recipe": "paced", "gather_after": 0.5, "pooled_until": 0.0}
    train_run(tmp_path / "n", "dsprites", **near, **options)
    assert label_of(load_run(tmp_path / "n")) == (
        "FactorVAE, gamma 40, paced but no pooled discriminator and latents gathered after 1 steps"
    )
    more: dict[str, Any] = {"kl_start": 4.0, "warmup_epochs": 1, "standardize_after": 1, "pooled_until": 1.0}
    rates: dict[str, Any] = {
        "discriminator_learning_rate": 1e-4,
        "rate_warmup_epochs": 0.5,
        "rate_cooldown_epochs": 0.25,
        "turn_after": 0.5,
        "wake_after": 0.5,
    }
    train_run(tmp_path / "s", "dsprites", objective="factor", **rates, **more, **options)
    assert label_of(load_run(tmp_path / "s")) == (
        "FactorVAE, gamma 40, KL weight from 4, KL weight in place after 2 steps, standardized codes, "
        "a pooled discriminator first, "
        "latents turned after 1 steps, latents woken after 1 steps, rate rising over 1 steps, "
        "rate falling over the last 0.5 steps, discriminator's rate 0.0001"
    )
    train_run(tmp_path / "b", "dsprites", objective="ad-beta", ad_weight=2.0, ad_pairs="top2", layer="encoder.relu3", **options)
    assert label_of(load_run(tmp_path / "a")) == "FactorVAE, gamma 10"
    label = "AD-beta-VAE, beta 4, lambda 2, the strongest pair, at encoder.relu3"
    assert label_of(load_run(tmp_path / "b")) == label
    out = tmp_path / "out"
    result = reproduce("figure8", out, runs=(tmp_path / "a", tmp_path / "b"))
    assert "2 models of 2 steps" in result.text
    points = json.loads((out / "figure8.json").read_text())["points"]
    assert [point["label"] for point in points] == ["FactorVAE, gamma 10", label]
    measured = [sprite_rows.measured_sprites(load_run(tmp_path / name), out, Asked()) for name in "ab"]
    drawn = {kind.label: list(kind.points) for kind in kinds(measured)}
    assert list(drawn) == ["FactorVAE", "AD-beta-VAE", "FactorVAE, the paper"]
    paced = sprite_rows.measured_sprites(load_run(tmp_path / "p"), out, Asked())
    styles = {kind.label: kind.style for kind in kinds([*measured, paced])}
    assert list(styles) == ["FactorVAE", "FactorVAE, paced", "AD-beta-VAE", "FactorVAE, the paper"]
    assert styles == {"FactorVAE": 0, "FactorVAE, paced": 1, "AD-beta-VAE": 2, "FactorVAE, the paper": 0}
    assert drawn["FactorVAE"] == [(points[0]["reconstruction"], points[0]["factor_vae_score"])]
    train_run(tmp_path / "c", "dsprites", objective="factor", gamma=10.0, **options)
    monkeypatch.setattr(sprite_rows, "evaluate_disentanglement", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(UsageError, match="two runs are FactorVAE, gamma 10 with seed 0; give one of them"):
        reproduce("table3", tmp_path / "other", runs=(tmp_path / "a", tmp_path / "c"))


def test_runs_that_differ_by_more_than_their_seeds_have_rows_of_their_own(tmp_path: Path) -> None:
    """And what others report stands beside runs of their gamma alone."""
    from vaelens.runs.train import train_run

    options: dict[str, Any] = {"objective": "factor", "batch_size": 4, "latent_dim": 3, "progress": False}
    other: dict[str, dict[str, Any]] = {
        "a": {"steps": 2},
        "b": {"steps": 2, "seed": 1},
        "c": {"steps": 3, "seed": 1, "learning_rate": 1e-3},
        "d": {"steps": 2, "latent_dim": 2, "likelihood": "gaussian"},
        "e": {"steps": 2, "gamma": 1234567.0},
        "f": {"steps": 2, "kl_weight": 2.0},
    }
    for name, changes in other.items():
        train_run(tmp_path / "runs" / name, "dsprites", **{**options, **changes})
    result = reproduce("table3", tmp_path / "out", runs=[tmp_path / "runs"], progress=False)
    rows = {row["label"]: row for row in json.loads((tmp_path / "out" / "table3.json").read_text())["rows"]}
    assert {label: row["seeds"] for label, row in rows.items()} == {
        "FactorVAE, gamma 40, steps 2, latents 3, learning rate 0.0001, likelihood bernoulli": [0, 1],
        "FactorVAE, gamma 40, steps 3, latents 3, learning rate 0.001, likelihood bernoulli": [1],
        "FactorVAE, gamma 40, steps 2, latents 2, learning rate 0.0001, likelihood gaussian": [0],
        "FactorVAE, gamma 1.23457e+06": [0],
        "FactorVAE, beta 2, gamma 40": [0],
    }
    assert [row["paper_factor_vae_score"] for row in rows.values()] == [PAPER_TABLE3["factor"]] * 3 + [None] * 2
    assert all(label in result.text for label in rows)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("table3", {"epochs": 3}, "table3 takes no --epochs: give --steps"),
        ("table3", {"gammas": (-1.0,)}, "gamma must be a number from 0 on, got -1.0"),
        ("table3", {"recipes": ("own",)}, "unknown recipe 'own'; there are: published, paced"),
        ("figure9", {"recipes": ("paced",)}, "figure9 takes no --recipe; leave it out"),
        ("table3", {"ad_pairs": ("some",)}, "unknown ad_pairs 'some'; there are: random, top2, all"),
        ("table3", {"steps": 1500}, "steps above 1000 come in thousands"),
        ("figure1", {"steps": 10}, "figure1 takes no --steps; leave it out"),
        ("figure9", {"gammas": (10.0,)}, "figure9 takes no --gamma; leave it out"),
        ("figure8", {"gammas": (10.0, 10.0)}, "gamma 10.0 is given twice"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, what: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        reproduce(what, tmp_path / "out", progress=False, **({} if what == "figure1" else {"preset": "small"}), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "runs").exists()  # all of it is looked at before any of it is trained


def test_a_run_of_another_data_set_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is of digits; this takes runs of dsprites"):
        reproduce("table3", tmp_path / "out", runs=(tiny_run,))
