"""Runs: what was saved comes back and gives the same answers; what is damaged is refused in one line that says what to do."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from vaelens.data.images import to_float
from vaelens.errors import RunError, UsageError
from vaelens.localizers import build_localizer
from vaelens.output import OutputError
from vaelens.runs import Run, RunConfig, load_run
from vaelens.runs.folder import save_run
from vaelens.runs.objective import OF_CLASSES
from vaelens.runs.train import load_split

FILES = ("config.yaml", "model.safetensors", "calibration.safetensors", "metrics.json")


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def images(run: Run) -> Tensor:
    """24 test images, a white one and a black one."""
    some = to_float(load_split(run.config).test.images[:24])
    return torch.cat([some, torch.ones(1, 1, 28, 28), torch.zeros(1, 1, 28, 28)])


def refused(folder: Path) -> str:
    """The one line with which a run is refused."""
    with pytest.raises(RunError) as error:
        load_run(folder)
    message = str(error.value)
    assert "\n" not in message
    assert error.value.exit_code == 1
    return message


def change(folder: Path, *keys: str, to: object) -> None:
    path = folder / "config.yaml"
    values = inner = yaml.safe_load(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(yaml.safe_dump(values))


def replace_weights(folder: Path, change_one: Callable[[dict[str, Tensor]], None], name: str = "model.safetensors") -> None:
    tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
    change_one(tensors)
    (folder / name).unlink()
    save_file(tensors, folder / name)


# --- the way there and back ---


def test_a_loaded_run_answers_as_the_one_that_was_trained(images: Tensor, tmp_path: Path) -> None:
    from vaelens.runs.train import train_run

    trained = train_run(tmp_path / "run", "digits", epochs=1, batch_size=32, latent_dim=4, progress=False)
    loaded = load_run(str(tmp_path / "run"))
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name
    assert torch.equal(trained.explain(images).maps.per_latent, loaded.explain(images).maps.per_latent)
    for name in OF_CLASSES:
        first, second = trained.localize(images, name), loaded.localize(images, name)
        assert torch.equal(first.maps, second.maps), name
        assert torch.equal(first.score, second.score), name
        assert torch.equal(first.p_value, second.p_value), name
        assert first.score_threshold == second.score_threshold
    assert loaded.config == trained.config
    assert loaded.metrics == trained.metrics
    assert loaded.metrics["epochs"] == 1


def test_a_run_holds_what_its_configuration_says(run: Run) -> None:
    nothing = {"root": None, "category": None, "preparation": None}
    assert run.config.dataset == {"name": "digits", "normal": 1, "held_out": 0.25, "seed": 0, **nothing}
    assert run.config.network == {"name": "mnist", "input_shape": [1, 28, 28], "latent_dim": 8}
    assert run.config.training["epochs"] == 3
    assert run.input_shape == (1, 28, 28)
    assert run.metrics["epochs"] == 3
    assert len(run.metrics["mean_kl"]) == 8
    assert not run.model.training
    assert not any(p.requires_grad for p in run.model.parameters())
    split = load_split(run.config)
    assert torch.equal(run.normal_images, split.train.images)
    assert str(run.path) not in json.dumps(run.settings())


def test_a_moved_run_works(tiny_copy: Path, run: Run, images: Tensor) -> None:
    moved = tiny_copy.rename(tiny_copy.parent / "elsewhere, with spaces")
    assert torch.equal(load_run(moved).localize(images).score, run.localize(images).score)


def test_calibration_is_the_scores_of_images_that_training_never_saw(run: Run) -> None:
    split = load_split(run.config)
    assert not set(split.train.names) & set(split.calibration.names)
    held_out = to_float(split.calibration.images)
    assert torch.equal(run.held_out_images, split.calibration.images)
    for name in OF_CLASSES:
        found = build_localizer(name, run.model).fit(split.train.images).localize(held_out)
        assert torch.allclose(run.calibration(name).scores, found.score, rtol=1e-5)
        assert torch.allclose(run.calibration(name).peaks, found.maps.flatten(1).max(1).values, rtol=1e-5)


# --- verdicts and explanations, by hand ---


@pytest.mark.parametrize("name", sorted(OF_CLASSES))
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_a_verdict_by_hand(run: Run, images: Tensor, name: str, rate: float) -> None:
    verdict = run.localize(images, name, rate)
    held_out = run.calibration(name).scores.tolist()
    for i, score in enumerate(verdict.score.tolist()):
        p_value = (1 + sum(value >= score for value in held_out)) / (len(held_out) + 1)
        assert float(verdict.p_value[i]) == p_value
        assert bool(verdict.flagged[i]) == (p_value <= rate) == (score > verdict.score_threshold)
    assert torch.equal(verdict.masks, verdict.maps > verdict.pixel_threshold)
    assert verdict.maps.shape == verdict.masks.shape == (len(images), 28, 28)
    assert verdict.localizer == name


def test_with_too_few_held_out_images_nothing_is_flagged(run: Run, images: Tensor) -> None:
    assert len(run.calibration("deviation").scores) == 36
    verdict = run.localize(images, false_alarms=0.02)  # fewer than 1 in 37
    assert verdict.score_threshold == verdict.pixel_threshold == float("inf")
    assert not verdict.flagged.any()
    assert not verdict.masks.any()


def test_which_latents_fired_by_hand(run: Run, images: Tensor) -> None:
    found = run.explain(images)
    split = load_split(run.config)
    with torch.no_grad():
        normal_mean, normal_logvar = run.model.encode(to_float(split.calibration.images))
        mean, logvar = run.model.encode(images)

    def nats(m: Tensor, lv: Tensor) -> Tensor:
        return 0.5 * (m**2 + lv.exp() - 1 - lv)

    z_scores = (mean - normal_mean.mean(0)) / normal_mean.std(0)
    assert torch.allclose(found.z_scores, z_scores, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.fired, (found.z_scores.abs() >= 3) & (nats(mean, logvar) > 0.05))
    assert torch.equal(found.active, nats(normal_mean, normal_logvar).mean(0) > 0.05)
    assert found.fired.any(), "a white image is far from any 1"
    assert not found.fired.all()


def test_explain_takes_another_attention(run: Run, images: Tensor) -> None:
    found = run.explain(images, run.attend("encoder.relu1", latents=[2, 5], variant="expvae"))
    assert found.maps.layer == "encoder.relu1"
    assert found.maps.per_latent.shape == (len(images), 2, 14, 14)
    assert found.z_scores.shape == (len(images), 8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: run.localize(torch.zeros(1, 1, 28, 28), "guess"), "deviation"),
        (lambda run: run.localize(torch.zeros(1, 1, 28, 28), false_alarms=0), "between 0 and 1"),
        (lambda run: run.localize(torch.zeros(1, 1, 27, 28)), "(B, 1, 28, 28)"),
        (lambda run: run.localize(torch.zeros(28, 28)), "got (28, 28)"),
        (lambda run: run.localize(torch.zeros(0, 1, 28, 28), "reconstruction"), "at least one"),
        (lambda run: run.explain(torch.zeros(0, 1, 28, 28)), "at least one"),
        (lambda run: run.explain(torch.zeros(1, 3, 28, 28)), "(B, 1, 28, 28)"),
        (lambda run: run.localize(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)), "to_float"),
        (lambda run: run.explain(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)), "to_float"),
        (lambda run: run.reconstruct(torch.zeros(1, 1, 28, 28, dtype=torch.float64)), "to_float"),
        (lambda run: run.explain([1]), "list"),  # type: ignore[arg-type]
        (lambda run: run.localize(None), "NoneType"),  # type: ignore[arg-type]
        (lambda run: run.localize(torch.zeros(1, 1, 28, 28, device="meta")), "in memory"),
        (lambda run: run.localize(torch.full((1, 1, 28, 28), 255.0)), "255"),
        (lambda run: run.explain(torch.full((1, 1, 28, 28), float("nan"))), "nan"),
        (lambda run: run.localizer("guess"), "deviation"),
        (lambda run: run.calibration("guess"), "deviation"),
        (lambda run: run.attend("conv9"), "encoder.relu2"),
    ],
)
def test_misuse_is_one_line(run: Run, call: Callable[[Run], object], says: str) -> None:
    with pytest.raises(UsageError) as error:
        call(run)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# --- damaged runs ---


def test_the_copy_to_damage_is_whole(tiny_copy: Path) -> None:
    assert load_run(tiny_copy).metrics["epochs"] == 3


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_or_said_how_to_go_on(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).unlink()
    message = refused(tiny_copy)
    assert str(tiny_copy) in message
    if name == "metrics.json":
        assert f"vaelens train digits --out {tiny_copy} --resume" in message
    else:
        assert name in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\x00\xff[{", b"{}", b"[]", b"null", b"\xff" * 1000], ids=repr)
def test_a_file_with_something_else_in_it_is_named(tiny_copy: Path, name: str, content: bytes) -> None:
    (tiny_copy / name).unlink()
    (tiny_copy / name).write_bytes(content)
    assert str(tiny_copy / name) in refused(tiny_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(tiny_copy: Path, name: str) -> None:
    content = (tiny_copy / name).read_bytes()
    (tiny_copy / name).unlink()
    (tiny_copy / name).write_bytes(content[: len(content) // 2])
    assert str(tiny_copy / name) in refused(tiny_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_should_be_is_refused(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).unlink()
    (tiny_copy / name).mkdir()
    assert str(tiny_copy) in refused(tiny_copy)


def test_places_without_a_run_are_refused(tmp_path: Path) -> None:
    assert "there is no run" in refused(tmp_path / "nowhere")
    assert "has no config.yaml" in refused(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "has no config.yaml" in refused(tmp_path / "file")
    assert "there is no run" in refused(tmp_path / "a\nb")


def test_a_command_to_go_on_can_be_pasted_into_a_shell(tiny_copy: Path) -> None:
    (tiny_copy / "metrics.json").unlink()
    moved = tiny_copy.rename(tiny_copy.parent / "my 'run'")
    import shlex

    command = refused(moved).split("go on with: ")[1]
    assert shlex.split(command) == ["vaelens", "train", "digits", "--out", str(moved), "--resume"]


@pytest.mark.parametrize("version", [0, 1, 99, "2", 2.5, None, True])
def test_another_format_is_refused(tiny_copy: Path, version: object) -> None:
    change(tiny_copy, "format", to=version)
    message = refused(tiny_copy)
    assert f"format {version!r}" in message
    assert "train the run again" in message


def bomb(opens: str, closes: str, end: str) -> str:
    """A few lines of YAML that stand for 9^9 values."""
    lines = [f"a0: &a0 {opens.replace('<<: [', 'x: 1').replace('[', '[1')}{closes.replace(']}', '}')}"]
    lines += [f"a{n}: &a{n} {opens}{', '.join([f'*a{n - 1}'] * 9)}{closes}" for n in range(1, 10)]
    return "\n".join([*lines, end])


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch bomb']",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [bomb]]",
        "format: 2\ndataset: !!python/name:os.system",
        "- a\n- list\n",
        "text",
        "3",
        "format: 2",
        "format: 2\ndataset: 3",
        "? [1, 2]\n: 3\nformat: 2",
        "a: [1,",
        "a: &a [*a]\nformat: 2",
        "[" * 5000,
        "format: 2\nformat: 2\n\tx",
        "format: 0x" + "f" * 5000,
        "format: " + "1" * 70_000,
        pytest.param(bomb("[", "]", "format: *a9"), id="bomb of lists"),
        pytest.param(bomb("{<<: [", "]}", "format: 2"), id="bomb of merged mappings"),
    ],
)
def test_hostile_configurations_are_refused_and_not_executed(
    tiny_copy: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_copy)
    (tiny_copy / "config.yaml").write_text(text)
    assert "config.yaml" in refused(tiny_copy)
    assert not (tiny_copy / "bomb").exists()


def keys_of(values: Any, *above: str) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield *above, key
        if isinstance(value, dict):
            yield from keys_of(value, *above, key)


def test_every_value_of_a_configuration_is_checked(tiny_copy: Path, younger_settings: dict[str, Any]) -> None:
    """Each in turn missing, or something else: refused in one line, or no harm at all; never another error."""
    path = tiny_copy / "config.yaml"
    whole = yaml.safe_load(path.read_text())
    count = 0
    for keys in keys_of(whole):
        for value in ("missing", None, "x", -1, 1.5, [], {}, [1, 2], True, float("nan"), 10**30):
            values = copy.deepcopy(whole)
            inner = values
            for key in keys[:-1]:
                inner = inner[key]
            if value == "missing":
                del inner[keys[-1]]
            else:
                inner[keys[-1]] = value
            path.write_text(yaml.safe_dump(values))
            message = reason_to_refuse(tiny_copy)
            if message is None:
                assert value != "missing" or keys[-1] in younger_settings, keys
                assert keys[0] != "network", (keys, value)
            else:
                assert "\n" not in message, (keys, value)
                assert str(path) in message, (keys, value)
                count += 1
    assert count > 150


def reason_to_refuse(folder: Path) -> str | None:
    try:
        RunConfig.load(folder)
    except RunError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("explain", "layer"), "conv9"),
        (("explain", "layer"), "encoder.relu9"),
        (("network", "latent_dim"), 9),
        (("network", "input_shape"), [1, 32, 32]),
        (("network", "input_shape"), [1, 27, 28]),
        (("network", "input_shape"), [1, 28]),
        (("network", "input_shape"), ["a", "b", "c"]),
        (("network", "name"), "ucsd"),
        (("network", "name"), "lenet"),
        (("dataset", "name"), "fashion"),
        (("dataset", "root"), 5),
        (("dataset", "normal"), "1"),
        (("training", "epochs"), "many"),
        (("extra",), 1),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tiny_copy: Path, keys: tuple[str, ...], value: object) -> None:
    change(tiny_copy, *keys, to=value)
    assert "train the run again" in refused(tiny_copy)


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["pickle", "torch", "zip"])
def test_nothing_is_ever_unpickled(tiny_copy: Path, name: str, how: str) -> None:
    bomb = Bomb(tiny_copy.parent / "bomb")
    buffer = io.BytesIO()
    if how == "pickle":
        buffer.write(pickle.dumps(bomb))
    elif how == "torch":
        torch.save({"x": bomb}, buffer)
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(bomb))
    (tiny_copy / name).unlink()
    (tiny_copy / name).write_bytes(buffer.getvalue())
    assert str(tiny_copy / name) in refused(tiny_copy)
    assert not bomb.place.exists()
    pickle.loads(pickle.dumps(bomb))
    assert bomb.place.exists(), "the bomb is live"


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: w.update({"mean.weight": w["mean.weight"][:4].clone()}),
        lambda w: w.pop("mean.bias"),
        lambda w: w.update({"more": torch.zeros(1)}),
        lambda w: w.update({"mean.weight": w["mean.weight"].double()}),
        lambda w: w.update({"mean.weight": w["mean.weight"].fill_(float("nan"))}),
        lambda w: w.clear() or w.update({"x": torch.zeros(0)}),
    ],
    ids=["another shape", "one missing", "one more", "another type", "not finite", "others"],
)
def test_weights_of_another_network_are_refused(tiny_copy: Path, damage: Callable[[dict[str, Tensor]], None]) -> None:
    replace_weights(tiny_copy, damage)
    assert "model.safetensors does not fit config.yaml" in refused(tiny_copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("score.kl"),
        lambda c: c.pop("normal.images"),
        lambda c: c.pop("held_out.images"),
        lambda c: c.update({"held_out.images": c["held_out.images"].float()}),
        lambda c: c.update({"held_out.images": c["held_out.images"][:5].clone()}),
        lambda c: c.update({"normal.images": c["normal.images"].float()}),
        lambda c: c.update({"normal.images": c["normal.images"][:, :, :20].clone()}),
        lambda c: c.update({"normal.images": c["normal.images"][:1].clone()}),
        lambda c: c.update({"held_out.mean": c["held_out.mean"][:, :4].clone()}),
        lambda c: c.update({"held_out.mean": torch.tensor(1.0)}),
        lambda c: c.update({"peak.deviation": c["peak.deviation"][:3].clone()}),
        lambda c: c.update({"peak.deviation": c["peak.deviation"].double()}),
        lambda c: c.update({"score.kl": c["score.kl"].to(torch.float8_e5m2)}),
        lambda c: c.update({"score.deviation": c["score.deviation"] * float("nan")}),
        lambda c: c.update({name: value[:1].clone() for name, value in c.items() if name != "normal.images"}),
    ],
)
def test_the_calibration_of_another_run_is_refused(tiny_copy: Path, damage: Callable[[dict[str, Tensor]], None]) -> None:
    replace_weights(tiny_copy, damage, "calibration.safetensors")
    assert "calibration.safetensors does not fit the run" in refused(tiny_copy)


@pytest.mark.parametrize("key", ["epochs", "seconds", "active_latents", "mean_kl", "losses", "images", "stopped_early"])
def test_metrics_that_lack_something_are_refused(tiny_copy: Path, key: str) -> None:
    path = tiny_copy / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics[key]
    path.write_text(json.dumps(metrics))
    assert key in refused(tiny_copy)
    path.write_text(json.dumps({**metrics, key: "x"}))
    assert (key == "stopped_early") or str(path) in refused(tiny_copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.update(epochs=float("inf")),
        lambda m: m.update(active_latents=float("inf")),
        lambda m: m["mean_kl"].__setitem__(0, 10**400),
        lambda m: m["losses"].update({"val/loss": "low"}),
        lambda m: m["losses"].update({"val/loss": None}),
        lambda m: m.update(losses=[1.0]),
    ],
)
def test_metrics_that_are_no_numbers_are_refused(tiny_copy: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    path = tiny_copy / "metrics.json"
    metrics = json.loads(path.read_text())
    damage(metrics)
    path.write_text(json.dumps(metrics))
    assert str(path) in refused(tiny_copy)


# --- saving ---


def test_a_run_that_is_trained_further_is_incomplete_until_its_end(
    tiny_copy: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one training with the calibration of another would give wrong p-values without anybody noticing."""
    import vaelens.runs.folder as folder_module

    written: list[str] = []
    write_bytes = folder_module.write_bytes

    def stopping(path: Path, content: bytes, durable: bool = False) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write_bytes(path, content, durable)

    monkeypatch.setattr(folder_module, "write_bytes", stopping)
    with pytest.raises(KeyboardInterrupt):
        save_run(tiny_copy, run.model, load_file(tiny_copy / "calibration.safetensors"), run.metrics)
    assert written == ["model.safetensors"]
    assert "--resume" in refused(tiny_copy)


def test_saving_to_a_full_disk_is_one_line_and_leaves_no_half_file(
    tiny_copy: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = (tiny_copy / "model.safetensors").stat().st_ino
    with pytest.raises(OutputError, match=r"the disk is full: could not write .*model\.safetensors"):
        save_run(tiny_copy, run.model, load_file(tiny_copy / "calibration.safetensors"), run.metrics)
    assert (tiny_copy / "model.safetensors").stat().st_ino == before
    assert {file.name for file in tiny_copy.iterdir()} <= {*FILES, ".lock"}


def test_saved_weights_do_not_depend_on_how_they_lie_in_memory(tiny_copy: Path, run: Run) -> None:
    calibration = load_file(tiny_copy / "calibration.safetensors")
    turned = {name: value.t().contiguous().t() if value.ndim == 2 else value for name, value in calibration.items()}
    save_run(tiny_copy, run.model, turned, run.metrics)
    assert (tiny_copy / "calibration.safetensors").read_bytes() == save(calibration)
