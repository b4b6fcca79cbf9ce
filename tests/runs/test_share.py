"""Sharing: what is saved comes back the same to the bit, nothing is uploaded unasked, what is foreign is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from torch import Tensor

from vaelens import Run, load_run
from vaelens.data.images import to_float
from vaelens.errors import RunError, UsageError
from vaelens.output import MARK
from vaelens.runs.card import text_of
from vaelens.runs.train import load_split

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the tiny run that keeps a localizer and an evaluation."""
    folder = tmp_path_factory.mktemp("share") / "ones"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("report*", "localizers", "checkpoints"))
    loaded = load_run(folder)
    loaded.calibration("matching:neighbours=3")
    (folder / "report").mkdir()
    figures = {"image_auroc": 0.9875, "image_auroc_pooled": 0.5, "false_alarms": 0.04, "detected": 0.8, "pixel_auroc": None}
    counts = {"train": 130, "test": 240}
    evaluation = {"localizers": {"deviation": figures}, "active_latents": 8, "latents": 8, "images": counts}
    (folder / "report" / "evaluation.json").write_text(json.dumps(evaluation))
    return loaded


@pytest.fixture(scope="module")
def images(run: Run) -> Tensor:
    return to_float(load_split(run.config).test.images[:6])


@pytest.fixture(scope="module")
def saved(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.save_pretrained(tmp_path_factory.mktemp("saved") / "shared", license="apache-2.0")


class Hub:
    """A hub in a folder: what is pushed lands there, and in a cache as huggingface_hub lays it out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.private: dict[str, bool] = {}
        self.asked: list[dict[str, Any]] = []

    def create_repo(self, api: HfApi, repo_id: str, *, private: bool | None = None, **options: Any) -> Any:
        whole = repo_id if "/" in repo_id else f"me/{repo_id}"
        self.private.setdefault(whole, bool(private))
        return type("Url", (), {"repo_id": whole})

    def repo_info(self, api: HfApi, repo_id: str, **options: Any) -> Any:
        return type("Info", (), {"private": self.private[repo_id]})

    def upload_folder(self, api: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        self.asked.append({"repo_id": repo_id, "token": api.token, **options})
        self.put(repo_id, Path(folder_path))
        return f"https://hub/{repo_id}/commit/{COMMIT}"

    def put(self, repo_id: str, folder: Path) -> Path:
        """As if fetched from there before."""
        place = self.cache / f"models--{repo_id.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        return Path(shutil.copytree(folder, place / "snapshots" / COMMIT, copy_function=os.link))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    for name in ("create_repo", "repo_info", "upload_folder"):
        monkeypatch.setattr(HfApi, name, (lambda does: lambda *a, **k: does(*a, **k))(getattr(made, name)))
    return made


def replaced(path: Path, content: bytes) -> None:
    """Another file in its place: the one that is there may be linked to from elsewhere."""
    path.unlink()
    path.write_bytes(content)


def check_same(one: Run, other: Run, images: Tensor) -> None:
    """Both say the same of images, to the bit."""
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name
    a, b = one.explain(images), other.explain(images)
    assert torch.equal(a.maps.per_latent, b.maps.per_latent)
    assert torch.equal(a.z_scores, b.z_scores)
    for localizer in ("deviation", "matching:neighbours=3"):
        x, y = one.localize(images, localizer), other.localize(images, localizer)
        for field in ("maps", "score", "p_value", "flagged", "masks"):
            assert torch.equal(getattr(x, field), getattr(y, field)), (localizer, field)
        assert x.pixel_threshold == y.pixel_threshold


def test_what_is_saved_comes_back_to_the_bit(run: Run, saved: Path, images: Tensor) -> None:
    for loaded in (Run.from_pretrained(saved), Run.from_pretrained(str(saved)), load_run(saved)):
        check_same(run, loaded, images)
        assert dict(loaded.metrics) == dict(run.metrics)
    assert list((saved / "localizers").iterdir())  # what it has learned comes with it
    assert not list(saved.rglob("*.ckpt"))
    assert {path.suffix for path in saved.rglob("*") if path.is_file() and path.name != MARK} == {
        ".json",
        ".yaml",
        ".safetensors",
        ".md",
    }


def test_pushed_and_fetched_without_network(run: Run, images: Tensor, hub: Hub) -> None:
    address = run.push_to_hub("me/ones", images=True, token="hf_secret", commit_message="first", license="mit")
    assert address.endswith(COMMIT)
    assert hub.private == {"me/ones": True}  # unless it is asked for otherwise
    assert hub.asked[0]["commit_message"] == "first"
    assert hub.asked[0]["token"] == "hf_secret"
    for revision in (None, COMMIT):
        fetched = Run.from_pretrained("me/ones", cache_dir=hub.cache, local_files_only=True, revision=revision)
        check_same(run, fetched, images)
    card = (fetched.path / "README.md").read_text()
    assert 'Run.from_pretrained("me/ones")' in card
    assert "hf_secret" not in "".join(path.read_text(errors="replace") for path in fetched.path.rglob("*") if path.is_file())
    again = fetched.push_to_hub("twice", images=True, private=False)  # what was fetched can be shared again
    assert "me/twice" in again
    assert hub.private["me/twice"] is False


def test_nothing_is_uploaded_unasked(run: Run, hub: Hub) -> None:
    with pytest.raises(UsageError, match=rf"{len(run.normal_images)} normal images .* would be uploaded.*images=True"):
        run.push_to_hub("me/ones")
    assert hub.private == {}
    hub.private["me/open"] = False
    with pytest.raises(UsageError, match="me/open is a public repository"):
        run.push_to_hub("me/open", images=True)
    hub.private["me/short"] = False
    with pytest.raises(UsageError, match="me/short is a public repository"):
        run.push_to_hub("short", images=True)  # as the hub completes it
    assert hub.asked == []


def test_the_card_says_what_there_is(run: Run, saved: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "vaelens"
    assert data["license"] == "apache-2.0"
    assert data["datasets"] == ["digits"]
    assert {"vaelens", "anomaly-detection", "model_hub_mixin"} <= set(data["tags"])
    text = card.text
    for section in ("Use", "Data", "Training", "Figures", "Limits", "Licence"):
        assert f"## {section}\n" in text
    assert f"{len(run.normal_images)} normal images of the training data and {len(run.held_out_images)} held-out ones" in text
    assert "normal class | 1 |" in text
    assert f"active latents (more than 0.05 nats) | {run.metrics['active_latents']} of 8 |" in text
    assert f"| val/loss | {run.metrics['losses']['val/loss']:.4g} |" in text
    assert "| deviation | 0.9875 | 0.5 | 0.04 | 0.8 |" in text
    assert "130 train, 240 test" in text
    assert "model of seed 0" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    compile(code, "card", "exec")


def test_without_a_licence_or_an_evaluation_the_card_says_so(tiny_run: Path, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("report*", "localizers", "checkpoints")
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=ignore, copy_function=os.link))
    load_run(folder).save_pretrained(tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license is None
    assert "The licence of the weights is not stated." in card.text
    assert "Not evaluated on test images." in card.text
    (folder / "report").mkdir()
    (folder / "report" / "evaluation.json").write_text('{"localizers": 3}')  # changed by hand
    assert "Not evaluated" in text_of(load_run(folder), "name")


def test_the_path_of_the_data_stays_behind(run: Run, tmp_path: Path) -> None:
    place = "/home/somebody/secret place"
    with_root = replace(run.config, dataset={**run.config.dataset, "root": place})
    out = Run(run.path, with_root, run.model, run.tensors, run.metrics).save_pretrained(tmp_path / "out")
    assert yaml.safe_load((out / "config.yaml").read_text())["dataset"]["root"] is None
    for path in out.rglob("*"):
        assert path.is_dir() or b"somebody" not in path.read_bytes(), path.name


def test_the_card_of_a_run_on_defects(folder_run: Path) -> None:
    text = text_of(load_run(folder_run), "tiles [x]|<b>`")
    assert "a folder of images of the publisher's own" in text
    assert "preparation: " in text
    assert text.startswith("# tiles \\[x\\]\\|\\<b\\>\\`")


def test_the_card_of_a_run_on_known_factors(run: Run, tmp_path: Path) -> None:
    dataset = {**run.config.dataset, "name": "dsprites", "normal": None, "held_out": None}
    folder = tmp_path / "run"
    (folder / "report").mkdir(parents=True)
    figures = {"disentanglement": {"mig": 0.3125, "dci": None}, "spread": {"mig": 0.015, "dci": None}, "images": 737280}
    (folder / "report" / "evaluation.json").write_text(json.dumps({**figures, "reconstruction": 48.125, "empty_maps": 0.75}))
    text = text_of(Run(folder, replace(run.config, dataset=dataset), run.model, run.tensors, run.metrics), "me/sprites")
    assert "| mig | 0.3125 | 0.015 |" in text
    assert "| dci | - | - |" in text
    assert "| reconstruction | 48.12 | - |" in text
    assert "On 737,280 images of the data set, those trained on (it has no test split); model of seed 0" in text
    assert "run.localize" not in text  # none of its images is normal
    assert "conformal" not in text
    assert "normal images" not in text.split("## Data")[1].split("## Training")[0]


def test_the_card_tells_what_is_not_above_the_floors(folder_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folder_run, folder, ignore=shutil.ignore_patterns("report*", "localizers", "checkpoints"))
    one = {"pixel_auroc": 0.75, "pixel_ap": 0.5, "image_auroc": None}
    values = {"localizers": {"deviation": one}, "below_floors": {"deviation": ["floor-mean"]}, "images": {"test": 14}}
    for name in ("report", "report-synthetic"):
        (folder / name).mkdir()
        (folder / name / "evaluation.json").write_text(json.dumps(values))
    text = text_of(load_run(folder), "me/tiles")
    assert text.count("| deviation | 0.75 | 0.5 |") == 2
    assert "On the test split (14 test)" in text
    assert "On held-out normal images with synthetic defects (14 test)" in text
    assert "deviation is not above floor-mean in both AUROC and AP: it has localized nothing." in text


def test_a_folder_that_holds_something_else_is_left_alone(run: Run, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="was not written by vaelens"):
        run.save_pretrained(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.json"]
    with pytest.raises(UsageError):
        run.save_pretrained(run.path)
    copy = Path(shutil.copytree(saved, tmp_path / "copy", copy_function=os.link))
    (copy / "notes.txt").write_text("mine")
    run.save_pretrained(copy)  # as users of the hub expect: saved once more
    assert (copy / "notes.txt").exists()
    with pytest.raises(UsageError, match="--overwrite"):
        run.save_pretrained(copy, overwrite=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.yaml").unlink(), "no run: it has no config.yaml"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: replaced(f / "model.safetensors", b"\x80\x04cos\nsystem\n"), "model.safetensors is damaged"),
        (lambda f: replaced(f / "calibration.safetensors", b""), "calibration.safetensors is damaged"),
        (lambda f: (f / "metrics.json").unlink(), "incomplete"),
        (lambda f: replaced(f / "metrics.json", b"[]"), "metrics.json is damaged"),
        (lambda f: replaced(f / "config.json", b"{nothing"), "holds no model that can be loaded"),
        (lambda f: replaced(f / "config.json", b'["a"]'), "holds no model that can be loaded"),
    ],
)
def test_damaged_repositories_are_refused_in_one_line(
    damage: Callable[[Path], object], message: str, saved: Path, hub: Hub
) -> None:
    damage(hub.put("me/bad", saved))
    with pytest.raises(RunError) as caught:
        Run.from_pretrained("me/bad", cache_dir=hub.cache, local_files_only=True)
    assert message in str(caught.value)
    assert "me/bad" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_of_a_foreign_config_change_nothing(run: Run, saved: Path, images: Tensor, hub: Hub) -> None:
    place = hub.put("me/odd", saved)
    replaced(place / "config.json", b'{"run": 1, "name": 2, "device": "cuda:7", "licence": {}, "model_id": "other"}')
    check_same(run, Run.from_pretrained("me/odd", cache_dir=hub.cache, local_files_only=True), images)


def test_what_is_not_there_is_said_in_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def refuse(error: Exception) -> Callable[..., Any]:
        def raised(*args: Any, **kwargs: Any) -> Any:
            raise error

        return raised

    with pytest.raises(RunError, match=r"no folder me/none.*connect to the network, or name a folder"):
        Run.from_pretrained("me/none", cache_dir=hub.cache, local_files_only=True)
    for name in ("a/b/c", "", "me/..", "-"):
        with pytest.raises((UsageError, RunError)) as caught:
            Run.from_pretrained(name, cache_dir=hub.cache, local_files_only=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="there is no run at"):
        Run.from_pretrained(Path("nowhere"))
    response = type("Response", (), {"status_code": 404, "headers": {}, "request": None})()
    missing = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    missing.response = response
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", refuse(missing))
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse(missing))
    with pytest.raises(RunError, match=r"the hub has no model me/none that you may read.*hf auth login"):
        Run.from_pretrained("me/none", cache_dir=hub.cache)
    for error, said in (
        (ConnectionError("down"), "cannot be reached to push me/ones"),
        (RuntimeError("first line\nsecond"), "RuntimeError: first line"),
        (type("E", (Exception,), {"response": type("R", (), {"status_code": 401})})(), "does not know who asks for me/ones"),
        (type("E", (Exception,), {"response": type("R", (), {"status_code": 403})})(), "does not let you"),
    ):
        monkeypatch.setattr(HfApi, "create_repo", refuse(error))
        with pytest.raises(RunError, match=said) as told:
            run.push_to_hub("me/ones", images=True)
        assert "\n" not in str(told.value)


class _Refusals(BaseHTTPRequestHandler):
    """Answers as the hub does what it will not give."""

    ANSWERS: ClassVar[dict[str, tuple[int, str]]] = {
        "me/none": (404, "RepoNotFound"),
        "me/hidden": (401, "RepoNotFound"),
        "me/gated": (403, "GatedRepo"),
        "me/ones": (404, "RevisionNotFound"),
        "me/broken": (418, ""),
    }

    def do_GET(self) -> None:
        name = next((name for name in self.ANSWERS if name in self.path), "me/none")
        status, code = self.ANSWERS[name]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        """Nobody is to read it."""


def test_what_a_hub_will_not_give_is_said_in_one_line(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of huggingface_hub's own errors, which it makes of a server's answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusals)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        for name, said in (
            ("me/none", "the hub has no model me/none that you may read; check the name"),
            ("me/hidden", "the hub does not know who asks for me/hidden, or there is no such model: .*hf auth login"),
            ("me/gated", "me/gated is gated"),
            ("me/ones", "me/ones has no revision 'v2'"),
            ("me/broken", "me/broken"),
        ):
            with pytest.raises(RunError, match=said) as told:
                Run.from_pretrained(name, revision="v2", cache_dir=tmp_path, token="hf_secret")
            assert "\n" not in str(told.value)
            assert "hf_secret" not in str(told.value)
        with pytest.raises(RunError, match="me/hidden"):
            run.push_to_hub("me/hidden", images=True, token="hf_secret")
    finally:
        server.shutdown()
        server.server_close()


def test_command(run: Run, hub: Hub, tmp_path: Path, cli: Any, fails: Any) -> None:
    done = cli("share", run.path, "--out", tmp_path / "out", "--license", "cc-by-4.0", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["shared"] == str(tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "cc-by-4.0"
    assert "--overwrite" in fails("share", run.path, "--out", tmp_path / "out", code=2)
    assert cli("share", run.path, "--out", tmp_path / "out", "--overwrite").code == 0
    assert "one place" in fails("share", run.path, code=2)
    assert "one place" in fails("share", run.path, "--out", tmp_path / "x", "--to", "a/b", code=2)
    assert "--public is for the hub" in fails("share", run.path, "--out", tmp_path / "x", "--public", code=2)
    assert "--images" in fails("share", run.path, "--to", "me/ones", code=2)
    assert "a licence is one line" in fails("share", run.path, "--out", tmp_path / "x", "--license", "", code=2)
    assert hub.asked == []
    done = cli("share", run.path, "--to", "me/ones", "--images")
    assert done.code == 0, done.err
    assert "held-out ones" in done.out
    assert hub.private == {"me/ones": True}
