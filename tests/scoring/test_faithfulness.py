"""Judging the maps of runs: every figure that of its own function, on classes, defects with masks, and sprites."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaelens import LatentAttention
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.metrics import deletion, insertion, randomization, saliency_overlap
from vaelens.metrics.faithfulness import blurred, centre_map
from vaelens.output import to_json
from vaelens.runs import Run, load_run
from vaelens.runs.data import load_defects
from vaelens.runs.train import train_run
from vaelens.scoring import explainers
from vaelens.scoring.explainers import INTEGRATED, METHODS, Method, Opposite, methods_of
from vaelens.scoring.faithfulness import RANDOMIZED, Faithfulness, evaluate_faithfulness
from vaelens.scoring.faithfulness_anomalies import _inside
from vaelens.scoring.faithfulness_sample import draw_latents, draw_sample, replacement_of
from vaelens.scoring.faithfulness_wording import drawn, tables_of, verdicts

captum = pytest.mark.skipif("captum" not in sys.modules and explainers._captum() is None, reason="captum is not installed")


@pytest.fixture(scope="module")
def run(folder_run: Path) -> Run:
    return load_run(folder_run)


@pytest.fixture(scope="module")
def found(run: Run) -> Faithfulness:
    """Of a run on images with defects and masks, all latents of which count as active; against itself, as of another seed."""
    asked = {"methods": ["cvpr", "arxiv_v1"], "against": [run], "localizers": ["reconstruction", "deviation"], "steps": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "active", property(lambda self: torch.arange(self.model.latent_dim) != 1))
        return evaluate_faithfulness(run, images=5, **asked)


def test_figures_are_those_of_the_measures_on_the_runs_own_maps(run: Run, found: Faithfulness) -> None:
    test = load_defects(run.config).test
    assert test is not None
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:5]
    images = to_float(test.images[chosen])
    latents = [0, 2, 3, 4, 5, 6, 7]
    assert (found.latents, found.active, found.of) == (latents, 7, 8)
    maps = run.explain(images).maps.per_latent[:, latents]
    options = {"replacement": blurred(images), "latents": latents, "steps": 3}
    for kind, follow in (("deletion", deletion), ("insertion", insertion)):
        judged = found.methods["cvpr"].curves[kind]
        curve = follow(run.model.encode, images, maps, **options)
        torch.testing.assert_close(judged.curve.values, curve.values)
        gain = curve.gain(follow(run.model.encode, images, "centre", **options))
        assert judged.gains["centre"].mean == pytest.approx(gain.mean, abs=1e-6)
    method = found.methods["cvpr"]
    assert method.empty == pytest.approx(float((maps == 0).flatten(2).all(2).double().mean()))
    assert method.overlap is not None
    assert method.overlap.pearson == pytest.approx(saliency_overlap(maps).pearson, abs=1e-5)
    explain = lambda model, given: LatentAttention(model, latents=latents[:4])(given).per_latent  # noqa: E731
    assert method.randomized.spearman == pytest.approx(
        randomization(run.model, images[:RANDOMIZED], explain).spearman, abs=1e-5
    )


def test_a_run_agrees_with_itself(run: Run, found: Faithfulness) -> None:
    for method in found.methods.values():
        (agreed,) = method.agreements.values()
        assert sorted(agreed.pairs) == [(i, i) for i in found.latents]
        assert (agreed.pearson, agreed.spearman, agreed.cosine) == pytest.approx((1, 1, 1))
        assert agreed.unmatched == agreed.unmatched_other == ()
        assert agreed.by_chance["pearson"] < 1


def test_the_opposite_of_a_model_has_the_maps_of_what_lowers_its_latents(run: Run) -> None:
    images = draw_sample(run, 3).images
    with torch.no_grad():
        maps = run.attention(images)
    lowering = METHODS["cvpr"].make(run, [0, 2])(Opposite(run.model))(images)
    torch.testing.assert_close(lowering, torch.relu(-maps.signed[:, [0, 2]]), atol=1e-6, rtol=1e-4)


@captum
def test_integrated_gradients_are_those_of_the_definition(run: Run) -> None:
    """x times the mean gradient along the way from black, by Gauss and Legendre's sixteen points; absolute value."""
    images = draw_sample(run, 2).images
    points, shares = np.polynomial.legendre.leggauss(16)
    expected = torch.zeros(images.shape)
    for point, share in zip((points + 1) / 2, shares / 2, strict=True):
        inputs = (images * point).requires_grad_()
        (gradient,) = torch.autograd.grad(run.model.encode(inputs)[0][:, 1].sum(), inputs)
        expected += share * gradient * images
    maps = METHODS[INTEGRATED].make(run, [3, 1])(run.model)(images)
    torch.testing.assert_close(maps[:, 1], expected.abs().sum(1), atol=1e-5, rtol=1e-3)


