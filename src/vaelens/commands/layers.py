"""The command that lists which layers of a model can be explained, and which way."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from vaelens.commands import option_values
from vaelens.commands.options import Json
from vaelens.console import print_json, print_table
from vaelens.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from vaelens.attention import LayerWay


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a run, file.py:NAME, package.module:NAME or diffusers folder")],
    input: Annotated[Optional[str], typer.Option(help="of the images, such as 3x64x64, where the model does not say")] = None,  # noqa: UP045
    encode: Annotated[Optional[str], typer.Option(help="method or module that takes the images")] = None,  # noqa: UP045
    heads: Annotated[Optional[str], typer.Option(help="modules of mean and log variance, such as fc_mu,fc_var")] = None,  # noqa: UP045
    mean: Annotated[Optional[str], typer.Option(help="of what encode returns: key, index or columns such as 0:10")] = None,  # noqa: UP045
    logvar: Annotated[Optional[str], typer.Option(help="likewise")] = None,  # noqa: UP045
    std: Annotated[Optional[str], typer.Option(help="likewise, where the spread is a standard deviation")] = None,  # noqa: UP045
    variance: Annotated[Optional[str], typer.Option(help="likewise, where it is a variance")] = None,  # noqa: UP045
    log_std: Annotated[Optional[str], typer.Option(help="likewise, where it is the standard deviation's logarithm")] = None,  # noqa: UP045
    deterministic: Annotated[bool, typer.Option("--deterministic", help="the model has codes and no posterior")] = False,
    pooled: Annotated[bool, typer.Option("--pooled", help="of a spatial posterior the mean over places")] = False,
    channel: Annotated[Optional[int], typer.Option(help="of a spatial posterior this channel")] = None,  # noqa: UP045
    position: Annotated[Optional[str], typer.Option(help="of a spatial posterior this place, such as 3,4")] = None,  # noqa: UP045
    flatten: Annotated[bool, typer.Option("--flatten", help="of a spatial posterior every number")] = False,
    grid: Annotated[Optional[str], typer.Option(help="of a transformer's tokens, such as 14x14")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """The layers of a model that can be explained: the size of their maps, and which way each is computed.

    The model is a run, or one of your own: an object of a Python file or module, or what gives one when it is called.
    """
    import torch

    from vaelens.adapters import AdaptedVAE, adapt
    from vaelens.attention import survey
    from vaelens.attention.proof import noise

    asked: dict[str, Any] = {
        "encode": encode,
        "heads": None if heads is None else option_values.words_of(heads),
        **{
            name: None if value is None else option_values.key_of(f"--{name.replace('_', '-')}", value)
            for name, value in {"mean": mean, "logvar": logvar, "std": std, "variance": variance, "log_std": log_std}.items()
        },
        "channel": channel,
        "position": option_values.pair_of("--position", position, ","),
    }
    given = {name: value for name, value in asked.items() if value is not None}
    given |= {name: True for name, on in (("deterministic", deterministic), ("pooled", pooled), ("flatten", flatten)) if on}
    found = _model(model)
    if given or not _is_ours(found):
        if isinstance(found, AdaptedVAE):
            if given:
                raise UsageError(f"{model} is adapted already; leave out --{next(iter(given)).replace('_', '-')}")
        else:
            found = adapt(found, **given)
    shape = option_values.input_shape_of(input) or getattr(found, "input_shape", None)
    if shape is None:
        raise UsageError(f"{model} does not say what images it takes; say so with --input, such as --input 3x64x64")
    weights = next((p for p in found.parameters() if p.is_floating_point()), torch.empty(0))
    ways = survey(found, noise(weights, shape, 2), option_values.pair_of("--grid", grid, "x"))
    if json:
        print_json({"model": model, "layers": [asdict(way) for way in ways]})
        return
    _print(ways)


def _model(name: str) -> nn.Module:
    from vaelens.adapters.source import model_of
    from vaelens.runs import load_run
    from vaelens.runs.config import CONFIG

    return load_run(name).model if (Path(name) / CONFIG).is_file() else model_of(name)


def _is_ours(model: nn.Module) -> bool:
    from vaelens.models import ConvVAE

    return isinstance(model, ConvVAE)


def _print(ways: list[LayerWay]) -> None:
    from vaelens.attention.survey import WAYS

    rows = [
        [way.layer + (" (default)" if way.default else ""), "{} x {} x {}".format(*way.shape), WAYS[way.way]] for way in ways
    ]
    print_table("layers", ["layer", "map (n, h, w)", "computed by"], rows)
    for way in ways:
        if way.by_pixel:
            print(f"{way.layer}: the images themselves, by variant 'hirescam' alone")
    reasons: dict[tuple[bool, str], list[str]] = {}
    for way in ways:
        if way.why:
            reasons.setdefault((way.way == "none", way.why), []).append(way.layer)
    for (none, why), names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        print(f"{shown}: no {'map' if none else 'closed form'}: {why}")
