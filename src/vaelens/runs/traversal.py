"""What one latent after another does to an image as it moves, beside where in the image it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaelens.attention import LatentAttention, LatentMaps
from vaelens.errors import UsageError, brief, whole
from vaelens.objectives import kl_per_latent

if TYPE_CHECKING:
    from vaelens.runs.run import Run

TITLE = "What each latent does, and where it looks"
MOST = 8  # latents where none are named
MOST_SHOWN = 32  # rows of a notebook's picture
_AT_ONCE = 256


@dataclass(frozen=True)
class Traversal:
    """An image, and the decoder's images of it as one latent after another takes other values.

    Attributes:
        images: (K, V, C, H, W), in [0, 1], of the posterior mean with the latent of map k at value v; as a person is shown
            them: of several frames as channels the one in the middle.
        maps: of these K latents for the image, (1, K, h, w).
        values: the V values, ascending.
        latents: which K.
        image: (C, H, W), the image itself.
        decoded: (C, H, W), the decoder's image of its posterior mean.
        active: (K,), bool: latents that carry more than 0.05 nats on normal images.
    """

    images: Tensor = field(repr=False)
    maps: LatentMaps = field(repr=False)
    values: tuple[float, ...]
    latents: tuple[int, ...]
    image: Tensor = field(repr=False)
    decoded: Tensor = field(repr=False)
    active: Tensor = field(repr=False)

    def plot(self, *, axes: Any = None, limit: float | None = None, title: str = TITLE) -> Any:
        """Draw a row for each latent: the decoder's images as it moves, then where in the image it looks.

        Args:
            axes: matplotlib Axes to draw into, V + 1 for each latent, in any array or sequence, the last of each for the map.
                None: a new figure.
            limit: upper end of the maps' colour scale; None: the largest value.
            title: of a new figure.

        Returns:
            The axes as they were given; or the new Figure, which notebooks show and pyplot does not know. In variant "cvpr" the
            figure has what lowers a latent beside what raises it.

        Raises:
            UsageError: axes that are not as many.
        """
        from vaelens.attention.drawing import names_of, pictures
        from vaelens.report.notebook import as_axes, draw_image, draw_map, fine
        from vaelens.report.traversals import traversal_grid

        rows = list(range(len(self.latents)))
        names = names_of(self.maps, 0, rows, self._dead())
        image, decoded = pictures(self.image, 1)[0], pictures(self.decoded, 1)[0]
        frames = np.stack([pictures(one, len(self.values)) for one in self.images])
        maps = self.maps.per_latent[0].float().numpy()
        upper = float(self.maps.signed.abs().max()) if self.maps.variant == "cvpr" else float(maps.max())
        upper = (upper or 1.0) if limit is None else limit
        if axes is not None:
            flat = iter(as_axes(axes, len(rows) * (len(self.values) + 1), "value of a latent and its map"))
            for k, name in enumerate(names):
                for at, value in enumerate(self.values):
                    draw_image(next(flat), fine(frames[k, at]), image.shape, f"{name} = {value:+g}")
                draw_map(next(flat), image, maps[k], upper, name)
            return axes
        means = [float(self.maps.mean[0, latent]) for latent in self.latents]
        return traversal_grid(
            image,
            decoded,
            frames,
            maps,
            names,
            self.values,
            title,
            means=means,
            notes=[[f"{mean:+.2f} here".replace("-", "−")] for mean in means],
            limit=upper,
            lowering=torch.relu(-self.maps.signed[0]).float().numpy() if self.maps.variant == "cvpr" else None,
        )

    def show(self) -> None:
        """Show it: in a notebook as a picture, else in a window where there is a display, else in words."""
        from vaelens.report.notebook import show

        show(self)

    def in_words(self) -> str:
        """Which latents move from where to where."""
        named = ", ".join(f"z{latent}" for latent in self.latents)
        return f"{named} at {len(self.values)} values from {self.values[0]:g} to {self.values[-1]:g}"

    def _repr_html_(self) -> str:
        from vaelens.report.notebook import fragment, never_raising

        def draw() -> str:
            if len(self.latents) <= MOST_SHOWN:
                return fragment("Traversal", [self.in_words()], self.plot())
            lines = [f"The first {MOST_SHOWN} of {len(self.latents)} latents; .plot() draws all."]
            return fragment("Traversal", lines, self._first(MOST_SHOWN).plot())

        return never_raising(draw, "Traversal")

    def _first(self, rows: int) -> Traversal:
        from vaelens.attention.drawing import few_latents

        few = few_latents(self.maps, rows)
        return Traversal(
            self.images[:rows], few, self.values, self.latents[:rows], self.image, self.decoded, self.active[:rows]
        )

    def _dead(self) -> Tensor:
        """(D,), bool."""
        dead = torch.zeros(self.maps.mean.shape[1], dtype=torch.bool)
        dead[list(self.latents)] = ~self.active
        return dead


def traversal_of(
    run: Run,
    image: Tensor,
    latents: int | str | Sequence[int] | None,
    span: float | tuple[float, float],
    steps: int,
    attention: LatentAttention | None,
) -> Traversal:
    """See `Run.traverse`; `image` is a batch of one."""
    if image.ndim != 4 or len(image) != 1:
        raise UsageError(f"a traversal is of one image (C, H, W), or a batch of one, got {tuple(image.shape)}")
    if not (run.has_posterior and run.reconstructs):
        raise UsageError(f"a run of objective '{run.config.objective}' has no latents to move; train a VAE for that")
    values = _values(span, steps)
    given = run.attention if attention is None else attention
    if latents is None:
        latents = _most_telling(run, image)
    method = "vjp" if given.method == "vjp" else "auto"
    chosen = LatentAttention(given.model, given.layer, latents, method, variant=given.variant)
    maps = run.explain(image, chosen).maps
    which = [int(latent) for latent in maps.latents.flatten()]
    frames = frames_of(run, maps, values)[0]
    return Traversal(
        images=torch.stack([run.visible(one) for one in frames]),
        maps=maps,
        values=values,
        latents=tuple(which),
        image=run.visible(image)[0],
        decoded=run.visible(decode(run, maps.mean))[0],
        active=run.active[which],
    )


def decode(run: Run, codes: Tensor) -> Tensor:
    """The decoder's images (N, C, H, W), in [0, 1], of codes (N, D)."""
    with torch.inference_mode():
        return torch.cat([run.model.decode(part.to(run.device)).cpu() for part in torch.split(codes, _AT_ONCE)])