def test_samples_and_latents_are_drawn_by_the_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(draw_sample(run, 5).images, draw_sample(run, 5).images)
    assert not torch.equal(draw_sample(run, 5).images, draw_sample(run, 5, seed=1).images)
    assert len(draw_sample(run, 10_000).images) == 14  # all there are
    monkeypatch.setattr(Run, "active", property(lambda self: torch.arange(40) % 2 == 0))
    drawn = draw_latents(run, 5)
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn)
    assert all(latent % 2 == 0 for latent in drawn)
    assert drawn == draw_latents(run, 5) != draw_latents(run, 5, seed=1)
    monkeypatch.setattr(Run, "active", property(lambda self: torch.zeros(8, dtype=torch.bool)))
    with pytest.raises(UsageError, match="none of the 8 latents"):
        draw_latents(run, 5)


def test_neighbours_are_normal_images(run: Run) -> None:
    images = draw_sample(run, 4).images
    near = replacement_of(run, images, "neighbour")
    normal = to_float(run.normal_images)
    assert all((one == normal).flatten(1).all(1).any() for one in near)
    with pytest.raises(UsageError, match="unknown replacement 'mean'; there are: blur, neighbour"):
        replacement_of(run, images, "mean")


def test_command_prints_json_and_writes_a_report(cli: Callable[..., Any], tiny_copy: Path) -> None:
    other = tiny_copy.parent / "other"
    shutil.copytree(tiny_copy, other)
    options = ("--faithfulness", "--images", 3, "--methods", "expvae", "--localizer", "reconstruction")
    done = cli("evaluate", tiny_copy, *options, "--against", other, "--seed", 3, "--json", "--quiet")
    assert done.code == 0, done.err
    assert done.err == ""
    told = json.loads(done.out)
    kept = json.loads((tiny_copy / "report-faithfulness" / "faithfulness.json").read_text())
    assert told == kept
    judged = told["faithfulness"]
    assert (judged["images"], judged["seed"], judged["replacement"]) == (3, 3, "blur")
    assert judged["drawn_from"] == "the 359 test images"
    assert list(judged["methods"]) == ["expvae"]
    assert len(judged["methods"]["expvae"]["deletion"]["curve"]) == len(judged["fractions"]) == 11
    assert set(judged["methods"]["expvae"]["insertion"]["gain"]) == {"random", "centre", "difference"}
    assert judged["methods"]["expvae"]["agreement"][str(other)]["pearson"] == pytest.approx(1)
    assert list(judged["anomaly_maps"]["score_curves"]) == ["reconstruction"]
    assert judged["anomaly_maps"]["inside"] == {}
    page = (tiny_copy / "report-faithfulness" / "report.html").read_text()
    assert "how far can its maps be trusted?" in page
    assert not (tiny_copy / "report").exists()


def test_command_prints_tables_and_verdicts(
    cli: Callable[..., Any], folder_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "active", property(lambda self: torch.arange(self.model.latent_dim) < 2))
    options = ("--faithfulness", "--images", 3, "--methods", "deviation", "--localizer", "deviation", "--replace", "neighbour")
    done = cli("evaluate", folder_copy, *options, "--quiet")
    assert done.code == 0, done.err
    assert "3 of the 14 test images, drawn by seed 0; all 2 active latents of 8; layer" in done.out
    assert "pixels replaced by the nearest normal image in 10 steps" in done.out
    assert "\ndeviation: " in done.out
    assert "than chance in deletion" in done.out
    assert done.out.splitlines()[-1] == f"report   {folder_copy / 'report-faithfulness' / 'report.html'}"


