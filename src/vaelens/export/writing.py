"""`vaelens export`: a run, or the attention of any adapted model, as one file of ONNX that is checked before it is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaelens._version import __version__
from vaelens.attention import LatentAttention
from vaelens.data.files import shown
from vaelens.data.images import to_float
from vaelens.errors import UsageError
from vaelens.export.checked import check
from vaelens.export.chosen import RESIDUALS, Chosen, choose, references
from vaelens.export.described import OUTPUTS, describe
from vaelens.export.graph import AttentionGraph, RunGraph
from vaelens.export.onnx_file import LIMIT, check_installed, to_onnx, too_large
from vaelens.localizers import check_false_alarms, parse_spec
from vaelens.output import write_bytes, writing
from vaelens.runs.run import FALSE_ALARMS

if TYPE_CHECKING:
    from vaelens.runs import Run

SUFFIX = ".onnx"
_CHECKED = 8  # held-out images that the file is compared with torch on
_WORTH_SAYING = 100e6  # bytes of a file beyond which its size is said before it is made


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        size: its bytes.
        takes: the shape of the images that it takes, "batch" first.
        dtype: their type.
        outputs: the names of its results.
        localizer: whose scores it has; None for none.
        layer: whose latents' maps it has; None for none.
        checked: by result, the largest difference from torch on a few images, relative to its largest value.
        notes: what was done otherwise than one might expect, and why.
    """

    path: Path
    size: int
    takes: tuple[str | int, ...]
    dtype: str
    outputs: tuple[str, ...]
    localizer: str | None
    layer: str | None
    checked: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"path": str(self.path)}


def export_run(
    run: Run,
    path: str | Path,
    *,
    localizer: str | None = None,
    false_alarms: float = FALSE_ALARMS,
    normals: int | None = None,
    overwrite: bool = False,
    notice: Callable[[str], None] | None = None,
) -> Exported:
    """Write a run as one file of ONNX: preprocessing, encoder, maps of latents, anomaly map, score, p-value and mask.

    It takes images (B, H, W, C), uint8, B of any size; its results are `vaelens.export.OUTPUTS`. Before it is written it is run
    beside torch.

    Args:
        run: on the CPU.
        path: of the file, which ends in .onnx.
        localizer: whose maps and scores, with options if need be; None: the run's main one where it is a forward pass, else
            "deviation", and "reconstruction" where the maps need gradients.
        false_alarms: share of normal images that may be flagged: what `flagged` and `masks` are made by.
        normals: of "deviation", compare with so many normal images only, for a smaller file; thresholds are then measured anew.
        overwrite: whether a file that is there may be replaced.
        notice: called with lines for people.

    Raises:
        UsageError: a place that is taken, a localizer that cannot be exported, a rate outside (0, 1), a file beyond 2 GB, or
            packages that are not installed.
        OutputError: the file cannot be written, or does not give what torch gives.
    """
    path = _free(path, overwrite)
    check_installed()
    check_false_alarms(false_alarms)
    if run.device.type != "cpu":
        raise UsageError("a run is exported from the CPU; load it there, with load_run(path)")
    chosen = choose(run, localizer, normals)
    tell = notice or (lambda line: None)
    for line in chosen.notes:
        tell(line)
    _say_size(run, chosen, path, tell)
    graph = RunGraph(run, chosen.attention, chosen.localizer, chosen.calibration, false_alarms).eval()
    images = run.held_out_images[:_CHECKED]
    bytes_ = images.permute(0, 2, 3, 1).contiguous()
    with torch.no_grad():
        outputs = tuple(graph.results(bytes_[:2]))
    content = to_onnx(graph, bytes_[:2], outputs, describe(run, chosen, outputs, false_alarms))
    expected = _by_torch(run, chosen, images)
    found = check(content, bytes_, expected, path)
    write_bytes(path, content, durable=True)
    layer = None if chosen.attention is None else chosen.attention.layer
    takes = ("batch", *bytes_.shape[1:])
    return Exported(path, len(content), takes, "uint8", outputs, chosen.spec, layer, found, chosen.notes)


