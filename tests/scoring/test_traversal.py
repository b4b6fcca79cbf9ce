"""Traversals of a run of dSprites: each frame is the decoder's image of a code that a test moves by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelens import LatentAttention
from vaelens.data.sprites import FACTORS, SIZES, render
from vaelens.errors import UsageError
from vaelens.output import OutputError
from vaelens.runs import Run, load_run
from vaelens.scoring import traversal
from vaelens.scoring.traversal import POSE, VALUES, Traversed, knowledge_of, name_of, random_poses, sprites_of, traverse

SPRITES = torch.from_numpy(render([[shape, *POSE] for shape in range(3)])).unsqueeze(1).float()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of four steps, of whose ten latents some are dead."""
    from vaelens.runs.train import train_run

    out = tmp_path_factory.mktemp("sprites") / "run"
    return train_run(out, "dsprites", objective="factor", steps=4, batch_size=8, progress=False)


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traversal, "SAMPLE", 600)
        yield


@dataclass(frozen=True)
class Seen:
    """What came of a traversal, and what its drawings were made from."""

    out: Path
    found: Traversed
    drawn: list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    out = tmp_path_factory.mktemp("traversed") / "out"
    drawn: list[dict[str, Any]] = []
    return Seen(out, watched(drawn, run, out), drawn)


def watched(drawn: list[dict[str, Any]], *arguments: Any) -> Traversed:
    """`traverse`, with a note of what each drawing is made from."""
    grid = traversal.traversal_grid

    def spy(image: Any, decoded: Any, frames: Any, maps: Any, names: Any, *rest: Any, **options: Any) -> Any:
        drawn.append({"frames": frames, "maps": maps, "names": names, **options})
        return grid(image, decoded, frames, maps, names, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traversal, "traversal_grid", spy)
        return traverse(*arguments)


def test_frames_and_maps_are_those_of_the_model(run: Run, seen: Seen) -> None:
    found = seen.found
    assert torch.equal(found.images, SPRITES)
    maps = LatentAttention(run.model, run.attention.layer)(SPRITES)
    torch.testing.assert_close(found.maps.per_latent, maps.per_latent, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.maps.mean, run.model.encode(SPRITES)[0], atol=1e-6, rtol=1e-5)
    assert found.frames.shape == (3, 10, len(VALUES), 1, 64, 64)
    for i, latent in ((0, 0), (1, 4), (2, 9)):
        for v, value in enumerate(VALUES):
            code = found.maps.mean[i].clone()
            code[latent] = value
            torch.testing.assert_close(found.frames[i, latent, v], run.model.decode(code[None])[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.decoded, run.reconstruct(SPRITES), atol=1e-6, rtol=1e-5)
    assert VALUES[0] == -VALUES[-1] == -2
    assert 0.0 in VALUES


def test_a_row_belongs_to_its_own_latent_where_each_sprite_has_others(run: Run, tmp_path: Path) -> None:
    with torch.no_grad():  # such that the sprites differ in which latents are strongest
        weights = run.model.mean.weight.clone()  # type: ignore[operator]
        run.model.mean.weight.copy_(30 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(3)))  # type: ignore[operator]
    try:
        found = traverse(run, tmp_path / "out", run.attend(latents="top2"))
    finally:
        with torch.no_grad():
            run.model.mean.weight.copy_(weights)  # type: ignore[operator]
    assert len({tuple(found.latents(i)) for i in range(3)}) > 1
    for i in range(3):
        assert found.latents(i) == found.maps.mean[i].abs().topk(2).indices.tolist()
        for k, latent in enumerate(found.latents(i)):
            code = found.maps.mean[i].clone()
            code[latent] = VALUES[1]
            torch.testing.assert_close(found.frames[i, k, 1], run.model.decode(code[None])[0], atol=1e-4, rtol=0)


def test_active_latents_come_first_and_dead_ones_are_marked(run: Run, seen: Seen, tmp_path: Path) -> None:
    found, drawn = seen.found, seen.drawn
    active = found.knowledge.active.tolist()
    assert 0 < sum(active) < 10, "the run is of no use to this test"
    rows = [d for d in range(10) if active[d]] + [d for d in range(10) if not active[d]]
    for i, one in enumerate(drawn):
        assert found.rows(i) == rows
        assert one["names"] == [f"z{d}" if active[d] else f"z{d} (dead)" for d in rows]
        assert np.array_equal(one["maps"], found.maps.per_latent[i, rows].numpy())
        assert np.array_equal(one["lowering"], torch.relu(-found.maps.signed[i, rows]).numpy())
        assert np.array_equal(one["frames"], found.frames[i, rows, :, 0].numpy())
        assert one["means"] == found.maps.mean[i, rows].tolist()
        assert one["limit"] == float(found.maps.signed.abs().max()), "one scale for all shapes"
    assert len(drawn) == 3
    others: list[dict[str, Any]] = []
    watched(others, run, tmp_path / "abs", run.attend(variant="expvae", latents=[2]))
    assert [one["lowering"] for one in others] == [None] * 3, "an absolute value has both in it"
    assert [len(one["names"]) for one in others] == [1] * 3