def test_masks_are_pointed_at_or_not(run: Run, found: Faithfulness) -> None:
    """Of both localizers and the mean of latents' maps; against chance worked out here."""
    anomalies = found.anomalies
    assert anomalies is not None
    assert anomalies.masked == 5
    assert list(anomalies.inside) == ["reconstruction", "deviation", "cvpr (mean of latents)", "arxiv_v1 (mean of latents)"]
    sample = draw_sample(run, 5)
    split = load_defects(run.config)
    assert split.test is not None
    assert split.masks is not None
    assert sample.masked is not None
    assert sample.masks is not None
    assert sample.masks.flatten(1).any(1).all()
    for image, mask in zip(sample.masked, sample.masks, strict=True):
        at = next(i for i in range(len(split.test)) if torch.equal(to_float(split.test.images[i]), image))
        assert torch.equal(split.masks[at], mask)
    share = sample.masks.double().mean((1, 2))
    assert anomalies.chance["random"]["pointing"] == pytest.approx(float(share.mean()))
    grid = centre_map((32, 32))
    inside = torch.stack([(grid * mask).sum() / grid.sum() for mask in sample.masks])
    assert anomalies.chance["centre"]["energy"] == pytest.approx(float(inside.mean()))
    maps = run.localizer("deviation").localize(sample.masked).maps.double()
    energy = (maps * sample.masks).sum((1, 2)) / maps.sum((1, 2))
    one = anomalies.inside["deviation"]
    assert one.energy == pytest.approx(float(energy.mean()), rel=1e-5)
    assert one.gains["energy"]["random"].mean == pytest.approx(float((energy - share).mean()), abs=1e-6)
    hits = [bool(mask.flatten()[int(one_map.argmax())]) for one_map, mask in zip(maps, sample.masks, strict=True)]
    assert one.pointing == pytest.approx(sum(hits) / 5)
    assert sum("points at the defect" in line for line in verdicts(found)) == 4


def test_no_hit_among_a_few_images_is_no_worse_than_chance() -> None:
    """Where masks take a hundredth of the image, none of five random pixels hits one in 95 of 100 cases."""
    masks = torch.zeros(5, 10, 10, dtype=torch.bool)
    masks[range(5), range(5), 0] = True
    masks[0, 0, :2] = True
    share = masks.double().mean((1, 2))
    chance = {figure: {"random": share, "centre": torch.zeros(5)} for figure in ("pointing", "energy")}
    maps = torch.zeros(5, 10, 10)
    maps[:, 9, 9] = 1
    missed = _inside(maps, masks, chance)
    assert (missed.pointing, missed.gains["pointing"]["random"].verdict) == (0, "no better")
    assert missed.gains["energy"]["random"].verdict == "worse"
    assert _inside(masks.float(), masks, chance).gains["pointing"]["random"].verdict == "better"


def test_scores_are_followed_as_pixels_become_the_nearest_normal_images(run: Run, found: Faithfulness) -> None:
    assert found.anomalies is not None
    images = draw_sample(run, 5).images
    localizer = run.localizer("reconstruction")
    curve = deletion(
        lambda batch: localizer.localize(batch).score[:, None],
        images,
        localizer.localize(images).maps[:, None],
        replacement=replacement_of(run, images, "neighbour"),
        steps=3,
    )
    torch.testing.assert_close(found.anomalies.curves["reconstruction"]["deletion"].curve.values, curve.values)


