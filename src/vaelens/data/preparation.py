"""How an image file becomes what the network sees: size, channels, brightness. The same in training and in scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelens.data.decode import MAX_PIXELS, read_image
from vaelens.errors import UsageError, brief, whole

if TYPE_CHECKING:
    from torch import Tensor

MOST_FRAMES = 31
_KEYS = ("size", "channels", "frames", "brightness")


@dataclass(frozen=True)
class Preparation:
    """How files become images.

    Attributes:
        size: (height, width) in pixels, to which every image is stretched, averaging over what a pixel covers.
        channels: 1 for grey, 3 for RGB: of one file.
        frames: of a video, the number of neighbouring frames that are stacked as channels; odd. 3 is the frame before, the
            frame and the one after, and what lies outside the clip is its first or last frame. 1: each frame by itself.
        brightness: bring every image to the same brightness and contrast, see `vaelens.data.brightness`.

    Raises:
        UsageError: a size, a number of channels or of frames that cannot be, or several frames in colour.
    """

    size: tuple[int, int]
    channels: int = 1
    frames: int = 1
    brightness: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.size, tuple | list) or len(self.size) != 2:
            raise UsageError(f"size is (height, width) in pixels, not {brief(self.size)}")
        height, width = (whole("a side of size", side) for side in self.size)
        if height * width > MAX_PIXELS:
            raise UsageError(f"size may have {MAX_PIXELS:,} pixels in all, not {height}x{width}")
        object.__setattr__(self, "size", (height, width))
        if whole("channels", self.channels) not in (1, 3):
            raise UsageError(f"channels must be 1 (grey) or 3 (RGB), not {brief(self.channels)}")
        if whole("frames", self.frames, most=MOST_FRAMES) % 2 == 0:
            raise UsageError(f"frames must be odd, as many before a frame as after it, not {self.frames}")
        if self.frames > 1 and self.channels != 1:
            raise UsageError("several frames become channels, which takes grey images: set channels to 1")
        if not isinstance(self.brightness, bool):
            raise UsageError(f"brightness must be true or false, not {brief(self.brightness)}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that come out: `frames` channels where there are several."""
        return (self.channels if self.frames == 1 else self.frames, *self.size)

    @property
    def single(self) -> Preparation:
        """The same for one frame by itself."""
        return replace(self, frames=1)

    def read(self, path: Path | str, convert: bool = True) -> Tensor:
        """Read one file.

        Args:
            path: an image file.
            convert: make the image fit (see `vaelens.data.decode.read_image`), as data sets need whose images differ in
                size and depth; False: refuse one that is not of this size and these channels, with 8 bits, upright.

        Returns:
            uint8, (channels, H, W), values 0 to 255. Neighbouring frames are not stacked here.

        Raises:
            DataError: no image, damaged, or, without `convert`, not as wanted.
        """
        return self.finish(read_image(path, self.channels, self.size, convert))

    def finish(self, image: Tensor) -> Tensor:
        """What comes after decoding: brightness, where it is wanted.

        Args:
            image: uint8, (C, H, W), values 0 to 255, of this size.
        """
        if not self.brightness:
            return image
        from vaelens.data.brightness import normalise

        return normalise(image)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return {"size": list(self.size), "channels": self.channels, "frames": self.frames, "brightness": self.brightness}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """Make one from what `to_dict` gave.

        Raises:
            UsageError: no mapping, something lacks or is not known, or a value that cannot be.
        """
        if not isinstance(values, Mapping) or set(values) != set(_KEYS):
            raise UsageError(f"a preparation has {', '.join(_KEYS)}, not {brief(values)}")
        return cls(**values)