def export_attention(attention: LatentAttention, path: str | Path, images: Tensor, *, overwrite: bool = False) -> Exported:
    """Write the maps of any model's latents as one file of ONNX: images in; `latent_maps`, `mean` and `logvar` out.

    Args:
        attention: of a model in eval mode whose method is "closed_form".
        path: of the file, which ends in .onnx.
        images: two or more (B, C, H, W) as the model takes them, to trace and to check it with. The file takes such images of
            this size, B of any number.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError: maps that need gradients, a model that cannot be traced, fewer than two images, a place that is taken.
        OutputError: the file cannot be written, or does not give what torch gives.
    """
    path = _free(path, overwrite)
    check_installed()
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) < 2:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"a file is traced with images (B, C, H, W), two or more, got {got}")
    with torch.no_grad():
        maps = attention(images)
    if any(tensor.device.type != "cpu" for tensor in (images, maps.signed)):
        raise UsageError("a model is exported from the CPU; move it and its images there")
    graph = AttentionGraph(attention)
    expected = {"latent_maps": maps.per_latent, "mean": maps.mean, "logvar": maps.logvar}
    metadata: dict[str, Any] = {
        "about": "The attention maps of the latents of a variational autoencoder.",
        "vaelens": __version__,
        "input": {"name": "images", "dtype": str(images.dtype).removeprefix("torch."), "shape": ["batch", *images.shape[1:]]},
        "layer": attention.layer,
        "variant": attention.variant,
        "outputs": {name: OUTPUTS[name] for name in expected},
    }
    content = to_onnx(graph, images[:2], tuple(expected), metadata)
    found = check(content, images, expected, path)
    write_bytes(path, content, durable=True)
    takes, dtype = ("batch", *images.shape[1:]), metadata["input"]["dtype"]
    return Exported(path, len(content), takes, dtype, tuple(expected), None, attention.layer, found, ())


def _free(path: str | Path, overwrite: bool) -> Path:
    """The path of a file that may be written.

    Raises:
        UsageError: another ending, a folder, a file that is there without `overwrite`, or a folder that is missing.
        OutputError: a folder that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != SUFFIX:
        better = path.with_suffix(SUFFIX) if path.name else Path("model" + SUFFIX)
        raise UsageError(f"the file of an export ends in {SUFFIX}, such as {shown(better)}, not {shown(path)}")
    if path.is_dir():
        raise UsageError(f"{shown(path)} is a folder; name a file in it, such as {shown(path / ('model' + SUFFIX))}")
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise UsageError(f"{shown(path)} exists; choose another name, or pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {shown(path.parent)} to write {path.name} into; make it, or choose another place")
    with writing(path), tempfile.TemporaryFile(dir=path.parent):  # refused now, and not after the tracing
        pass
    return path


def _say_size(run: Run, chosen: Chosen, path: Path, tell: Callable[[str], None]) -> None:
    """Tell of a large file before it is made.

    Raises:
        UsageError: it would be larger than a file of ONNX can be.
    """
    with_decoder = chosen.spec is not None and parse_spec(chosen.spec)[0] in RESIDUALS
    parts = [run.model.encoder, run.model.mean, run.model.logvar, *([run.model.decoder] if with_decoder else [])]
    weights = sum(parameter.nbytes for part in parts for parameter in part.parameters())
    kept = 0 if chosen.normals is None else sum(one.features.nbytes for one in references(chosen.localizer))
    total = weights + kept
    of_normal = ""
    if kept > total / 10:
        of_normal = f", {kept / 1e6:.0f} MB of it feature maps of {chosen.normals:,} normal images; --normals N keeps fewer"
    if total > LIMIT:
        raise too_large(total, of_normal)
    if total > _WORTH_SAYING:
        tell(f"{shown(path)} will have about {total / 1e6:.0f} MB{of_normal}")


def _by_torch(run: Run, chosen: Chosen, images: Tensor) -> dict[str, Tensor]:
    """What the library itself says of images (B, C, H, W), uint8, as they come from a file: the results that are compared."""
    preparation = run.preparation
    if preparation is not None:
        apart = [image.split(1) if preparation.frames > 1 else (image,) for image in images]
        images = torch.stack([torch.cat([preparation.finish(frame) for frame in frames]) for frames in apart])
    values = to_float(images)
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        if chosen.attention is not None:
            maps = chosen.attention(values)
            expected |= {"latent_maps": maps.per_latent, "mean": maps.mean, "logvar": maps.logvar}
        if chosen.localizer is not None:
            found = chosen.localizer.localize(values)
            expected |= {"maps": found.maps, "score": found.score}
    return expected
