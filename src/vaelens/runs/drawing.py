"""Verdicts and runs as people see them in a notebook. The report draws, and is imported then."""

from __future__ import annotations

from typing import Any

import numpy as np

from vaelens.attention.drawing import pictures
from vaelens.errors import whole
from vaelens.runs.known import KnownRun, KnownVerdict


def plot_verdict(verdict: KnownVerdict, ax: Any = None, limit: float | None = None, most: int | None = None) -> Any:
    """See `Verdict.plot`."""
    from vaelens.report.colour import common_limit
    from vaelens.report.notebook import MOST_IMAGES, as_axes, draw_map, ground
    from vaelens.report.verdicts import OUTLINE, verdict_grid
    from vaelens.report.wording import number, p_value

    maps, masks = verdict.maps.detach().cpu().float().numpy(), verdict.masks.cpu().numpy()
    images = pictures(verdict.images, len(maps))
    if images is None:
        images = np.stack([ground(values.shape) for values in maps])
    if ax is not None:
        upper = common_limit([maps], limit)
        for i, one in enumerate(as_axes(ax, len(maps), "image")):
            draw_map(one, images[i], maps[i], upper, f"{verdict.headline(i)}\n{p_value(float(verdict.p_value[i]))}")
            if masks[i].any() and not masks[i].all():
                # A line of the axes', for pixels of the picture may be too small to be seen.
                one.contour(masks[i], levels=[0.5], colors=[tuple(part / 255 for part in OUTLINE)], linewidths=1.2)
        return ax
    count = min(len(maps), MOST_IMAGES if most is None else whole("most", most))
    label = f"map; what is above {number(verdict.pixel_threshold, 3)} is outlined"
    return verdict_grid(
        images[:count],
        maps[:count],
        masks[:count],
        [f"image {i}: {verdict.headline(i)}" for i in range(count)],
        [verdict.reasons(i) for i in range(count)],
        label,
        limit,
    )


def html_of_verdict(verdict: KnownVerdict) -> str:
    """A piece of HTML with the first few images."""
    from vaelens.report.notebook import MOST_IMAGES, fragment, never_raising

    def draw() -> str:
        count = len(verdict.score)
        lines = [f"{int(verdict.flagged.sum())} of {count} images flagged, by {verdict.localizer}"]
        if count > MOST_IMAGES:
            lines.append(f"The first {MOST_IMAGES} of {count} images; .plot(most=...) draws more.")
        return fragment("Verdict", lines, verdict.plot())

    return never_raising(draw, "Verdict")


def html_of_run(run: KnownRun) -> str:
    """A piece of HTML: what the run is of, and what it came to."""
    from vaelens.report.notebook import never_raising, table_fragment

    def draw() -> str:
        config = run.config
        of = [str(config.dataset[key]) for key in ("name", "category") if config.dataset[key] is not None]
        if config.dataset["normal"] is not None:
            of.append(f"normal class {config.dataset['normal']}")
        rows = [
            ("data set", ", ".join(of)),
            ("network", f"{config.network['name']}, images (C, H, W) = {run.input_shape}"),
            ("objective", f"{config.objective}, {run.metrics['epochs']} epochs, seed {config.training.get('seed', 0)}"),
        ]
        if run.has_posterior:
            layer = f"{run.attention.layer} ({run.attention.method.replace('_', ' ')})"
            rows += [("latents", f"{run.model.latent_dim}, {int(run.active.sum())} active"), ("layer", layer)]
        if not config.of_factors:
            rows.append(("localizer", run.main_localizer))
            counts = f"{len(run.normal_images)} to compare with, {len(run.held_out_images)} held out"
            rows.append(("normal images", counts))
        return table_fragment(f"Run {run.path.name}", rows)

    return never_raising(draw, "Run")
