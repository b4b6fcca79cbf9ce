"""Real images through the whole path, small and short: train, evaluate, and floors beside."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaelens.localizers import FLOORS, LOCALIZERS
from vaelens.runs import Run, load_run
from vaelens.runs.data import load_defects
from vaelens.runs.train import train_run
from vaelens.scoring.local import score
from vaelens.scoring.localization import LocalizationEvaluation, evaluate_localization
from vaelens.scoring.sources import Source
from vaelens.scoring.synthetic import evaluate_synthetic

SOME = ["matching", "deviation", "reconstruction", "floor-mean", "floor-neighbours", "floor-contrast"]
DEFECTS = ("scratch_head", "thread_top")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def trained(out: Path, dataset: str, **options: Any) -> Run:
    options = {"size": 32, "network": "compact", "latent_dim": 4, "epochs": 1, "batch_size": 64} | options
    return train_run(out, dataset, progress=False, notice=lambda line: None, **options)


def check(found: LocalizationEvaluation, defects: set[str]) -> None:
    assert set(FLOORS) - {"floor-motion"} < set(found.localizers)
    for name, one in found.localizers.items():
        values = one.to_dict()
        for figure in ("pixel_auroc", "pixel_ap", "aupro", "best_iou", "calibrated_iou", "image_auroc"):
            assert values[figure] is not None, (name, figure)
            assert math.isfinite(values[figure]), (name, figure)
            assert 0 <= values[figure] <= 1
        assert set(one.figures.per_defect) == defects


def test_ucsd_ped2(real_data: Path, tmp_path: Path) -> None:
    """A part of it: four clips to train on, two to test on, as links."""
    whole = real_data / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"
    if not whole.is_dir():
        pytest.skip(f"{whole} is not there")
    part = tmp_path / "data" / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"
    for name in ("Train/Train001", "Train/Train002", "Train/Train003", "Test/Test001", "Test/Test001_gt", "Test/Test006",
                 "Test/Test006_gt"):  # fmt: skip
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).symlink_to(whole / name)
    run = trained(tmp_path / "run", "ucsd-ped2", root=tmp_path / "data", size=(32, 48), frames=3, held_out=0.3)
    split = load_defects(run.config)
    found = evaluate_localization(run, split, ["matching", "reconstruction", *FLOORS])
    check(found, {"anomalous"})
    assert found.localizers["floor-motion"].figures.auroc is not None
    assert found.localizers["floor-motion"].figures.auroc > 0.8, "what moves fast is what is abnormal"
    assert found.localizers["matching"].figures.auroc > 0.6  # type: ignore[operator]
    assert found.counts["test"] == len(split.defects)


def test_screw(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "mvtec_ad"
    if not (root / "screw").is_dir():
        pytest.skip(f"{root}/screw is not there")
    run = trained(tmp_path / "run", "mvtec", root=root, category="screw", size=64)
    assert run.config.training["augmentation"] != "none"
    found = evaluate_localization(run, load_defects(run.config), SOME)
    kinds = {"manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top"}
    check(found, kinds)
    assert found.dataset == "mvtec/screw"
    assert (found.counts["test_normal"], found.counts["test_anomalous"]) == (41, 119)
    assert found.localizers["matching"].figures.auroc > 0.7  # type: ignore[operator]
    synthetic = evaluate_synthetic(run, ["matching", "floor-contrast"], images=60)
    assert synthetic.localizers["matching"].figures.auroc > 0.7  # type: ignore[operator]


def test_magnetic_tile(real_data: Path, tmp_path: Path) -> None:
    """Images of all sizes, as a folder; then some of its test images scored as files."""
    root = real_data / "magnetic_tile"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    run = trained(tmp_path / "run", "folder", root=root)
    split = load_defects(run.config)
    found = evaluate_localization(run, split, SOME)
    kinds = set(split.defects) - {"good"}
    assert len(kinds) == 5
    check(found, kinds)
    assert (found.counts["test_normal"], found.counts["test_anomalous"]) == (100, 392)
    good = sorted((root / "test" / "good").iterdir())[:40]
    assert len({Image.open(path).size for path in good}) > 5
    result = score(run, Source(run, [str(path) for path in good]), tmp_path / "out", false_alarms=0.1, pictures=False)
    assert not result.errors
    assert np.isfinite([row.score for row in result.rows if row.score is not None]).all()
    assert len(result.flagged) < 20


# By objective of the run: its localizers, with options where the defaults would take long.
OF_OBJECTIVE = {
    "vae": ("mean-sum", "normal-difference", "attention:score=overall:layer=encoder.relu1", "deviation:layer=all", "matching",
            "learned", "kl", "reconstruction", "feature-dictionary"),
    "ae": ("ae-l2",),
    "ae-ssim": ("ae-ssim",),
    "anogan": ("anogan:steps=2",),
}  # fmt: skip


@pytest.fixture(scope="module")
def few_screws(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 good screws to train on, and to test on two good ones and two of each of two defects, as links."""
    whole, part = real_data / "mvtec_ad" / "screw", tmp_path_factory.mktemp("screws") / "screw"
    if not whole.is_dir():
        pytest.skip(f"{whole} is not there")
    folders = {"train/good": 24, "test/good": 2, **{f"{of}/{d}": 2 for of in ("test", "ground_truth") for d in DEFECTS}}
    for folder, count in folders.items():
        (part / folder).mkdir(parents=True)
        for file in sorted((whole / folder).iterdir())[:count]:
            (part / folder / file.name).symlink_to(file)
    return part.parent


@pytest.mark.parametrize("objective", OF_OBJECTIVE)
def test_every_localizer_on_real_screws(objective: str, few_screws: Path, tmp_path: Path) -> None:
    """Each gives finite figures, is kept in its run, and gives the same from the run loaded again."""
    options: dict[str, Any] = {"root": few_screws, "category": "screw", "objective": objective, "held_out": 0.25}
    options |= {"network": "compact", "size": 32} if objective == "vae" else {"network": None, "size": 64}
    run = trained(tmp_path / "run", "mvtec", **options)
    split, specs = load_defects(run.config), [*OF_OBJECTIVE[objective], *(name for name in FLOORS if name != "floor-motion")]
    check(evaluate_localization(run, split, specs), set(DEFECTS))
    again, images = load_run(run.path), split.test.images.float() / 255
    for spec in specs:
        mine, other = run.localize(images, spec), again.localize(images, spec)
        assert mine.maps.shape == (6, *run.input_shape[1:])
        assert bool((mine.maps >= 0).all())
        assert float(mine.maps.std()) > 0
        np.testing.assert_allclose(other.maps, mine.maps, rtol=1e-4, atol=1e-5 * float(mine.maps.max()), err_msg=spec)
        np.testing.assert_allclose(other.score, mine.score, rtol=1e-4, err_msg=spec)


def test_no_localizer_is_left_out() -> None:
    tried = {spec.partition(":")[0] for specs in OF_OBJECTIVE.values() for spec in specs}
    assert tried | set(FLOORS) == set(LOCALIZERS)
