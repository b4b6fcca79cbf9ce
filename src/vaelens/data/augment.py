"""Random rotation and mirroring of whole batches, drawn from a generator, so that training can be repeated and resumed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import UsageError, brief

_MOST_DEGREES = 180.0
_FORM = 'an augmentation is "none", "auto", or a list of rotateDEGREES, mirror and flip, such as "rotate30,mirror,flip"'


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a training image at random.

    The paper (supplementary material, MVTec AD) rotates within 30 degrees and mirrors; not every object permits both.

    Attributes:
        rotation_degrees: an angle is drawn uniformly from -rotation_degrees to rotation_degrees; 0 to 180.
        mirror_horizontal: swap left and right of every second image in the mean.
        mirror_vertical: swap top and bottom likewise.

    Raises:
        UsageError: an angle outside 0 to 180.
    """

    rotation_degrees: float = 0.0
    mirror_horizontal: bool = False
    mirror_vertical: bool = False

    def __post_init__(self) -> None:
        degrees = self.rotation_degrees
        if isinstance(degrees, bool) or not isinstance(degrees, int | float) or not 0 <= degrees <= _MOST_DEGREES:
            raise UsageError(f"an image is rotated by up to 0 to {_MOST_DEGREES:g} degrees, not {brief(degrees)}")
        object.__setattr__(self, "rotation_degrees", float(degrees))
        for name in ("mirror_horizontal", "mirror_vertical"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, not {brief(getattr(self, name))}")

    def __bool__(self) -> bool:
        """Whether anything is done at all."""
        return self.rotation_degrees > 0 or self.mirror_horizontal or self.mirror_vertical

    def __str__(self) -> str:
        """The text that `parse` reads: "none" or such as "rotate30,mirror"."""
        parts = [f"rotate{self.rotation_degrees:g}"] if self.rotation_degrees else []
        parts += ["mirror"] if self.mirror_horizontal else []
        parts += ["flip"] if self.mirror_vertical else []
        return ",".join(parts) or "none"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch, each image by itself.

        All random numbers are drawn from `generator`, three for each image whatever the settings, so that two settings
        see the same angles. Rotation is about the centre, bilinear, and what it brings in from outside is the image
        reflected at its edge.

        Args:
            images: float, (B, C, H, W), values in [0, 1]; not changed.
            generator: on any device.

        Returns:
            The same shape, dtype and device, values in [0, 1].

        Raises:
            UsageError: another shape or dtype.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise UsageError(f"images to augment are float (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if not self or not len(images):
            return images
        # double precision, whatever the images' own: the same angles in bf16
        drawn = torch.rand((len(images), 3), generator=generator, device=generator.device, dtype=torch.float64)
        drawn = drawn.to(images.device)
        if self.mirror_horizontal:
            images = _where(drawn[:, 1] < 0.5, images.flip(-1), images)
        if self.mirror_vertical:
            images = _where(drawn[:, 2] < 0.5, images.flip(-2), images)
        if self.rotation_degrees:
            images = _rotated(images, (drawn[:, 0] * 2 - 1) * self.rotation_degrees)
        return images


def parse(text: str, auto: Augmentation | None = None) -> Augmentation:
    """The augmentation that an option of the command line names.

    Args:
        text: "none", "auto", or names separated by commas: rotate and a number of degrees, mirror (left and right swapped),
            flip (top and bottom swapped), each once at most.
        auto: what "auto" stands for, the data set's own rule; None: nothing.

    Raises:
        UsageError: anything else.
    """
    if text == "auto":
        return auto if auto is not None else Augmentation()
    if text == "none":
        return Augmentation()
    degrees, seen = 0.0, set()
    for part in (one.strip() for one in text.split(",")):
        name = "rotate" if part.startswith("rotate") else part
        if name not in ("rotate", "mirror", "flip") or name in seen:
            raise UsageError(f"{_FORM}; not {text!r}")
        seen.add(name)
        if name == "rotate":
            try:
                degrees = float(part.removeprefix("rotate"))
            except ValueError:
                raise UsageError(f"{_FORM}; not {text!r}") from None
    if "rotate" in seen and not 0 < degrees <= _MOST_DEGREES:
        raise UsageError(f"an image is rotated by up to 0 to {_MOST_DEGREES:g} degrees, not {degrees:g}")
    return Augmentation(degrees, "mirror" in seen, "flip" in seen)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], one, other)


def _rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned counter-clockwise by its angle in degrees (B,)."""
    from kornia.geometry.transform import rotate

    # grid_sample has no half precision on every device, and its coordinates need more than bf16 has
    exact = images if images.dtype == torch.float64 else images.float()
    turned: Tensor = rotate(exact, degrees.to(exact.dtype), padding_mode="reflection", align_corners=True)
    return turned.clamp(0.0, 1.0).to(images.dtype)