def frames_of(run: Run, maps: LatentMaps, values: Sequence[float]) -> Tensor:
    """Each explained latent at each of `values`, the others at the posterior mean: (S, K, V, C, H, W), in [0, 1]."""
    count, explained, taken = len(maps.mean), maps.signed.shape[1], torch.tensor(values)
    codes = maps.mean[:, None, None].repeat(1, explained, len(taken), 1)
    moved = maps.latents.expand(count, explained)[:, :, None, None].expand(-1, -1, len(taken), 1)
    codes.scatter_(3, moved, taken[:, None].expand(count, explained, -1, 1))
    images = decode(run, codes.flatten(0, 2))
    return images.reshape(*codes.shape[:3], *images.shape[1:])


def _values(span: float | tuple[float, float], steps: int) -> tuple[float, ...]:
    steps = whole("steps", steps, least=2, most=101)
    ends = (-span, span) if isinstance(span, int | float) else tuple(span) if isinstance(span, Sequence) else ()
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not -1e6 < ends[0] < ends[1] < 1e6:
        raise UsageError(f"span is a number above 0, or two numbers (from, to), got {brief(span)}")
    return tuple(float(value) for value in np.linspace(*ends, steps))


def _most_telling(run: Run, image: Tensor) -> list[int]:
    """The active latents that carry most about the image, eight at most; of none that is active the eight of all."""
    with torch.no_grad():
        mean, logvar = (part.cpu() for part in run.model.encode(image.to(run.device)))
    nats = kl_per_latent(mean, logvar)[0]
    active = run.active
    if active.any():
        nats = nats.masked_fill(~active, -1)
    count = min(MOST, int(active.sum()) or len(nats))
    return [int(latent) for latent in nats.argsort(descending=True)[:count]]
