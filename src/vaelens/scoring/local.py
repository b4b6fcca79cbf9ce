"""Score a folder of images on this machine: a table, masks, overlays and a report."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vaelens.data.images import to_float
from vaelens.errors import DataError, whole
from vaelens.localizers import Calibration
from vaelens.localizers.attention import codes
from vaelens.output import check_free, result_folder, write_bytes, write_json, writing
from vaelens.report.colour import common_limit, encode_png, overlay
from vaelens.report.content import Report, ReportImage, Table
from vaelens.report.html import MOST_CARDS, write_report
from vaelens.runs import FALSE_ALARMS, Run, Verdict
from vaelens.scoring.gallery import cards as cards_of
from vaelens.scoring.gallery import picture, unreadable
from vaelens.scoring.shown import MOST, Shown
from vaelens.scoring.sources import Loaded, Source, as_text

_CARDS = 64  # cards made at once
_LONGEST_NAME = 255  # bytes, as file systems have it
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """One image of the table.

    Attributes:
        path: the image, as found below what was given; bytes that are no text spelt out as in `\\xff`.
        score: anomaly score; None where the image could not be read.
        p_value: share of normal images that would score as high.
        flagged: p-value at most the false-alarm rate.
        area: share of pixels above the pixel threshold, in [0, 1].
        fired: latents far from the normal images, as indices.
        label: class, where the data set knows it.
        error: why the image could not be read.
    """

    path: str
    score: float | None = None
    p_value: float | None = None
    flagged: bool | None = None
    area: float | None = None
    fired: list[int] | None = None
    label: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Scored:
    """What `score` came to.

    Attributes:
        rows: one per image, in the order found.
        out: the folder.
        localizer: whose scores.
        false_alarms: share of normal images that may be flagged.
        score_threshold: images above are flagged.
        pixel_threshold: pixels above are flagged.
        too_few: why nothing can be flagged at that rate, see `Run.too_few`; empty where something can.
    """

    rows: tuple[Row, ...]
    out: Path
    localizer: str
    false_alarms: float
    score_threshold: float
    pixel_threshold: float
    too_few: str = ""

    @property
    def errors(self) -> tuple[Row, ...]:
        """The images that could not be read."""
        return tuple(row for row in self.rows if row.error is not None)

    @property
    def flagged(self) -> tuple[Row, ...]:
        """The images flagged as abnormal."""
        return tuple(row for row in self.rows if row.flagged)

    def to_dict(self) -> dict[str, Any]:
        """As `score --json` prints it."""
        return {**self.summary(), "images": [asdict(row) for row in self.rows]}

    def summary(self) -> dict[str, Any]:
        """What there is to say beside the rows."""
        return {
            "out": str(self.out),
            "localizer": self.localizer,
            "false_alarms": self.false_alarms,
            "score_threshold": self.score_threshold,
            "pixel_threshold": self.pixel_threshold,
        }


def score(
    run: Run,
    source: Source,
    out: Path,
    *,
    localizer: str | None = None,
    false_alarms: float = FALSE_ALARMS,
    batch_size: int = 64,
    pictures: bool = True,
    cards: int = MOST,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Scored:
    """Score images and write what came out.

    The folder gets `scores.parquet` (one row per image, see `Row`), `scores.json` with the thresholds, `masks/` and
    `overlays/` (PNG, one per image) and `report.html`. An image that cannot be read has its reason in the column `error`.

    Args:
        run: the trained run.
        source: which images.
        out: folder to make.
        localizer: whose scores and maps; None for the run's main one.
        false_alarms: share of normal images that may be flagged.
        batch_size: images at once.
        pictures: whether to write masks and overlays.
        cards: images that the report shows at most: those of highest score, a few drawn from the others and a few that could
            not be read. The table has all.
        overwrite: replace a folder of results that is there.
        progress: called with images done and images in all.

    Raises:
        UsageError: an unknown localizer, a rate outside (0, 1), cards that are no number from 1 to 500, a folder that is not
            free or holds the images.
        DataError: not one of the images can be read.
    """
    check_free(out, "score", overwrite)
    source.check_apart(out)
    batch_size = whole("batch_size", batch_size)
    shown: Shown[_Seen] = Shown(whole("cards", cards, most=MOST_CARDS))
    localizer = localizer or run.main_localizer
    calibration = run.calibration(localizer)
    thresholds = calibration.score_threshold(false_alarms), calibration.pixel_threshold(false_alarms)
    rows: list[Row] = []
    with result_folder(out, "score", overwrite) as folder:
        drawn = _Pictures.of(folder, source, calibration) if pictures else None
        for batch in source.batches(batch_size):
            good = [one for one in batch if one.image is not None]
            found = iter(_score_batch(run, good, localizer, false_alarms, drawn))
            for one in batch:
                if one.error is not None:
                    rows.append(Row(as_text(one.item.name), error=one.error))
                    shown.add(_Seen(one.item.name, error=one.error))
                else:
                    row, seen = next(found)
                    rows.append(row)
                    shown.add(seen)
            if progress:
                progress(len(rows), len(source))
        if all(row.error for row in rows):
            raise DataError(f"none of the {len(rows)} images can be read; the first: {rows[0].error}")
        result = Scored(tuple(rows), out, localizer, false_alarms, *thresholds, run.too_few(false_alarms))
        _write_table(folder, result)
        write_report(_report(run, result, shown, calibration), folder / "report.html")
    return result


@dataclass(frozen=True)
class _Seen:
    """An image that may be shown in the report; what the card needs and scoring does not is made for those that are.

    Attributes:
        name: of the image.
        image: (C, H, W), uint8.
        map: (H, W).
        score: anomaly score.
        label: class, where known.
        error: why it could not be read; it has neither image nor map then.
    """

    name: str
    image: torch.Tensor | None = None
    map: torch.Tensor | None = None
    score: float = math.nan
    label: str | None = None
    error: str | None = None


def _score_batch(
    run: Run, loaded: Sequence[Loaded], localizer: str, false_alarms: float, pictures: _Pictures | None
) -> list[tuple[Row, _Seen]]:
    if not loaded:
        return []
    images = torch.stack([one.image for one in loaded if one.image is not None])
    verdict = run.localize(to_float(images), localizer, false_alarms)
    fired = None
    if run.has_posterior:
        mean, logvar = verdict.posterior or (code.cpu() for code in codes(run.model, images))
        fired = run.fired(mean, logvar)
    names = [one.item.name for one in loaded]
    figures = verdict.score, verdict.p_value, verdict.flagged, verdict.masks.float().mean((1, 2))
    scores, p_values, flagged, areas = (of_images.tolist() for of_images in figures)
    rows = [
        Row(
            path=as_text(names[i]),
            score=scores[i],
            p_value=p_values[i],
            flagged=flagged[i],
            area=areas[i],
            fired=None if fired is None else fired[i].nonzero().flatten().tolist(),
            label=loaded[i].label,
        )
        for i in range(len(loaded))
    ]
    if pictures is not None:
        pictures.write(names, run.visible(images), verdict)
    # Clones, so that an image that is kept does not keep its whole batch in memory.
    seen = [_Seen(names[i], images[i].clone(), verdict.maps[i].clone(), scores[i], loaded[i].label) for i in range(len(loaded))]
    return list(zip(rows, seen, strict=True))


def _cards(run: Run, result: Scored, shown: Sequence[_Seen], calibration: Calibration) -> Iterator[ReportImage]:
    """The cards of the images that the report shows, in their order."""
    for start in range(0, len(shown), _CARDS):
        batch = shown[start : start + _CARDS]
        good = [one for one in batch if one.image is not None and one.map is not None]
        if good:
            images = torch.stack([one.image for one in good if one.image is not None])
            maps = torch.stack([one.map for one in good if one.map is not None])
            scores = torch.tensor([one.score for one in good])
            p_values = calibration.p_values(scores)
            verdict = Verdict(
                maps=maps,
                score=scores,
                p_value=p_values,
                flagged=p_values <= result.false_alarms,
                masks=maps > result.pixel_threshold,
                score_threshold=result.score_threshold,
                pixel_threshold=result.pixel_threshold,
                localizer=result.localizer,
            )
            explanation = run.explain(to_float(images)) if run.has_posterior else None
            names, labels = [one.name for one in good], [one.label for one in good]
            found = iter(cards_of(run, names, images, verdict, explanation, labels))
        for one in batch:
            yield next(found) if one.error is None else unreadable(one.name, one.error)


@dataclass(frozen=True)
class _Pictures:
    """The folders `masks` and `overlays`.

    Attributes:
        folder: that they lie in.
        folders: names below it that some image has for its folder.
        limit: the map value that an overlay shows brightest, the same in every batch and every call.
    """

    folder: Path
    folders: frozenset[Path]
    limit: float

    @classmethod
    def of(cls, folder: Path, source: Source, calibration: Calibration) -> _Pictures:
        """For the images of `source`; the brightest is twice the highest peak of a held-out normal image."""
        folders = frozenset(above for item in source.items for above in Path(item.name).parents)
        peak = float(calibration.peaks.max())
        return cls(folder, folders, common_limit((), 2 * peak) if peak > 0 else 1.0)

    def write(self, names: Sequence[str], images: torch.Tensor, verdict: Verdict) -> None:
        """Mask and overlay of each image (B, C, H, W), uint8."""
        for i, name in enumerate(names):
            mask = verdict.masks[i].to(torch.uint8).mul(255).numpy()
            drawn = overlay(picture(images[i]), verdict.maps[i].numpy(), self.limit)
            for kind, pixels in (("masks", mask), ("overlays", drawn)):
                path = self.folder / kind / self.name_of(name)
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, encode_png(pixels))

    def name_of(self, name: str) -> Path:
        """`name` with .png behind it; where that is too long, or is a folder's, its end is a digest of the whole."""
        path = Path(f"{name}.png")
        if len(os.fsencode(path.name)) > _LONGEST_NAME or path in self.folders:
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
            path = path.with_name(f"{os.fsdecode(os.fsencode(path.name)[:200])}-{digest}.png")
        return path


