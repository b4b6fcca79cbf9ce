"""Localization on a small folder of images: the figures are those of maps and masks, and floors stand beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens.data.anomaly import AnomalySplit
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.localizers import FLOORS
from vaelens.metrics.localization import PixelFigures, PixelMetrics, PixelResult
from vaelens.report.wording import number
from vaelens.runs import Run, load_run
from vaelens.runs.data import load_defects
from vaelens.runs.objective import OF_IMAGES
from vaelens.scoring.local import score
from vaelens.scoring.localization import LocalizationEvaluation, LocalizerResult, evaluate_localization
from vaelens.scoring.localization_report import per_defect_table, table_of, write_localization
from vaelens.scoring.sources import Source
from vaelens.scoring.synthetic import evaluate_synthetic, synthetic_test

FIGURES = ("pixel_auroc", "pixel_ap", "aupro", "best_iou", "calibrated_iou", "image_auroc")


@pytest.fixture(scope="module")
def run(folder_run: Path) -> Run:
    return load_run(folder_run)


@pytest.fixture(scope="module")
def split(run: Run) -> AnomalySplit:
    return load_defects(run.config)


@pytest.fixture(scope="module")
def evaluation(run: Run, split: AnomalySplit) -> LocalizationEvaluation:
    return evaluate_localization(run, split)


def test_files_of_any_size_and_depth_become_what_the_network_sees(run: Run, split: AnomalySplit) -> None:
    assert run.input_shape == split.image_shape == (1, 32, 32)
    assert run.config.network["name"] == "compact"
    assert run.metrics["images"] == split.counts
    assert split.counts == {
        "train": 20, "calibration": 20, "test": 14, "test_normal": 6, "test_anomalous": 8, "test_unknown": 0
    }  # fmt: skip
    suffixes = {Path(name).suffix for name in (*split.train.names, *split.calibration.names)}
    assert suffixes == {".png", ".jpg"}
    assert torch.equal(run.normal_images, split.train.images)
    assert torch.equal(run.held_out_images, split.calibration.images)
    assert not set(split.train.names) & set(split.calibration.names)


def test_all_of_the_run_and_all_floors(evaluation: LocalizationEvaluation) -> None:
    floors = ["floor-mean", "floor-neighbours", "floor-contrast"]  # no video, so no motion
    assert list(evaluation.localizers) == ["learned", *OF_IMAGES, *floors]
    assert set(floors) < set(FLOORS)
    result = json.loads(json.dumps(evaluation.to_dict()))
    assert result["dataset"] == "folder"
    assert result["synthetic"] is False
    assert (result["latents"], result["images"]["test"]) == (8, 14)
    for name, one in result["localizers"].items():
        assert {*FIGURES, "per_defect", "false_alarms", "detected"} <= set(one), name
        assert set(one["per_defect"]) == {"spot", "line"}
        assert set(FIGURES) <= set(one["per_defect"]["spot"])
        for figure in FIGURES:
            assert 0 <= one[figure] <= 1, (name, figure)
        assert one["calibrated_iou"] <= one["best_iou"] + 1e-9
        assert one["images"] == 14
        assert one["pixels"] == 14 * 32 * 32


@pytest.mark.parametrize("name", ["matching", "deviation", "floor-neighbours"])
def test_figures_by_scikit_learn(run: Run, split: AnomalySplit, evaluation: LocalizationEvaluation, name: str) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    assert split.test is not None
    assert split.masks is not None
    verdict = run.localize(to_float(split.test.images), name)
    one, masks = evaluation.localizers[name], split.masks
    assert torch.allclose(one.scores, verdict.score, rtol=1e-4)
    maps, labels = verdict.maps.flatten().numpy(), masks.flatten().numpy()
    assert one.figures.auroc == pytest.approx(roc_auc_score(labels, maps), abs=1e-4)
    assert one.figures.average_precision == pytest.approx(average_precision_score(labels, maps), abs=1e-4)
    anomalous = split.test.labels == 1
    assert one.figures.image_auroc == pytest.approx(roc_auc_score(anomalous.numpy(), verdict.score.numpy()), abs=1e-6)
    flagged = verdict.masks
    assert one.figures.calibrated_iou == pytest.approx(float((flagged & masks).sum() / (flagged | masks).sum()), abs=1e-6)
    assert one.false_alarms == pytest.approx(float(verdict.flagged[~anomalous].float().mean()))
    assert one.detected == pytest.approx(float(verdict.flagged[anomalous].float().mean()))
    spots = torch.tensor([defect in ("good", "spot") for defect in split.defects])
    of_spots = roc_auc_score(masks[spots].flatten().numpy(), verdict.maps[spots].flatten().numpy())
    assert one.figures.per_defect["spot"].auroc == pytest.approx(of_spots, abs=1e-4)


def test_images_of_unknown_kind_count_nowhere_and_lacking_masks_in_no_pixel(run: Run, split: AnomalySplit) -> None:
    assert split.test is not None
    assert split.masks is not None
    assert split.has_mask is not None
    assert split.test.labels is not None
    unknown, lacking = split.defects.index("good"), split.defects.index("line")
    labels, known, masks = split.test.labels.clone(), split.has_mask.clone(), split.masks.clone()
    labels[unknown], known[unknown], known[lacking], masks[lacking] = -1, False, False, False
    defects = tuple("unknown" if i == unknown else defect for i, defect in enumerate(split.defects))
    changed = replace(split, test=replace(split.test, labels=labels), defects=defects, masks=masks, has_mask=known)
    figures = evaluate_localization(run, changed, ["matching"]).localizers["matching"].figures
    assert figures.images == 13
    assert figures.pixels == 12 * 32 * 32
    kept = [i for i in range(14) if i not in (unknown, lacking)]
    result = run.localize(to_float(split.test.images), "matching")
    metrics = PixelMetrics()
    metrics.update(result.maps[kept], split.masks[kept], [defects[i] for i in kept])
    assert figures.auroc == pytest.approx(metrics.compute().auroc, abs=1e-6)


def test_without_masks_there_are_figures_of_images_alone(run: Run, split: AnomalySplit, tmp_path: Path) -> None:
    bare = replace(split, masks=None, has_mask=None)
    found = evaluate_localization(run, bare, ["matching", "floor-mean"])
    figures = found.localizers["matching"].figures
    assert (figures.auroc, figures.average_precision, figures.aupro, figures.best_iou) == (None,) * 4
    assert figures.image_auroc is not None
    assert "-" not in table_of(found).title
    assert found.below_floors() == {}, "of what was not measured nothing is said"


def test_nothing_to_measure_by_is_one_line(run: Run, split: AnomalySplit) -> None:
    assert split.test is not None
    bare = replace(split, test=None, defects=(), masks=None, has_mask=None)
    with pytest.raises(UsageError, match="--synthetic") as error:
        evaluate_localization(run, bare)
    assert "\n" not in str(error.value)
    unknown = replace(
        split, test=replace(split.test, labels=torch.full((14,), -1)), defects=("unknown",) * 14, masks=None, has_mask=None
    )
    with pytest.raises(UsageError, match="none is known to be good") as error:
        evaluate_localization(run, unknown)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="unknown localizer 'nope'"):
        evaluate_localization(run, split, ["matching", "nope"])


def figures(auroc: float | None, precision: float | None, per_defect: Sequence[str] = ()) -> PixelResult:
    """Hand-made figures of one localizer."""
    metrics = PixelMetrics()
    metrics.update(np.random.default_rng(0).random((1, 4, 4)), np.eye(4, dtype=bool)[None], ["scratch"])
    one = replace(metrics.compute(), auroc=auroc, average_precision=precision)
    inner = {name: PixelFigures(**{**vars(one.per_defect["scratch"]), "auroc": 0.5}) for name in per_defect}
    return replace(one, per_defect=inner)


def by_hand(**localizers: tuple[float | None, float | None]) -> LocalizationEvaluation:
    results = {
        name.replace("_", "-"): LocalizerResult(figures(*pair), 0.0, 1.0, torch.zeros(1)) for name, pair in localizers.items()
    }
    counts = {"train": 1, "calibration": 1, "test": 1, "test_normal": 0}
    return LocalizationEvaluation("folder", results, counts, 1, 2)


def test_what_is_not_above_every_floor_in_both_is_named() -> None:
    found = by_hand(
        matching=(0.9, 0.5),
        deviation=(0.95, 0.2),
        reconstruction=(0.7, 0.6),
        kl=(0.8, 0.4),
        mean_sum=(None, None),
        floor_mean=(0.8, 0.1),
        floor_contrast=(0.6, 0.4),
    )
    assert found.below_floors() == {
        "deviation": ["floor-contrast"],
        "reconstruction": ["floor-mean"],
        "kl": ["floor-mean", "floor-contrast"],  # as high is not above
    }
    assert by_hand(matching=(0.1, 0.1)).below_floors() == {}
    assert by_hand(floor_mean=(0.9, 0.9), floor_contrast=(0.1, 0.1)).below_floors() == {}
    assert found.to_dict()["below_floors"] == found.below_floors()


def test_the_report_has_the_table_the_floors_and_outlined_images(folder_copy: Path, evaluation: LocalizationEvaluation) -> None:
    run = load_run(folder_copy)
    report = write_localization(run, evaluation)
    assert report == folder_copy / "report" / "report.html"
    page = report.read_text()
    assert json.loads((report.parent / "evaluation.json").read_text()) == json.loads(json.dumps(evaluation.to_dict()))
    for text in ("floor-neighbours", "best IoU (oracle)", "By type of defect", "truth (green)", "test/spot/000.png"):
        assert text in page, text
    for name in evaluation.below_floors():
        assert f"{name} is not above" in page
    table = table_of(evaluation)
    assert table.rows[0][:2] == ("learned", evaluation.localizers["learned"].figures.auroc)
    by_defect = per_defect_table(evaluation)
    assert by_defect is not None
    assert by_defect.columns == ("localizer", "line", "spot", "mean")


# --- synthetic defects on held-out images ---


def test_synthetic_defects_are_drawn_on_held_out_images(run: Run) -> None:
    test, masks = synthetic_test(run, images=40, seed=1)
    assert test.images.shape == (40, 1, 32, 32)
    assert test.labels is not None
    assert torch.equal(test.labels.bool(), masks.flatten(1).any(1))
    held_out = run.held_out_images[torch.arange(40) % 20]
    untouched = (test.images == held_out).flatten(1).all(1)
    assert 2 < int(untouched.sum()) < 25
    assert not masks[untouched].any()
    assert not torch.equal(synthetic_test(run, images=40, seed=2)[1], masks)
    assert torch.equal(synthetic_test(run, images=40, seed=1)[1], masks)


def test_figures_on_synthetic_defects_and_their_report(folder_copy: Path) -> None:
    run = load_run(folder_copy)
    done: list[tuple[int, int]] = []
    found = evaluate_synthetic(run, ["matching", "floor-mean"], lambda *at: done.append(at), images=40, seed=1)
    assert done[-1] == (80, 80)
    assert found.counts["test"] == 40
    test, masks = synthetic_test(run, 40, 1)
    verdict = run.localize(to_float(test.images), "matching")
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score(masks.flatten().numpy(), verdict.maps.flatten().numpy())
    assert found.localizers["matching"].figures.auroc == pytest.approx(expected, abs=1e-4)
    assert expected > 0.75
    assert found.to_dict()["synthetic"] is True
    report = write_localization(run, found)
    assert report == folder_copy / "report-synthetic" / "report.html"
    page = report.read_text()
    worst = test.names[int(verdict.score.argmax())]
    assert worst in page
    assert number(float(verdict.score.max())) in page, "the images shown are those that were measured"
    assert not (folder_copy / "report").exists()


# --- scoring files ---


def test_scoring_a_folder_of_files_of_any_size(run: Run, defect_root: Path, tmp_path: Path) -> None:
    result = score(run, Source(run, [str(defect_root / "test")]), tmp_path / "out", false_alarms=0.2)
    assert len(result.rows) == 14
    assert not result.errors
    split = load_defects(run.config)
    assert split.test is not None
    verdict = run.localize(to_float(split.test.images), false_alarms=0.2)
    for i, name in enumerate(split.test.names):
        row = next(row for row in result.rows if name.endswith(f"test/{row.path}"))
        assert row.score == pytest.approx(float(verdict.score[i]), rel=1e-4), name
        assert row.flagged == bool(verdict.flagged[i])
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{row.path}.png"))
        assert np.array_equal(mask > 0, verdict.masks[i].numpy())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "class None" not in page