def test_the_folder_holds_the_same_numbers(seen: Seen) -> None:
    out, found = seen.out, seen.found
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [".vaelens", "square.png", "ellipse.png", "heart.png", "latents.json", "report.html"]
    )
    told = json.loads((out / "latents.json").read_text())
    whole = found.to_dict()
    assert [image.pop("picture") for image in told["images"]] == ["square.png", "ellipse.png", "heart.png"]
    assert [image.pop("picture") for image in whole["images"]] == [str(file) for file in found.files]
    assert told.pop("report") == "report.html"
    assert whole.pop("report") == str(out / "report.html")
    assert told == whole
    assert told["images"][2]["image"] == "heart, scale 5, orientation 0, posX 16, posY 16"
    page = (out / "report.html").read_text()
    for text in ("600 sprites drawn at random", "heart, scale 5", "What each latent does", "run, of objective"):
        assert text in page
    assert str(out.parent) not in page


class Knowing(torch.nn.Module):
    """Encodes the factors, given as an image, so that what is known of them can be worked out."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        factors = images.flatten(1)
        mean = torch.stack([factors[:, 0], factors[:, 3] - 16, torch.zeros(len(factors))], 1)
        return mean, torch.tensor([[0.0, -1.0, 0.0]]).expand(len(factors), -1)


def test_what_latents_know_is_what_can_be_worked_out() -> None:
    run: Any = SimpleNamespace(model=Knowing(), device=torch.device("cpu"))
    known = knowledge_of(run, lambda classes: torch.from_numpy(classes).float()[:, :, None, None], 6000)
    poses = random_poses(6000)
    shapes = np.bincount(poses[:, 0]) / 6000
    entropy = -(shapes * np.log(shapes)).sum()
    assert known.most_of(0) == ("shape", pytest.approx(entropy), pytest.approx(1.0))
    factor, nats, share = known.most_of(1)
    assert factor == "posX"
    binned = np.bincount(np.minimum((poses[:, 3] / 31 * 20).astype(int), 19)) / 6000  # what 20 bins keep of 32 values
    assert nats == pytest.approx(-(binned * np.log(binned)).sum(), abs=1e-6)
    assert share == pytest.approx(nats / math.log(32), rel=0.01)
    assert known.most_of(2)[1] == 0
    assert known.information[1, 4] < 0.1, "and nothing of posY but by chance"
    mean = poses[:, 3] - 16
    assert known.kl[1] == pytest.approx((mean**2 + math.exp(-1) - 1 + 1).mean() / 2)
    assert known.active.tolist() == [True, True, False]
    assert known.sprites == 6000


def test_random_poses_are_repeatable_and_of_every_value() -> None:
    poses = random_poses(4000)
    assert np.array_equal(poses, random_poses(4000))
    assert not np.array_equal(poses, random_poses(4000, seed=1))
    for factor, size in enumerate(SIZES):
        assert np.bincount(poses[:, factor]).shape == (size,)
        assert np.bincount(poses[:, factor]).min() > 0.5 * 4000 / size
    assert name_of([1, 2, 3, 4, 5]) == "ellipse, " + ", ".join(
        f"{n} {v}" for n, v in zip(FACTORS[1:], (2, 3, 4, 5), strict=True)
    )


def test_sprites_are_drawn_unless_there_is_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def official(root: Path, download: bool) -> Any:
        asked.append(root)
        assert not download
        return SimpleNamespace(numbers=lambda classes: classes[:, 4], take=lambda numbers: 100 * numbers)

    monkeypatch.setattr(traversal, "load_official", official)
    poses = np.array([[0, 1, 2, 3, 4], [2, 5, 0, 16, 16]])
    drawn = sprites_of(run)(poses)
    assert (drawn.dtype, drawn.shape) == (torch.float32, (2, 1, 64, 64))
    assert np.array_equal(drawn[:, 0].numpy(), render(poses))
    assert asked == []
    assert sprites_of(run, Path("there"))(poses).tolist() == [400, 1600]
    trained_on_it: Any = SimpleNamespace(config=SimpleNamespace(dataset={"root": "elsewhere"}))
    assert sprites_of(trained_on_it)(poses).tolist() == [400, 1600]
    assert asked == [Path("there"), Path("elsewhere")]


def test_what_is_refused_leaves_nothing(run: Run, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is of digits, not of dsprites; explain images of it"):
        traverse(load_run(tiny_run), tmp_path / "out")
    for out in (run.path, run.path.parent):
        with pytest.raises(UsageError, match="exists and is not empty"):
            traverse(run, out)
    inside = Run(tmp_path / "out" / "run", run.config, run.model, {}, {})
    with pytest.raises(UsageError, match="lies in --out"):
        traverse(inside, tmp_path / "out")
    (tmp_path / "file").touch()
    with monkeypatch.context() as known:
        known.setattr(traversal, "sprites_of", lambda *_: pytest.fail("drew"))
        with pytest.raises(OutputError):  # before minutes of work, not after
            traverse(run, tmp_path / "file" / "out")
    monkeypatch.setattr(traversal, "MOST", 3)
    with pytest.raises(UsageError, match="at most 3, and the run has 10; choose some by --latents, such as top3"):
        traverse(run, tmp_path / "out")
    monkeypatch.setattr(traversal, "write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        traverse(run, tmp_path / "out", run.attend(latents=[0]))
    assert not (tmp_path / "out").exists()
