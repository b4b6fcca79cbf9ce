"""What one latent after another does to an image as it moves, beside where in the image it looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelens.attention.latent_attention import LatentAttention
from vaelens.attention.maps import LatentMaps
from vaelens.attention.variants import is_linear
from vaelens.errors import UsageError, brief, whole

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
        active: (K,), bool: latents that carry more than 0.05 nats on normal images; all, where nothing is known of those.
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
            The axes as they were given; or the new Figure, which notebooks show and pyplot does not know. In variants
            "cvpr" and "hirescam" the figure has what lowers a latent beside what raises it.

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
        upper = float(self.maps.signed.abs().max()) if is_linear(self.maps.variant) else float(maps.max())
        upper = (upper or 1.0) if limit is None else limit
        if axes is not None:
            flat = iter(as_axes(axes, len(rows) * (len(self.values) + 1), "value of a latent and its map"))
            for k, name in enumerate(names):
                for at, value in enumerate(self.values):
                    draw_image(next(flat), fine(frames[k, at]), image.shape, f"{name} = {value:+.3g}")
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
            lowering=torch.relu(-self.maps.signed[0]).float().numpy() if is_linear(self.maps.variant) else None,
        )

    def show(self) -> None:
        """Show it: in a notebook as a picture, else in a window where there is a display, else in words."""
        from vaelens.report.notebook import show

        show(self)

    def in_words(self) -> str:
        """Which latents move from where to where."""
        named = ", ".join(f"z{latent}" for latent in self.latents)
        return f"{named} at {len(self.values)} values from {self.values[0]:.3g} to {self.values[-1]:.3g}"

    def _repr_html_(self) -> str:
        from vaelens.report.notebook import fragment, never_raising

        def draw() -> str:
            if len(self.latents) <= MOST_SHOWN:
                return fragment("Traversal", [self.in_words()], self.plot())
            lines = [f"The first {MOST_SHOWN} of {len(self.latents)} latents; .plot() draws all."]
            return fragment("Traversal", lines, self._first(MOST_SHOWN).plot())

        return never_raising(draw, "Traversal")

    def _first(self, rows: int) -> Traversal:
        return Traversal(
            self.images[:rows],
            self.maps.first(rows),
            self.values,
            self.latents[:rows],
            self.image,
            self.decoded,
            self.active[:rows],
        )

    def _dead(self) -> Tensor:
        """(D,), bool."""
        dead = torch.zeros(self.maps.mean.shape[1], dtype=torch.bool)
        dead[list(self.latents)] = ~self.active
        return dead


def traverse(
    attention: LatentAttention,
    image: Tensor,
    latents: int | str | Sequence[int] | None = None,
    span: float | tuple[float, float] = 2.0,
    steps: int = 9,
) -> Traversal:
    """What changes in an image as one latent after another moves, beside where in it each looks.

    Args:
        attention: of a model with `decode(latents)`, (B, D) -> images (B, C, H, W) in [0, 1], such as `adapt` gives.
        image: (C, H, W), or a batch of one, float in [0, 1].
        latents: which, or "top3" for the three of highest response; None: those that carry most about the image, eight at most.
        span: how far a latent moves from 0, to both sides, or from where to where; the prior's standard deviation is 1.
        steps: values that it takes on the way.

    Raises:
        UsageError: a model without a decoder, more than one image, one that is not in [0, 1], a span that is none, or fewer
            than 2 steps.
    """
    values = values_of(span, steps)
    decode = getattr(attention.model, "decode", None)
    if not callable(decode):
        name = type(attention.model).__name__
        raise UsageError(f"{name} has no method decode(latents) -> images, so its latents cannot be seen to move")
    batch = image[None] if isinstance(image, Tensor) and image.ndim == 3 else image
    if not isinstance(batch, Tensor) or batch.ndim != 4 or len(batch) != 1:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise UsageError(f"a traversal is of one image (C, H, W), or a batch of one, got {got}")
    if not bool((batch >= 0).all() & (batch <= 1).all()):
        raise UsageError("the image is to be in [0, 1]; where the model takes others, adapt(model, input_range=...) turns it")
    with torch.no_grad():
        encoding = attention.encode(batch)  # which finds the layer, too, where no image was explained yet
    decode = _of_images(attention.model, decode)
    if latents is None:
        latents = most_telling(encoding.mean.detach(), encoding.logvar.detach())
    method = "vjp" if attention.method == "vjp" else "auto"
    grid = None if attention.grid is None else (attention.grid.height, attention.grid.width)
    chosen = LatentAttention(attention.model, attention.layer, latents, method, variant=attention.variant, grid=grid)
    with torch.no_grad():
        maps = chosen(batch).cpu()
        frames = frames_of(decode, maps, values, batch.device)[0]
        decoded = decode(maps.mean.to(batch.device)).cpu().clamp(0, 1)[0]
    which = tuple(int(latent) for latent in maps.latents.flatten())
    return Traversal(
        images=frames.clamp(0, 1),
        maps=maps,
        values=values,
        latents=which,
        image=batch[0].cpu(),
        decoded=decoded,
        active=torch.ones(len(which), dtype=torch.bool),
    )


def _of_images(model: torch.nn.Module, decode: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """The model's `decode`, with one line for what it does not take, or gives that is no image."""
    name = f"{type(getattr(model, 'model', model)).__name__}.decode"

    def images(codes: Tensor) -> Tensor:
        try:
            given = decode(codes)
        except (torch.OutOfMemoryError, UsageError):
            raise
        except (TypeError, RuntimeError, ValueError, IndexError, AssertionError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UsageError(f"{name} does not take latents {tuple(codes.shape)} and nothing else ({why})") from error
        if not isinstance(given, Tensor) or given.ndim != 4 or len(given) != len(codes):
            got = tuple(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise UsageError(f"{name} must return images (B, C, H, W) of latents {tuple(codes.shape)}, got {got}")
        return given

    return images


def frames_of(
    decode: Callable[[Tensor], Tensor], maps: LatentMaps, values: Sequence[float], device: torch.device | str = "cpu"
) -> Tensor:
    """Each explained latent at each of `values`, the others at the posterior mean: (S, K, V, C, H, W), as `decode` gives it."""
    count, explained, taken = len(maps.mean), maps.signed.shape[1], torch.tensor(values, dtype=maps.mean.dtype)
    codes = maps.mean[:, None, None].repeat(1, explained, len(taken), 1)
    moved = maps.latents.expand(count, explained)[:, :, None, None].expand(-1, -1, len(taken), 1)
    codes.scatter_(3, moved, taken[:, None].expand(count, explained, -1, 1))
    images = torch.cat([decode(part.to(device)).cpu() for part in torch.split(codes.flatten(0, 2), _AT_ONCE)])
    return images.reshape(*codes.shape[:3], *images.shape[1:])


def most_telling(mean: Tensor, logvar: Tensor, among: Tensor | None = None) -> list[int]:
    """The latents that carry most about an image by its posterior (1, D), in nats; eight at most, of those `among` (D,)."""
    nats = (mean.square() + logvar.exp() - 1 - logvar)[0] / 2
    count = len(nats)
    if among is not None and among.any():
        nats, count = nats.masked_fill(~among, -1), int(among.sum())
    return [int(latent) for latent in nats.argsort(descending=True)[: min(MOST, count)]]


def values_of(span: float | tuple[float, float], steps: int) -> tuple[float, ...]:
    """The values that a latent takes, ascending.

    Raises:
        UsageError: a span that is none, or fewer than 2 steps.
    """
    steps = whole("steps", steps, least=2, most=101)
    ends = (-span, span) if isinstance(span, int | float) else tuple(span) if isinstance(span, Sequence) else ()
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not -1e6 < ends[0] < ends[1] < 1e6:
        raise UsageError(f"span is a number above 0, or two numbers (from, to), got {brief(span)}")
    return tuple(float(value) for value in np.linspace(*ends, steps))
