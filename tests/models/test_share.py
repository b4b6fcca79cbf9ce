"""Networks shared by themselves: the same weights come back, and nothing else is taken for a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from vaelens.errors import RunError, UsageError
from vaelens.models import CompactVAE, ConvVAE, DspritesVAE, build

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model() -> ConvVAE:
    return build("compact", 5, (3, 32, 32)).eval()


def same(one: ConvVAE, other: ConvVAE) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_comes_back_the_same(model: ConvVAE, tmp_path: Path) -> None:
    out = model.save_pretrained(tmp_path / "net", license="mit")
    again = ConvVAE.from_pretrained(str(out))
    assert type(again) is CompactVAE
    assert (again.latent_dim, again.input_shape, again.training) == (5, (3, 32, 32), False)
    assert same(model, again)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again.encode(images)[0], model.encode(images)[0])
    card = ModelCard.load(out / "README.md")
    assert (card.data.library_name, card.data.license) == ("vaelens", "mit")
    assert 'ConvVAE.from_pretrained("net")' in card.text
    model.save_pretrained(out)  # once more
    assert ModelCard.load(out / "README.md").data.license is None
    assert same(CompactVAE.from_pretrained(out), model)
    with pytest.raises(RunError, match="holds a CompactVAE, not a DspritesVAE"):
        DspritesVAE.from_pretrained(out)


def test_the_network_of_a_shared_run_is_loaded_without_its_images(tiny_run: Path, tmp_path: Path) -> None:
    from vaelens.runs import load_run

    run = load_run(tiny_run)
    shared = run.save_pretrained(tmp_path / "run")
    (shared / "calibration.safetensors").unlink()
    assert same(ConvVAE.from_pretrained(shared), run.model)


def test_pushed_and_fetched_without_network(model: ConvVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    place = tmp_path / "models--me--net"

    def create(api: HfApi, repo_id: str, *, private: bool, **options: Any) -> Any:
        return type("Url", (), {"repo_id": repo_id})

    def upload(api: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        shutil.copytree(folder_path, place / "snapshots" / COMMIT)
        return f"https://hub/{repo_id}"

    public = [False]
    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(HfApi, "repo_info", lambda *a, **k: type("Info", (), {"private": not public[0]}))
    assert model.push_to_hub("me/net") == "https://hub/me/net"
    fetched = ConvVAE.from_pretrained("me/net", cache_dir=tmp_path, local_files_only=True)
    assert same(fetched, model)
    public[0] = True
    with pytest.raises(UsageError, match="public repository"):
        model.push_to_hub("me/net")
    with pytest.raises(RunError, match="no folder me/other"):
        ConvVAE.from_pretrained("me/other", cache_dir=tmp_path, local_files_only=True)
    (place / "snapshots" / COMMIT / "model.safetensors").write_bytes(b"\x80\x04")
    with pytest.raises(RunError, match=r"me/net on the hub holds no network that can be loaded: .*damaged"):
        ConvVAE.from_pretrained("me/net", cache_dir=tmp_path, local_files_only=True)


def config(folder: Path, **network: Any) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["network"].update(network)
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "config.json").write_text("[1]"), "is not of a network of vaelens"),
        (lambda f: (f / "config.json").write_text('{"architectures": ["BertModel"]}'), "is not of a network of vaelens"),
        (lambda f: config(f, name="resnet"), "unknown network"),
        (lambda f: config(f, latent_dim=6), "does not fit config.json"),
        (lambda f: config(f, latent_dim="many"), "latent_dim must be a whole number"),
        (lambda f: config(f, input_shape=[3, 31, 32]), "multiples of"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "is damaged"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(
    damage: Callable[[Path], object], message: str, model: ConvVAE, tmp_path: Path
) -> None:
    out = model.save_pretrained(tmp_path / "net")
    damage(out)
    with pytest.raises(RunError, match=message) as caught:
        ConvVAE.from_pretrained(out)
    assert "\n" not in str(caught.value)


def test_a_licence_is_one_line(model: ConvVAE, tmp_path: Path) -> None:
    for licence in ("", "  ", "mit\n---\nlicense: other", 3):
        with pytest.raises(UsageError, match="a licence is one line such as"):
            model.save_pretrained(tmp_path / "net", license=licence)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    for licence in ("- [a", "cc: 'by' # 4", "null", "{x}"):  # what YAML would read otherwise
        assert ModelCard.load(model.save_pretrained(tmp_path / "net", license=licence) / "README.md").data.license == licence


def test_works_where_it_is_asked_to(model: ConvVAE, tmp_path: Path) -> None:
    out = model.save_pretrained(tmp_path / "net")
    assert ConvVAE.from_pretrained(out, device="meta").encode(torch.rand(1, 3, 32, 32, device="meta"))[0].is_meta


def test_what_is_no_name_is_refused() -> None:
    for name in (None, 3, b"net"):
        with pytest.raises(UsageError, match="named by its folder"):
            ConvVAE.from_pretrained(name)  # type: ignore[arg-type]


def test_networks_of_others_are_refused(tmp_path: Path) -> None:
    class Mine(CompactVAE):
        pass

    with pytest.raises(UsageError, match="Mine is not one of this library's networks"):
        Mine(input_shape=(3, 32, 32), latent_dim=4).save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()
