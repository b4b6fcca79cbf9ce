"""Every network exported: onnxruntime gives what the library does, on 100 real images each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelens.data.brightness import normalise
from vaelens.data.images import to_float
from vaelens.data.mnist import load as load_mnist
from vaelens.export import export_run, load
from vaelens.runs import Run, load_run

Made = Callable[..., Run]
Images = Callable[[tuple[int, int]], tuple[Tensor, Tensor]]
RANGE = 1e-4


def on_a_kink(run: Run, values: Tensor) -> Any:
    """Images (N,) one of whose hidden units is 0 up to rounding: by which side it falls, a gradient is another.

    Of such an image torch itself gives other maps alone than in a batch.
    """
    least: list[Tensor] = []

    def before(module: torch.nn.Module, args: tuple[Tensor]) -> None:
        units = args[0].flatten(1)
        least.append(units.abs().amin(1) / units.std())

    assert run.attention.plan.head is not None
    (stage,) = run.attention.plan.head.activations
    handle = stage.module.register_forward_pre_hook(before)
    with torch.no_grad():
        run.model.encode(values)
    handle.remove()
    return (least[0] < 3e-6).numpy()


def agree(run: Run, file: Path, images: Tensor, prepared: Tensor | None = None) -> dict[str, Any]:
    """Hold the results for images (B, C, H, W), uint8, against the library's for them as prepared."""
    model = load(file)
    layers_last = images.permute(0, 2, 3, 1).numpy()
    got = model(layers_last)
    values = to_float(images if prepared is None else prepared)
    sure = ~on_a_kink(run, values)
    assert sure.sum() >= len(images) - 2
    explained = run.explain(values)
    wanted = {
        "latent_maps": explained.maps.per_latent,
        "mean": explained.maps.mean,
        "logvar": explained.maps.logvar,
        "z_scores": explained.z_scores,
    }
    decisions = {"fired": explained.fired}
    if "score" in model.outputs:
        verdict = run.localize(values, "deviation")
        wanted |= {"maps": verdict.maps, "score": verdict.score}
        decisions |= {"p_value": verdict.p_value, "flagged": verdict.flagged}
        # A pixel may lie on the threshold, up to rounding, and then be on the other side of it.
        near = ((verdict.maps / verdict.pixel_threshold - 1).abs() < 1e-5).numpy()
        other = (got["masks"] != verdict.masks.numpy())[sure]
        assert not (other & ~near[sure]).any()
        assert other.mean() < 1e-5
    assert set(model.outputs) == {*wanted, *decisions, *(["masks"] if "score" in wanted else [])}
    for name, value in wanted.items():
        expected = value.numpy()
        assert got[name].shape == expected.shape
        assert got[name].dtype == np.float32
        off = np.abs(got[name] - expected)[sure].max() / (expected.max() - expected.min())
        assert off < RANGE, f"{name}: {off:.1e} of the range"
    for name, value in decisions.items():
        assert np.array_equal(got[name][sure], value.numpy()[sure]), name
    at = int(sure.nonzero()[0][3])
    one = model(layers_last[at : at + 1])
    for name in wanted:
        assert np.allclose(one[name], got[name][at : at + 1], rtol=1e-4, atol=1e-5 * float(np.abs(got[name]).max())), name
    return got


def test_mnist(mnist_runs: dict[int, Path], small_mnist: Path, tmp_path: Path) -> None:
    """A trained run, on test digits of all classes: most are flagged, and not all."""
    run = load_run(mnist_runs[1])
    written = export_run(run, tmp_path / "model.onnx")
    assert written.localizer == "deviation"
    assert not written.notes
    _, test = load_mnist(small_mnist)
    got = agree(run, written.path, test.images[:100])
    assert 20 < got["flagged"].sum() < 100


def test_ucsd(made_run: Made, pedestrians: Images, tmp_path: Path) -> None:
    normal, test = pedestrians((40, 60))
    assert len(test) == 100
    run = made_run("ucsd", normal)
    written = export_run(run, tmp_path / "model.onnx", localizer="deviation")
    agree(run, written.path, test)


def test_mvtec(made_run: Made, screws: Images, tmp_path: Path) -> None:
    normal, test = screws((64, 64))
    assert len(test) == 100
    run = made_run("mvtec", normal)
    written = export_run(run, tmp_path / "model.onnx", localizer="deviation")
    agree(run, written.path, test)


def test_compact_with_brightness_evened_out(made_run: Made, screws: Images, tmp_path: Path) -> None:
    """The file evens out the brightness of what a camera gives; the bytes are those of the library."""
    normal, test = screws((32, 48))
    run = made_run("compact", torch.stack([normalise(image) for image in normal]), brightness=True)
    written = export_run(run, tmp_path / "model.onnx", localizer="deviation")
    darker = (test.float() * 0.6).to(torch.uint8)
    agree(run, written.path, darker, torch.stack([normalise(image) for image in darker]))
    assert "brightness" in load(written.path).metadata["preprocessing"]["inside"]


def test_dsprites_has_maps_and_codes_and_no_verdict(made_run: Made, real_data: Path, tmp_path: Path) -> None:
    tiles = np.load(real_data / "dsprites" / "sample_tiles.npz")
    images = torch.from_numpy(np.unpackbits(tiles[tiles.files[0]], axis=1).reshape(-1, 1, 64, 64) * 255)
    assert len(images) == 100
    run = made_run("dsprites", images, dataset="dsprites")
    written = export_run(run, tmp_path / "model.onnx")
    assert written.outputs == ("latent_maps", "mean", "logvar", "z_scores", "fired")
    agree(run, written.path, images)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("network", "size"), [("ucsd", (100, 100)), ("mvtec", (256, 256)), ("compact", (128, 128))])
def test_full_size(network: str, size: tuple[int, int], made_run: Made, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    normal, test = request.getfixturevalue("pedestrians" if network == "ucsd" else "screws")(size)
    run = made_run(network, normal)
    written = export_run(run, tmp_path / "model.onnx", localizer="deviation")
    agree(run, written.path, test)