def test_one_latent_whose_maps_are_all_empty(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be said of it, in words, in tables and in JSON; and no NaN is shown."""
    monkeypatch.setattr(Run, "active", property(lambda self: torch.arange(self.model.latent_dim) == 3))
    nothing = Method("nothing", lambda run, latents: lambda model: lambda images: torch.zeros(len(images), len(latents), 4, 4))
    monkeypatch.setitem(METHODS, "cvpr", nothing)
    found = evaluate_faithfulness(run, ["cvpr"], 2, against=[run], localizers=["reconstruction"], steps=2)
    assert verdicts(found)[0] == "cvpr: too few images in deletion and insertion (100% of its maps are empty and left out)"
    assert "the one active latent of 8" in drawn(found)
    cells = [cell for table in tables_of(found) for row in table.rows for cell in row]
    assert not any(isinstance(cell, float) and np.isnan(cell) for cell in cells)
    assert not any("nan" in str(cell) for cell in cells)
    told = json.loads(to_json(found.to_dict()))["faithfulness"]
    assert told["methods"]["cvpr"]["overlap"] is None
    assert told["methods"]["cvpr"]["deletion"]["area"] is None
    assert told["methods"]["cvpr"]["empty_maps"] == 1


@pytest.fixture(scope="module")
def sprites(shared_sprites: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"steps": 2, "batch_size": 8, "latent_dim": 3, "precision": "32"}
    return train_run(tmp_path_factory.mktemp("sprites") / "run", "dsprites", objective="vae", progress=False, **options)


def test_sprites_are_judged_without_normal_images(
    sprites: Run, few_sprites: Any, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    monkeypatch.setattr(Run, "active", property(lambda self: torch.tensor([True, False, True])))
    names, notes = methods_of(sprites)
    assert "deviation" not in names
    assert "dsprites has no normal images" in notes[0]
    found = evaluate_faithfulness(sprites, ["cvpr"], 4, "neighbour", steps=2)
    assert found.latents == [0, 2]
    assert found.anomalies is None
    assert found.drawn_from == "all 432 images"
    assert found.to_dict()["faithfulness"]["anomaly_maps"] is None
    with pytest.raises(UsageError, match="compares with normal images, of which dsprites has none"):
        evaluate_faithfulness(sprites, ["deviation"], 4)
    said = fails("evaluate", sprites.path, "--faithfulness", "--localizer", "deviation", code=2)
    assert said.startswith("--localizer takes normal images")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", 4), "--images is for --faithfulness"),
        (("--methods", "cvpr"), "--methods is for --faithfulness"),
        (("--against", "there"), "--against is for --faithfulness"),
        (("--faithfulness", "--synthetic"), "--synthetic has no part in --faithfulness"),
        (("--faithfulness", "--metrics", "mig"), "--metrics has no part in --faithfulness"),
        (("--faithfulness", "--images", 0), "images must be a whole number from 1 on"),
        (("--faithfulness", "--methods", "cvpr,gradcam"), "unknown method 'gradcam'; there are: cvpr, arxiv_v1"),
        (("--faithfulness", "--seed", 10**20), "seed must be at most 9223372036854775806, got 100000000000000000000"),
        (("--faithfulness", "--replace", ""), "unknown replacement ''; there are: blur, neighbour"),
        (("--faithfulness", "--replace", "black"), "unknown replacement 'black'; there are: blur, neighbour"),
        (("--faithfulness", "--localizer", "nothing"), "unknown localizer 'nothing'"),
    ],
)
def test_misuse_is_refused_in_one_line(
    options: tuple[object, ...], message: str, fails: Callable[..., str], folder_copy: Path
) -> None:
    assert fails("evaluate", folder_copy, *options, "--quiet", code=2).startswith(message)
    assert not (folder_copy / "report-faithfulness").exists()


def test_runs_that_do_not_compare_are_refused(fails: Callable[..., str], tiny_copy: Path, folder_run: Path) -> None:
    assert "compare runs of the same data" in fails("evaluate", tiny_copy, "--faithfulness", "--against", folder_run, code=2)
    assert "there is no run at" in fails("evaluate", tiny_copy, "--faithfulness", "--against", tiny_copy / "no", code=1)
    other = tiny_copy.parent / "other"
    shutil.copytree(tiny_copy, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("normal: 1", "normal: 3"))  # the same size, and not the same latents
    said = fails("evaluate", tiny_copy, "--faithfulness", "--against", other, code=2)
    assert said == f"{other} is of other data than {tiny_copy} (normal); compare runs of the same data and network"


def test_without_captum_its_method_is_left_out_and_asked_for_it_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str], folder_copy: Path
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    names, notes = methods_of(run)
    assert INTEGRATED not in names
    assert notes == [f"'{INTEGRATED}' is left out: captum is not installed (pip install 'vaelens[bench]')."]
    said = fails("evaluate", folder_copy, "--faithfulness", "--methods", INTEGRATED, "--quiet", code=2)
    assert said == f"method '{INTEGRATED}' needs captum; install it with: pip install 'vaelens[bench]'"
