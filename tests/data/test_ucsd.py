"""UCSD: the real Ped2, and made-up trees with all that the official archive has in the way of surprises."""

from __future__ import annotations

import functools
import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaelens.data import load_anomaly, ucsd
from vaelens.data.anomaly import AnomalyOptions
from vaelens.data.preparation import Preparation
from vaelens.data.ucsd import frame_labels
from vaelens.errors import DataError, UsageError

SMALL = Preparation((6, 8))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


def save(path: Path, value: int = 0, mark: bool = False) -> None:
    """An image of 16x12 of one value; a mark is a block of four pixels that are on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((12, 16), value, np.uint8)
    if mark:
        pixels[4:6, 8:10] = 255
    Image.fromarray(pixels).save(path)


def make(top: Path, scene: str = "UCSDped1", train: tuple[int, ...] = (4, 5, 6), test: tuple[int, ...] = (3, 3, 3)) -> Path:
    """A tree with the frame numbers as values, and macOS's leavings everywhere. Returns the scene's folder."""
    folder = top / ucsd.FOLDER / scene
    for part, clips in (("Train", train), ("Test", test)):
        (folder / part).mkdir(parents=True)
        for clip, count in enumerate(clips, 1):
            for frame in range(1, count + 1):
                save(folder / part / f"{part}{clip:03d}" / f"{frame:03d}.tif", 10 * clip + frame)
            (folder / part / f"{part}{clip:03d}" / ".DS_Store").write_bytes(b"\0")
            (folder / part / f"{part}{clip:03d}" / "._001.tif").write_bytes(b"\0")
        (folder / part / "._Train001").write_bytes(b"\0")
        (folder / part / ".DS_Store").write_bytes(b"\0")
    return folder


def load(root: Path, dataset: str = "ucsd-ped1", **options: Any) -> Any:
    return load_anomaly(dataset, AnomalyOptions(root=root, **({"preparation": SMALL, "held_out": 0.3} | options)))


def values(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_ped1_with_masks_of_some_clips_and_the_list_of_frames(tmp_path: Path) -> None:
    folder = make(tmp_path, test=(3, 3, 3, 2))
    for frame in (1, 2, 3):
        save(folder / "Test" / "Test002_gt" / f"{frame:03d}.bmp", mark=frame == 2)
    for frame in (1, 2, 3):
        save(folder / "Test" / "Test003_gt" / f"frame{frame:03d}.bmp", mark=frame > 1)
    (folder / "Test" / "Test003_gt" / "._frame001.bmp").write_bytes(b"\0")
    save(folder / "Test" / "Test003_gt" / "001.tif")  # no frame of a clip
    (folder / "Test" / "UCSDped1.m").write_text(
        "TestVideoFile = {};\n% TestVideoFile{end+1}.gt_frame = [1:3];\nTestVideoFile{end+1}.gt_frame = [1:1, 3:3];\n"
        "TestVideoFile{end+1}.gt_frame = [1:3];\nTestVideoFile{end+1}.gt_frame = [2:3];\nTestVideoFile{end+1}.gt_frame = [2];\n"
    )
    split = load(tmp_path)
    assert split.dataset == "ucsd-ped1"
    assert split.test.names[:4] == tuple(f"ucsd-ped1/test/Test00{c}/00{f}" for c, f in ((1, 1), (1, 2), (1, 3), (2, 1)))
    # clip 1 and 4 by the list, 2 and 3 by their masks
    assert split.test.labels.tolist() == [1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 1]
    assert split.defects[:2] == ("anomalous", "good")
    assert split.has_mask.tolist() == [False, True, False] + [True] * 7 + [False]
    assert split.masks.flatten(1).sum(1).tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0]
    assert split.masks[4].nonzero().tolist() == [[2, 4]]
    assert values(split.test.images) == [11, 12, 13, 21, 22, 23, 31, 32, 33, 41, 42]


def test_whole_clips_are_held_out_in_order(tmp_path: Path) -> None:
    make(tmp_path, train=(4, 5, 6, 7, 8), test=())
    seen = set()
    for seed in range(4):
        split = load(tmp_path, seed=seed, held_out=0.2)
        assert split.test is None
        assert len(split.train) + len(split.calibration) == 30
        clips = {name.split("/")[2] for name in split.calibration.names}
        assert not clips & {name.split("/")[2] for name in split.train.names}
        assert split.train.names == tuple(sorted(split.train.names))
        numbers = [(int(name.split("/")[2][-3:]), int(name[-3:])) for name in split.train.names]
        assert values(split.train.images) == [10 * clip + frame for clip, frame in numbers]
        seen.add(frozenset(clips))
    assert len(seen) > 1


def test_neither_masks_nor_a_list(tmp_path: Path) -> None:
    make(tmp_path)
    split = load(tmp_path)
    assert set(split.defects) == {"unknown"}
    assert split.counts["test_unknown"] == 9
    assert split.masks is split.has_mask is None


def test_neighbouring_frames_stop_at_the_clips_ends(tmp_path: Path) -> None:
    make(tmp_path)
    split = load(tmp_path, preparation=Preparation((6, 8), frames=3))
    assert split.image_shape == (3, 6, 8)
    assert split.test.images[:4, :, 0, 0].tolist() == [[11, 11, 12], [11, 12, 13], [12, 13, 13], [21, 21, 22]]


def test_a_damaged_frame_is_left_out_and_named(tmp_path: Path) -> None:
    folder = make(tmp_path, train=(120, 130), test=(120, 3))
    broken = folder / "Test" / "Test001" / "060.tif"
    broken.write_bytes(broken.read_bytes()[:20])
    (folder / "Train" / "Train001" / "007.tif").write_bytes(b"")
    (folder / "Train" / "Train002" / "007.tif").write_bytes(b"")
    for frame in range(1, 121):
        save(folder / "Test" / "Test001_gt" / f"{frame:03d}.bmp", mark=frame > 60)
    for _ in range(2):  # also from the cache
        heard: list[str] = []
        split = load(tmp_path, notice=heard.append, preparation=Preparation((6, 8), frames=3))
        assert len(split.train) + len(split.calibration) == 248
        assert len(split.test) == 122
        assert split.test.labels.tolist() == [0] * 59 + [1] * 60 + [-1] * 3
        assert split.test.names[58:60] == ("ucsd-ped1/test/Test001/059", "ucsd-ped1/test/Test001/061")
        assert split.test.images[58, :, 0, 0].tolist() == [68, 69, 71]
        assert len(heard) == 3
        assert all("a frame is left out" in line and "\n" not in line for line in heard)
        assert any(str(broken) in line for line in heard)


def test_too_many_damaged_frames_are_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path, test=(30, 30))
    (folder / "Test" / "Test001" / "005.tif").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of 60 frames cannot be read.*005\.tif.*unpack the archive again"):
        load(tmp_path)


def test_lacking_masks_are_told(tmp_path: Path) -> None:
    folder = make(tmp_path)
    save(folder / "Test" / "Test001_gt" / "001.bmp", mark=True)
    heard: list[str] = []
    split = load(tmp_path, notice=heard.append)
    assert split.has_mask.tolist() == [True] + [False] * 8
    assert ["lacks the masks of 2 of 3 frames" in line for line in heard] == [True]


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    folder = make(tmp_path, test=(1,))
    (folder / "Test" / "Test001_gt").mkdir()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "Test" / "Test001_gt" / "001.bmp")
    with pytest.raises(DataError, match="16x12"):
        load(tmp_path)


@pytest.mark.parametrize("below", ["", ucsd.FOLDER, f"{ucsd.FOLDER}/UCSDped1"])
def test_every_level_may_be_the_root(tmp_path: Path, below: str) -> None:
    make(tmp_path)
    assert len(load(tmp_path / below).test) == 9


def test_wrong_roots_and_options(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=r"lacks UCSD_Anomaly_Dataset.v1p2/UCSDped2/Train; .*http"):
        load(tmp_path, "ucsd-ped2")
    with pytest.raises(DataError, match="UCSDped2/Train"):
        load(tmp_path / ucsd.FOLDER / "UCSDped1", "ucsd-ped2")
    with pytest.raises(UsageError, match="no folder; name it by --root"):
        load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no categories"):
        load(tmp_path, category="screw")
    with pytest.raises(UsageError, match="grey"):
        load(tmp_path, preparation=Preparation((6, 8), 3))
    with pytest.raises(UsageError, match="held_out"):
        load(tmp_path, held_out=1.5)


def test_too_little_to_train_on(tmp_path: Path) -> None:
    make(tmp_path / "one", train=(5,))
    with pytest.raises(DataError, match=r"clips to train on: 1; it takes two"):
        load(tmp_path / "one")
    make(tmp_path / "none", train=())
    with pytest.raises(DataError, match="holds no clips"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("[60:62]", {60, 61, 62}),
        ("[5:6, 9:10]", {5, 6, 9, 10}),
        ("[5:6 9:10]", {5, 6, 9, 10}),
        ("[ 1 : 2 ; 4,\n 6:7 ]", {1, 2, 4, 6, 7}),
        ("[]", set()),
    ],
)
def test_lists_of_frames(text: str, frames: set[int], tmp_path: Path) -> None:
    (tmp_path / "x.m").write_text(f"%% [1:9]\nTestVideoFile = {{}};\r\nTestVideoFile{{end+1}}.gt_frame = {text};\r\n")
    assert frame_labels(tmp_path / "x.m") == [frames]


def test_lists_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "x.m").write_text("TestVideoFile{end+1}.gt_frame = [a:b];\n")
    with pytest.raises(DataError, match="not ranges"):
        frame_labels(tmp_path / "x.m")
    with pytest.raises(DataError, match="cannot read"):
        frame_labels(tmp_path / "y.m")
    folder = make(tmp_path)
    (folder / "Test" / "UCSDped1.m").write_text("TestVideoFile{end+1}.gt_frame = [1:2];\n")
    with pytest.raises(DataError, match=r"lists the frames of 1 clips, but there is Test003"):
        load(tmp_path)


def test_the_real_ped2(real_data: Path) -> None:
    """Figures of the data set's description; masks against an independent reading of the files."""
    split = load(real_data, "ucsd-ped2", preparation=Preparation((120, 180)), held_out=0.1)
    assert len(split.train) + len(split.calibration) == 2550
    assert split.counts["test"] == 2010
    assert split.counts["test_unknown"] == 0
    assert split.has_mask.all()
    assert split.image_shape == (1, 120, 180)
    root = real_data / ucsd.FOLDER / "UCSDped2" / "Test"
    for at in (0, 100, 999, 1500, 2009):
        _, _, clip, frame = split.test.names[at].split("/")
        image = np.array(Image.open(root / clip / f"{frame}.tif"))
        assert np.array_equal(split.test.images[at, 0].numpy(), image)
        name = f"frame{frame}.bmp" if clip in ("Test006", "Test009", "Test012") else f"{frame}.bmp"
        mask = np.array(Image.open(root / f"{clip}_gt" / name).convert("L")) > 0
        assert np.array_equal(split.masks[at].numpy(), mask)
    assert torch.equal(split.masks.flatten(1).any(1), split.test.labels == 1)
    # frame 61 of the first clip is where the official list begins
    assert split.test.labels[:180].nonzero().flatten()[0].item() == 60


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that a server gives it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def publish(served: tuple[Path, str], tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack a tree as the archive, and have it downloaded from this machine."""
    archive = served[0] / "UCSD_Anomaly_Dataset.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree / ucsd.FOLDER, ucsd.FOLDER)
    content = archive.read_bytes()
    monkeypatch.setattr(ucsd, "URLS", (f"{served[1]}/{archive.name}",))
    monkeypatch.setattr(ucsd, "MD5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(ucsd, "BYTES", len(content))


def test_downloaded_once(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "tree")
    publish(served, tmp_path / "tree", monkeypatch)
    heard: list[str] = []
    steps: list[tuple[str, int, int | None]] = []
    options = AnomalyOptions(preparation=SMALL, held_out=0.3, notice=heard.append, progress=lambda *step: steps.append(step))
    assert len(load_anomaly("ucsd-ped1", options).test) == 9
    assert steps[-1][1] == steps[-1][2] == ucsd.BYTES
    assert len(heard) == 1
    assert "Mahadevan" in heard[0]
    cache = tmp_path / "cache" / "ucsd"
    assert sorted(path.name for path in cache.iterdir() if not path.name.startswith(".")) == [ucsd.FOLDER]
    monkeypatch.setattr(ucsd, "URLS", ("http://127.0.0.1:9/UCSD_Anomaly_Dataset.tar.gz",))
    assert len(load_anomaly("ucsd-ped1", options).test) == 9
    assert len(heard) == 1


def test_offline_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ucsd, "URLS", ("http://127.0.0.1:9/UCSD_Anomaly_Dataset.tar.gz",))
    with pytest.raises(DataError, match=r"cannot download UCSD_Anomaly_Dataset\.tar\.gz") as caught:
        load_anomaly("ucsd-ped2", AnomalyOptions(notice=lambda _: None))
    assert f"put it into {tmp_path / 'cache' / 'ucsd'} by hand" in str(caught.value)


def test_an_archive_of_something_else(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "tree", scene="UCSDped9")
    publish(served, tmp_path / "tree", monkeypatch)
    with pytest.raises(DataError, match=r"holds no UCSD_Anomaly_Dataset.v1p2/UCSDped1/Train"):
        load_anomaly("ucsd-ped1", AnomalyOptions(preparation=SMALL, notice=lambda _: None))


def test_published_sum() -> None:
    assert len(bytes.fromhex(ucsd.MD5)) == 16
    assert ucsd.BYTES > 700_000_000
