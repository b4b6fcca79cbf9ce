"""The report as one HTML file that needs nothing else: no script, style, font or image from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
from collections import Counter
from importlib.resources import files
from pathlib import Path

from vaelens.errors import UsageError, VaelensError
from vaelens.report.cards import Card, cards, data_uri
from vaelens.report.colour import colour_bar, common_limit, encode_png
from vaelens.report.content import Report, Table
from vaelens.report.selection import select
from vaelens.report.wording import column, flat_settings, is_number, number, one_line, printable

# What the pictures of one report may take in all; the page around 500 cards adds about a megabyte.
BUDGET = 13_500_000
_LEAST_FOR_GALLERY = 2_000_000
MOST_CARDS = 500


def render(report: Report, *, most: int = MOST_CARDS, seed: int = 0) -> str:
    """The report as the text of an HTML file; the same report gives the same text.

    Args:
        report: what to show.
        most: images the gallery shows at most. Of more, those of highest score are kept with a random sample of the
            others, and the report says so.
        seed: of that sample.

    Returns:
        HTML that encodes as UTF-8. Images and maps are embedded as PNG, smaller the more there are: with up to 500
        images the file stays under about 20 MB.

    Raises:
        UsageError: `most` below 1.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    selection = select(report.images, most, seed)
    map_limit = common_limit((image.anomaly_map for image in report.images), report.map_limit)
    latent_limit = common_limit((latent.map for image in report.images for latent in image.fired), report.latent_limit)
    figures = [(figure.title, figure.caption, data_uri(figure.png)) for figure in report.figures]
    room = max(_LEAST_FOR_GALLERY, BUDGET - sum(len(uri) for _, _, uri in figures))
    gallery, sizes = cards(selection.images, map_limit, latent_limit, room)
    remarks = [selection.sentence] if selection.sentence else []
    if any(max(image.image.shape[:2]) > sizes.image for image in selection.images):
        remarks.append(f"Images are embedded at {sizes.image} pixels at most along their longer side.")

    # The script's digest is part of the page's policy: a browser runs this script and no other.
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_finalize
    )
    environment.filters.update(one_line=one_line)
    return environment.from_string(_asset("report.html.j2")).render(
        report=report,
        settings=list(flat_settings(report.settings)),
        tables=[(table, _body(table)) for table in report.tables],
        figures=figures,
        cards=gallery,
        remarks=remarks,
        labels=_labels(gallery),
        unlabelled=sum(card.label is None for card in gallery),
        flagged=Counter(card.flagged for card in gallery),
        failed=sum(card.error is not None for card in gallery),
        map_ticks=_ticks(map_limit),
        latent_ticks=_ticks(latent_limit),
        bar=data_uri(encode_png(colour_bar())),
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_digest=Markup(digest),
    )


def write_report(report: Report, path: str | os.PathLike[str], *, most: int = MOST_CARDS, seed: int = 0) -> Path:
    """Write `render(report)` to a file. The file appears whole or not at all; missing folders are made.

    Args:
        report: what to show.
        path: the file, for instance `report.html`.
        most: see `render`.
        seed: see `render`.

    Returns:
        The path.

    Raises:
        UsageError: the path is a folder; `most` below 1.
        VaelensError: the file cannot be written (no permission, a full disk).
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"cannot write the report to {target}: it is a folder; name a file in it, such as report.html")
    content = render(report, most=most, seed=seed).encode("utf-8")
    part = target.with_name(f".report-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise VaelensError(
            f"cannot write the report to {target}: {reason}; free some space or choose another folder"
        ) from error
    return target


def _asset(name: str) -> str:
    return (files("vaelens.report") / "templates" / name).read_text(encoding="utf-8")


def _finalize(value: object) -> object:
    """What every expression of the template passes through before it is escaped: no text can spoil the encoding."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _body(table: Table) -> list[list[tuple[str, bool]]]:
    """A table's rows of (text, whether it is a number)."""
    columns = [
        [(text, is_number(value)) for text, value in zip(column(values), values, strict=True)]
        for values in zip(*table.rows, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _labels(gallery: list[Card]) -> list[tuple[str, int]]:
    """Every label with its number of images, numbers inside labels in their order (2 before 10)."""
    counts = Counter(card.label for card in gallery if card.label is not None)
    return sorted(counts.items(), key=lambda item: _natural(item[0]))


def _natural(text: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", text.casefold())
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], text


def _ticks(limit: float) -> list[str]:
    return ["0", number(limit / 2, 3), f"≥ {number(limit, 3)}"]
