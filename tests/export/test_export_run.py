"""A run's file: what it holds, what it says about itself, and what is done where something cannot be."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vaelens.data.images import to_float
from vaelens.errors import DataError, UsageError
from vaelens.export import ExportedModel, RunGraph, export_run, load
from vaelens.export.chosen import choose
from vaelens.export.described import describe
from vaelens.export.onnx_file import to_onnx
from vaelens.localizers import Calibration
from vaelens.output import OutputError
from vaelens.runs import Run, load_run
from vaelens.runs.localizers import fitted
from vaelens.runs.train import train_run

ROOT = Path(__file__).parents[2]
ALL = ["latent_maps", "mean", "logvar", "z_scores", "fired", "maps", "score", "p_value", "flagged", "masks"]
Files = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Files:
    """What the command wrote of the tiny run, and what it printed."""
    file = tmp_path_factory.mktemp("export") / "model.onnx"
    done = cli("export", tiny_run, file, "--false-alarms", "0.1", "--json")
    assert done.code == 0, done.err
    assert done.err == ""
    return file, json.loads(done.out)


@pytest.fixture(scope="module")
def model(exported: Files) -> ExportedModel:
    return load(exported[0])


def test_the_command_says_what_it_wrote(exported: Files) -> None:
    file, said = exported
    assert said["path"] == str(file)
    assert said["size"] == file.stat().st_size
    assert said["outputs"] == ALL
    assert (said["takes"], said["dtype"]) == (["batch", 28, 28, 1], "uint8")
    assert (said["localizer"], said["layer"]) == ("deviation", "encoder.relu2")
    assert set(said["checked"]) == {"latent_maps", "mean", "logvar", "maps", "score"}
    assert all(0 < off < 1e-4 for off in said["checked"].values())


def test_it_is_a_file_of_onnx_and_tells_nothing_of_this_machine(exported: Files) -> None:
    import onnx

    content = exported[0].read_bytes()
    onnx.checker.check_model(content, full_check=True)
    proto = onnx.load_from_string(content)
    assert [value.name for value in proto.graph.input] == ["images"]
    assert [value.name for value in proto.graph.output] == ALL
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in (*proto.graph.input, *proto.graph.output)} == {"batch"}
    assert {one.domain for one in proto.opset_import} <= {"", "ai.onnx"}
    assert sum(node.op_type == "Conv" for node in proto.graph.node) == 2  # encoded once, however many results need it
    assert b"site-packages" not in content
    assert str(ROOT).encode() not in content
    assert str(exported[0].parent).encode() not in content


def test_metadata_say_how_images_are_prepared_and_what_comes_out(model: ExportedModel, run: Run) -> None:
    about = model.metadata
    assert about["run"] == {"name": "digits", "normal": 1}
    assert about["input"]["shape"] == ["batch", 28, 28, 1]
    assert about["input"]["channels"] == "grey"
    assert "28x28" in about["preprocessing"]["before"]
    assert about["labels"] == ["normal", "abnormal"]
    assert list(about["outputs"]) == ALL
    assert about["false_alarms"] == 0.1
    assert about["active"] == run.active.tolist()
    calibration = run.calibration("deviation")
    assert about["score_threshold"] == calibration.score_threshold(0.1)
    assert about["pixel_threshold"] == calibration.pixel_threshold(0.1)
    assert (about["held_out"], about["normals"]) == (len(run.held_out_images), len(run.normal_images))


def test_held_out_images_have_the_p_values_of_the_library(model: ExportedModel, run: Run) -> None:
    """Each ties with itself, where rounding would decide."""
    images = run.held_out_images
    got, wanted = model(images.permute(0, 2, 3, 1).numpy()), run.localize(to_float(images), "deviation", 0.1)
    assert np.array_equal(got["p_value"], wanted.p_value.numpy())
    assert np.array_equal(got["flagged"], wanted.flagged.numpy())
    assert (got["masks"] != wanted.masks.numpy()).sum() <= 1  # the pixel that the threshold comes from
    assert wanted.masks.any()
    assert 0 < got["flagged"].sum() <= 0.1 * len(images)


def test_black_white_and_noise(model: ExportedModel, run: Run) -> None:
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    images[0], images[1] = 0, 255
    got, wanted = model(images.permute(0, 2, 3, 1).numpy()), run.localize(to_float(images), "deviation")
    assert np.allclose(got["score"], wanted.score.numpy(), rtol=1e-4)
    assert np.allclose(got["maps"], wanted.maps.numpy(), atol=1e-4 * float(wanted.maps.max()))


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((1, 32, 28, 1), np.uint8), r"uint8 \(1, 32, 28, 1\)"),
        (np.zeros((1, 1, 28, 28), np.uint8), r"uint8 \(1, 1, 28, 28\)"),
        (np.zeros((28, 28, 1), np.uint8), r"uint8 \(28, 28, 1\)"),
        (np.zeros((2, 28, 28, 1), np.float32), r"float32 \(2, 28, 28, 1\)"),
        (np.zeros((0, 28, 28, 1), np.uint8), r"uint8 \(0, 28, 28, 1\)"),
        (np.uint8(3), r"uint8 \(\)"),
        ([[1]], "list"),
    ],
)
def test_images_of_a_wrong_size_or_type_are_refused_in_one_line(images: Any, got: str, model: ExportedModel) -> None:
    with pytest.raises(UsageError, match=rf"model\.onnx takes uint8 images \(B, 28, 28, 1\) with B from 1 on, got {got}$"):
        model(images)


def test_images_that_lie_otherwise_in_memory_are_taken(model: ExportedModel) -> None:
    images = np.random.default_rng(0).integers(0, 256, (28, 28, 1, 3), dtype=np.uint8).transpose(3, 0, 1, 2)
    assert np.array_equal(model(images)["score"], model(images.copy())["score"])


def test_what_is_no_export_is_refused_in_one_line(exported: Files, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(DataError, match=r"cannot read .*nothing\.onnx: No such file"):
        load(tmp_path / "nothing.onnx")
    with pytest.raises(DataError, match="Is a directory"):
        load(tmp_path)
    for content in (b"", b"no model", exported[0].read_bytes()[:5000]):
        (tmp_path / "damaged.onnx").write_bytes(content)
        with pytest.raises(DataError, match=r"damaged\.onnx (is no file of ONNX|was not written by)") as error:
            load(tmp_path / "damaged.onnx")
        assert "\n" not in str(error.value)
    for kind, shape, metadata in (
        ("FLOAT", ["batch", 4, 4, 1], None),
        ("FLOAT", ["batch", 4, 4, 1], "{nothing"),
        ("FLOAT", ["batch", 4, 4, 1], "3"),
        ("FLOAT", ["batch", "height", 4, 1], "{}"),
        ("INT64", ["batch", 4, 4, 1], "{}"),
    ):
        value, other = (onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape) for name in "xy")
        graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", [value], [other])
        foreign = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        onnx.helper.set_model_props(foreign, {} if metadata is None else {"vaelens": metadata})
        onnx.save(foreign, tmp_path / "foreign.onnx")
        with pytest.raises(DataError, match="was not written by vaelens export"):
            load(tmp_path / "foreign.onnx")


def test_the_example_needs_onnxruntime_and_numpy_alone(exported: Files, run: Run, tmp_path: Path) -> None:
    example = ROOT / "examples" / "onnx_numpy.py"
    assert len(example.read_text().splitlines()) <= 32
    for i, image in enumerate(run.held_out_images[:3]):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i}.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)).save(tmp_path / "noise.png")
    files = sorted(map(str, tmp_path.glob("*.png")))
    code = "import runpy, sys; sys.modules.update(vaelens=None, torch=None); sys.argv[:1] = []; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(example), str(exported[0]), *files], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == files
    assert ": abnormal, " in lines[-1]
    verdict = run.localize(to_float(run.held_out_images), "deviation")  # at once, as they were calibrated
    for line, p, score in zip(lines[:3], verdict.p_value.tolist(), verdict.score.tolist(), strict=False):
        assert f"p = {p:.3f}, " in line
        assert float(re.findall(r"score ([\d.]+)", line)[0]) == pytest.approx(score, abs=2e-3)


def test_the_example_reads_files_as_the_library_does_or_says_that_it_cannot(
    exported: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaelens.data.decode import read_image

    def said(*files: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["onnx_numpy.py", str(exported[0]), *map(str, files)])
        try:
            runpy.run_path(str(ROOT / "examples" / "onnx_numpy.py"))
        except SystemExit as error:
            return str(error)
        return capsys.readouterr().out

    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    upright = read_image(tmp_path / "turned.png", 1, (28, 28), convert=True).permute(1, 2, 0)[None].numpy()
    assert f"score {load(exported[0])(upright)['score'][0]:.3f}, " in said(tmp_path / "turned.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(tmp_path / "clear.png")
    for name in ("deep.png", "clear.png"):
        assert said(tmp_path / name).startswith(f"{tmp_path / name}: pixels of more than 8 bits or transparent")
    assert said().startswith("takes image files")


@pytest.mark.parametrize(
    "spec", ["normal-difference", "kl", "attention:score=overall:variant=expvae", "attention:variant=hirescam"]
)
def test_other_localizers(spec: str, run: Run) -> None:
    import onnxruntime

    graph = RunGraph(run, None, run.localizer(spec), run.calibration(spec)).eval()
    images = torch.cat([run.held_out_images[:3], torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)])
    layers_last = images.permute(0, 2, 3, 1).contiguous()
    content = to_onnx(graph, layers_last[:2], tuple(graph.results(layers_last[:2])), {})
    session = onnxruntime.InferenceSession(content)
    maps, score, p_value = session.run(["maps", "score", "p_value"], {"images": layers_last.numpy()})
    wanted = run.localize(to_float(images), spec)
    assert np.allclose(maps, wanted.maps.numpy(), atol=1e-4 * float(wanted.maps.max()))
    assert np.allclose(score, wanted.score.numpy(), rtol=1e-4)
    assert np.array_equal(p_value, wanted.p_value.numpy())


def test_a_layer_whose_maps_need_gradients(
    tiny_copy: Path, tmp_path: Path, cli: Callable[..., Any], fails: Callable[..., str]
) -> None:
    """The file has the encoder and reconstruction scores, and both the command and the file say so."""
    config = yaml.safe_load((tiny_copy / "config.yaml").read_text())
    config["explain"]["layer"] = "encoder.conv2"
    (tiny_copy / "config.yaml").write_text(yaml.safe_dump(config))
    done = cli("export", tiny_copy, tmp_path / "model.onnx")
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "vaelens: the maps of layer 'encoder.conv2' need gradients, which a file of ONNX cannot hold: the file has the encoder "
        "and the scores of 'reconstruction' instead; for maps of the last layer pass --localizer deviation:layer=none"
    ]
    assert "gives     mean, logvar, z_scores, fired, maps, score, p_value, flagged, masks" in done.out
    model, run = load(tmp_path / "model.onnx"), load_run(tiny_copy)
    assert "need gradients" in model.metadata["why_no_maps"]
    assert (model.metadata["layer"], model.metadata["localizer"]) == (None, "reconstruction")
    images = run.held_out_images
    got, wanted = model(images.permute(0, 2, 3, 1).numpy()), run.localize(to_float(images), "reconstruction")
    assert np.allclose(got["score"], wanted.score.numpy(), rtol=1e-4)
    assert np.array_equal(got["p_value"], wanted.p_value.numpy())
    asked = fails("export", tiny_copy, tmp_path / "other.onnx", "--localizer", "deviation", code=2)
    assert asked.startswith("localizer 'deviation' cannot be exported: the maps of layer 'encoder.conv2' need gradients")
    chosen = choose(run, "deviation:layer=none")
    assert chosen.attention is not None
    assert chosen.attention.layer == "encoder.relu2"


def test_a_main_localizer_that_is_no_forward_pass_is_replaced_and_that_is_said(folder_run: Path) -> None:
    chosen = choose(load_run(folder_run))
    assert chosen.spec == "deviation"
    assert chosen.notes == ("localizer 'learned' is no single forward pass and cannot be exported; the file has 'deviation'",)


def test_an_autoencoder_has_scores_and_no_latents(defect_root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"objective": "ae", "size": 32, "held_out": 0.5, "latent_dim": 5, "epochs": 1, "batch_size": 8}
    run = train_run(tmp_path / "run", "folder", root=defect_root, progress=False, localizer="ae-l2", **options)
    written = export_run(run, tmp_path / "model.onnx")
    assert written.outputs == ("maps", "score", "p_value", "flagged", "masks")
    assert (written.localizer, written.layer) == ("ae-l2", None)
    images = run.held_out_images
    got, wanted = load(written.path)(images.permute(0, 2, 3, 1).numpy()), run.localize(to_float(images))
    assert np.allclose(got["maps"], wanted.maps.numpy(), atol=1e-6)
    assert np.array_equal(got["flagged"], wanted.flagged.numpy())
    ssim = export_run(run, tmp_path / "ssim.onnx", localizer="ae-ssim", false_alarms=0.1)
    got, wanted = load(ssim.path)(images.permute(0, 2, 3, 1).numpy()), run.localize(to_float(images), "ae-ssim", 0.1)
    assert np.allclose(got["maps"], wanted.maps.numpy(), atol=1e-5)
    assert np.allclose(got["score"], wanted.score.numpy(), atol=1e-5)
    assert np.array_equal(got["flagged"], wanted.flagged.numpy())
    assert wanted.flagged.any()
    with pytest.raises(UsageError, match="a run of objective 'anogan' has no encoder to export"):
        choose(Run(run.path, replace(run.config, objective="anogan"), run.model, {}, {}))
    with pytest.raises(UsageError, match="'deviation' takes a VAE"):
        choose(run, "deviation")


def test_fewer_normal_images_are_calibrated_anew(run: Run) -> None:
    chosen = choose(run, "deviation", normals=30)
    assert chosen.normals == 30
    assert chosen.notes == (
        f"thresholds are measured anew with 30 of the {len(run.normal_images)} normal images to compare with",
    )
    assert chosen.calibration is not None
    there = len(run.normal_images)
    some = run.normal_images[[at * there // 30 for at in range(30)]]
    wanted = Calibration.measure(fitted("deviation", run.model, run.config, some), run.held_out_images)
    assert torch.equal(chosen.calibration.scores, wanted.scores)
    assert not torch.equal(wanted.scores, run.calibration("deviation").scores)
    with pytest.raises(UsageError, match=f"at most the {there} normal images that the run keeps, got {there + 1}"):
        choose(run, "deviation", normals=there + 1)
    with pytest.raises(UsageError, match="--normals is of localizer 'deviation'"):
        choose(run, "reconstruction", normals=30)
    with pytest.raises(UsageError, match="normals must be a whole number from 1 on, got 0"):
        choose(run, "deviation", normals=0)


def test_several_frames_are_evened_out_each_by_itself(made_run: Callable[..., Run]) -> None:
    from vaelens.data.brightness import normalise

    clips = torch.randint(0, 200, (60, 3, 32, 32), dtype=torch.uint8)
    clips += torch.tensor([0, 20, 50], dtype=torch.uint8)[:, None, None]
    prepared = torch.stack([torch.cat([normalise(frame) for frame in clip.split(1)]) for clip in clips])
    run = made_run("compact", prepared, channels=1, frames=3, brightness=True)
    graph = RunGraph(run, run.attention, run.localizer("deviation"), run.calibration("deviation")).eval()
    with torch.no_grad():
        got = graph.results(clips[:9].permute(0, 2, 3, 1))
    wanted = run.localize(to_float(prepared[:9]), "deviation")
    assert torch.allclose(got["score"], wanted.score, rtol=1e-5)
    assert torch.equal(got["p_value"], wanted.p_value)
    about = describe(run, choose(run, "deviation"), tuple(got), 0.05)
    assert about["input"]["channels"].startswith("3 neighbouring grey frames")


def test_at_a_rate_that_nothing_can_be_flagged_at_nothing_is(run: Run) -> None:
    graph = RunGraph(run, None, run.localizer("reconstruction"), run.calibration("reconstruction"), false_alarms=0.001)
    got = graph.results(torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8))
    assert not got["flagged"].any()
    assert not got["masks"].any()


def test_places_that_are_taken_or_cannot_be_written(
    tiny_run: Path, exported: Files, tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = exported[0], exported[0].stat().st_mtime_ns
    assert "exists; choose another name, or pass --overwrite" in fails("export", tiny_run, file, code=2)
    assert file.stat().st_mtime_ns == before
    assert "is a folder; name a file in it" in fails("export", tiny_run, tmp_path, code=2) or not tmp_path.suffix
    (tmp_path / "model.onnx").mkdir()
    assert "is a folder; name a file in it" in fails("export", tiny_run, tmp_path / "model.onnx", code=2)
    assert "ends in .onnx, such as" in fails("export", tiny_run, tmp_path / "model.pt", code=2)
    assert "there is no folder" in fails("export", tiny_run, tmp_path / "no" / "m.onnx", code=2)
    assert "cannot write" in fails("export", tiny_run, "/proc/model.onnx", code=1)
    assert "no single forward pass" in fails("export", tiny_run, tmp_path / "m.onnx", "--localizer", "matching", code=2)
    assert "unknown localizer" in fails("export", tiny_run, tmp_path / "m.onnx", "--localizer", "nothing", code=2)
    assert "between 0 and 1" in fails("export", tiny_run, tmp_path / "m.onnx", "--false-alarms", "0", code=2)
    monkeypatch.setattr("vaelens.export.writing.LIMIT", 1000)
    assert "one of ONNX has room for 2 GB" in fails("export", tiny_run, tmp_path / "m.onnx", code=2)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert fails("export", tiny_run, tmp_path / "m.onnx", code=2).endswith("not installed: pip install 'vaelens[onnx]'")
    with pytest.raises(UsageError, match="pip install onnxruntime"):
        load(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_does_not_give_what_torch_gives_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.export.checked.TOLERANCE", 1e-12)
    with pytest.raises(OutputError, match=r"is not written: its \w+ are \de-\d+ of their range from torch's"):
        export_run(run, tmp_path / "model.onnx", localizer="reconstruction")
    assert not list(tmp_path.iterdir())


def test_the_table_of_speed_is_what_the_benchmark_kept() -> None:
    kept = json.loads((ROOT / "benchmarks/results/export.json").read_text())
    shown = (ROOT / "docs/ship.md").read_text()
    ways = ("torch eager", "torch.compile", "onnxruntime")
    assert list(kept) == ["mnist", "ucsd", "mvtec", "dsprites", "compact"]
    for network, found in kept.items():
        assert max(found["checked"].values()) < 1e-4
        for batch, seconds in found["seconds"].items():
            cells = [f"{1e3 * seconds[way]:.2f}" for way in ways]
            cells += [f"{seconds[way] / seconds['onnxruntime']:.2f}" for way in ways[:2]]
            assert f"| {network} | {batch} | {' | '.join(cells)} | {found['bytes'] / 1e6:.1f} |" in shown


def test_opening_a_file_takes_no_torch(exported: Files) -> None:
    code = f"from vaelens.export import load; print(load({str(exported[0])!r}).input_shape)"
    code = f"import sys; sys.modules['torch'] = None; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(28, 28, 1)", done.stderr
