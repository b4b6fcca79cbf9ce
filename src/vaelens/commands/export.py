"""The command that writes a run as one file for onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vaelens.commands.options import Json, Overwrite, Quiet, RunFolder, opened
from vaelens.console import notice, print_json


def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="file to write")],
    localizer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="whose scores and maps; default: the run's main one where it can be exported, else deviation"),
    ] = None,
    false_alarms: Annotated[float, typer.Option(help="share of normal images that may be flagged")] = 0.05,
    normals: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="compare with so many normal images, for a smaller file; default: all that the run has"),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run as one ONNX file: preprocessing, encoder, maps of all latents, anomaly map, score, p-value and mask.

    It takes bytes (B, H, W, C) and runs with onnxruntime and numpy alone. It is compared with torch before it is written.
    """
    from vaelens.export import export_run

    result = export_run(
        opened(run, "cpu", quiet),
        file,
        localizer=localizer,
        false_alarms=false_alarms,
        normals=normals,
        overwrite=overwrite,
        notice=None if quiet else notice,
    )
    if json:
        print_json(result.to_dict())
        return
    print(f"file      {file} ({result.size / 1e6:.1f} MB)")
    print(f"takes     images ({', '.join(map(str, result.takes))}), {result.dtype}")
    print(f"gives     {', '.join(result.outputs)}")
    print(f"localizer {result.localizer or 'none'}; maps of layer {result.layer or 'none'}")
    worst = max(result.checked, key=lambda name: result.checked[name])
    print(f"checked   beside torch: at most {result.checked[worst]:.0e} of its range apart ({worst})")