def _write_table(folder: Path, result: Scored) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("path", pa.string()),
            ("score", pa.float64()),
            ("p_value", pa.float64()),
            ("flagged", pa.bool_()),
            ("area", pa.float64()),
            ("fired", pa.list_(pa.int32())),
            ("label", pa.string()),
            ("error", pa.string()),
        ]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([vars(row) for row in result.rows], schema=schema), sink, compression="zstd")
    write_bytes(folder / "scores.parquet", sink.getvalue().to_pybytes())
    write_json(folder / "scores.json", result.summary())


def _report(run: Run, result: Scored, shown: Shown[_Seen], calibration: Calibration) -> Report:
    count, flagged, errors = len(result.rows), len(result.flagged), len(result.errors)
    dataset = run.config.dataset
    normal = f"class {dataset['normal']} of {dataset['name']}" if run.config.of_classes else "the normal images"
    return Report(
        title="Anomaly report",
        lead=(
            f"{flagged} of {count} images are flagged: they are farther from {normal} than all but "
            f"{result.false_alarms:.0%} of held-out normal images are." + (f" {errors} could not be read." if errors else "")
        ),
        summary=(
            ("images", str(count)),
            ("flagged", str(flagged)),
            ("could not be read", str(errors)),
            ("false alarms promised", f"at most {result.false_alarms:.1%} of normal images"),
            ("score threshold", f"{result.score_threshold:.4g}"),
        ),
        settings={**run.settings(), "localizer": result.localizer},
        tables=(_classes(result),) if any(row.label for row in result.rows) else (),
        figures=(),
        images=tuple(_cards(run, result, shown.images(), calibration)),
        map_limit=None,
        notes=(
            *filter(None, [shown.sentence()]),
            "The p-value is the share of normal images that would score as high, from held-out normal images alone (split "
            "conformal). Masks show pixels above what the same share of normal images has anywhere.",
            *filter(None, [run.caution, result.too_few]),
        ),
    )


def _classes(result: Scored) -> Table:
    labels = sorted({row.label for row in result.rows if row.label})
    rows = []
    for label in labels:
        of_class = [row for row in result.rows if row.label == label]
        rows.append((label, len(of_class), sum(bool(row.flagged) for row in of_class)))
    return Table("Flagged by class", ("class", "images", "flagged"), tuple(rows))
