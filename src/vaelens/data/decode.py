"""Image files to bytes, strictly: what a file holds is what the model gets, or one line says why not.

Pillow turns sixteen bits into eight, drops alpha and leaves phone photos lying on their side, each without a word. A
score computed on such an image is wrong without anybody noticing, so by default all of that is an error;
`convert=True` does it on purpose.
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vaelens.data.files import list_images, shown
from vaelens.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["list_images", "read_image", "read_upright", "upright_size"]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")  # a multi-picture JPEG is opened as JPEG, then named MPO
MAX_PIXELS = 89_478_485  # Pillow's own limit: above it Pillow warns of a decompression bomb
MAX_FILE_BYTES = 1 << 30

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX"}
_OTHER_COLOUR = {"CMYK", "YCbCr"}
_EXIF_ORIENTATION = 0x0112
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TIFF_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
# warnings.catch_warnings swaps state of the whole process, so only one thread at a time may be inside
_warnings_lock = threading.Lock()


def read_image(path: Path | str, channels: int, size: tuple[int, int] | None = None, convert: bool = False) -> Tensor:
    """Read one image file (PNG, JPEG, BMP, TIFF, WebP, PGM; told apart by content, not by suffix).

    Strict by default: 8 bits (or fewer), grey for one channel and colour (or a palette) for three, no transparency,
    stored upright, of exactly `size`. With `convert`, in this order: EXIF orientation applied, 16 bits scaled to 8
    (65535 becomes 255), alpha flattened on black, grey and colour turned into each other (ITU-R 601 luma), stretched to
    `size` (bilinear, antialiased when shrinking). Never read, with or without: several frames or pages, 32-bit and
    floating-point pixels, Lab. Of a camera's multi-picture JPEG the main picture is taken.

    Args:
        path: the file.
        channels: 1 for grey, 3 for RGB.
        size: (height, width) in pixels; None: as the file has it.
        convert: make the image fit instead of refusing it.

    Returns:
        uint8, (channels, H, W), values 0 to 255.

    Raises:
        UsageError: channels that are neither 1 nor 3, or a size below 1.
        DataError: no such file, no image, empty, truncated or damaged, too many pixels, or not as wanted; one line that
            names the file, what it is, what is wanted, and `--convert` where that mends it.
    """
    if channels not in (1, 3):
        raise UsageError(f"an image is read with 1 channel (grey) or 3 (RGB), not {channels}")
    if size is not None and (min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
        raise UsageError(f"size is (height, width) in pixels, each at least 1 and {MAX_PIXELS:,} in all, not {size}")
    name = shown(path)
    content = _content(Path(path), name)
    try:
        return _decode(content, name, channels, size, convert)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise _damaged(name, error) from error


def read_upright(path: Path | str) -> Image:
    """One image file as Pillow has it, checked as in `read_image`, decoded and turned upright; mode and depth as stored.

    Raises:
        DataError: see `read_image`.
    """
    name = shown(path)
    content = _content(Path(path), name)
    try:
        image, _, turned = _loaded(content, name)
        return image if turned is not None else _upright(image, _orientation(image))
    except DataError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def upright_size(path: Path | str) -> tuple[int, int]:
    """(height, width) in pixels of an image file once it is upright; of most formats only the head is looked at.

    Raises:
        DataError: no image, or a damaged head.
    """
    name = shown(path)
    content = _content(Path(path), name)
    try:
        image = _open(content, name)
        if image.format == "TIFF":
            image.load()  # which turns it
            return image.height, image.width
        return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)
    except DataError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _decode(content: bytes, name: str, channels: int, size: tuple[int, int] | None, convert: bool) -> Tensor:
    import numpy as np
    import torch

    image, bits, turned_by_loading = _loaded(content, name)
    orientation = turned_by_loading or _orientation(image)
    if convert:
        if turned_by_loading is None:
            image = _upright(image, orientation)
        pixels = _fitted(_flattened(image, bits), channels, size)
    else:
        _check_strict(image, bits, orientation, name, channels, size)
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1).copy())


def _loaded(content: bytes, name: str) -> tuple[Image, int, int | None]:
    """A decoded image that is whole, its bits per channel, and the EXIF orientation that decoding has already applied."""
    image = _open(content, name)
    bits = _bits(image)
    _check_readable(image, bits, name)
    if image.format == "PNG":
        _open(content, name).verify()  # checks every chunk's CRC; loading alone does not
        if _PNG_END not in content:  # neither does `verify` check the last one
            raise DataError(f"{name}: a truncated PNG, its end is missing; replace it or leave it out")
    # Pillow turns a TIFF itself while loading and drops the mark; a PNG's mark may follow its pixels.
    turned_by_loading = _orientation(image) if image.format == "TIFF" else None
    image.load()
    return image, bits, turned_by_loading


def _content(path: Path, name: str) -> bytes:
    """The bytes of a regular file: read once, so that what is checked is what is decoded."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{name} is a folder, not an image file")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{name} is no regular file, so no image can be read from it")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{name}: {status.st_size:,} bytes are too many for an image ({MAX_FILE_BYTES:,} at most)")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or _one_line(error)
        raise DataError(f"cannot read {name}: {why}") from None
    if not content:
        raise DataError(f"{name} is empty (0 bytes); replace it or leave it out")
    return content


def _open(content: bytes, name: str) -> Image:
    # Naming these two plugins spares Pillow the import of all of them.
    from PIL import Image as pillow
    from PIL import TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = pillow.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is no image, or damaged, or in a format that is not read (those read: "
            "PNG, JPEG, BMP, TIFF, WebP, PGM); replace it or leave it out"
        ) from None
    except pillow.DecompressionBombError:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} pixels; cut it into smaller images") from None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width}x{image.height} are more than {MAX_PIXELS:,} pixels; cut it into smaller images")
    return image


def _bits(image: Image) -> int:
    """Bits per channel in the file: 8 (or fewer), 12 or 16; 32 for whatever has no natural scale.

    Pillow's mode does not tell: 16-bit colour has mode RGB. The raw mode of its decoder does.
    """
    arguments = image.tile[0][3] if image.tile else ()  # type: ignore[attr-defined]
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    raw = str(arguments[0]) if arguments else ""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        return 32
    if image.format == "PPM" and len(arguments) == 2 and isinstance(arguments[1], int):
        return 16 if arguments[1] > 255 else 8  # the largest value of the file
    if raw == "I;12":
        return 12
    return 16 if ";16" in raw or image.mode.startswith("I") else 8


def _check_readable(image: Image, bits: int, name: str) -> None:
    """Refuse what no conversion mends."""
    if image.width < 1 or image.height < 1:
        raise DataError(f"{name}: an image of {image.width}x{image.height} has no pixels; replace it or leave it out")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"{name} has several frames or pages; save the one you want as a file of its own")
    if bits == 32 or image.mode not in _GREY | _COLOUR | _OTHER_COLOUR:
        raise DataError(f"{name}: pixels of Pillow mode {image.mode} are not read; save it as 8-bit grey or RGB")


def _check_strict(image: Image, bits: int, orientation: int, name: str, channels: int, size: tuple[int, int] | None) -> None:
    """Refuse what only a conversion makes fit, and say all of it at once."""
    is_, mends = [f"{bits}-bit" if bits > 8 else "8-bit"], []
    if bits > 8:
        mends.append("scale it to 8 bits")
    grey = image.mode in _GREY
    is_.append("grey" if grey else image.mode if image.mode in _OTHER_COLOUR else "colour")
    if grey and channels == 3:
        mends.append("repeat its grey in three channels")
    elif not grey and channels == 1:
        mends.append("make it grey")
    elif image.mode in _OTHER_COLOUR:
        mends.append("make it RGB")
    if image.has_transparency_data:
        is_.append("with transparency")
        mends.append("flatten it on black")
    if orientation != 1:
        is_.append(f"to be turned by its EXIF orientation {orientation}")
        mends.append("turn it upright")
    if size is not None and (image.height, image.width) != tuple(size):
        mends.append("resize it")
    if mends:
        of = "" if size is None else f", {size[1]}x{size[0]}"
        listed = ", ".join(mends[:-1]) + " and " + mends[-1] if len(mends) > 1 else mends[0]
        raise DataError(
            f"{name}: {' '.join(is_)}, {image.width}x{image.height} (width x height), where "
            f"8-bit {'grey' if channels == 1 else 'colour'}{of} is wanted; pass --convert to {listed}"
        )


def _orientation(image: Image) -> int:
    """EXIF orientation 1 to 8; 1 (as stored) also where the EXIF block is missing or damaged."""
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # the pixels do not depend on a damaged EXIF block
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _flattened(image: Image, bits: int) -> NDArray[uint8]:
    """8-bit grey (H, W) or RGB (H, W, 3), transparent pixels darkened by their alpha."""
    import numpy as np

    if image.mode.startswith("I"):
        top = (1 << bits) - 1
        to_byte = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
        if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
            to_byte = to_byte[::-1]  # which Pillow does at 8 bits only
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and 0 <= transparent <= top:
            to_byte[transparent] = 0
        return cast("NDArray[uint8]", to_byte[np.array(image).clip(0, top)])
    grey = image.mode in _GREY
    if not image.has_transparency_data:
        return np.array(image.convert("L" if grey else "RGB"))
    if bits > 8 and "transparency" in image.info:
        raise ValueError("a transparent colour in 16-bit colour is not read; save it with 8 bits")
    both = np.array(image.convert("RGBA")).astype(np.uint32)
    flat = ((both[..., :3] * both[..., 3:] + 127) // 255).astype(np.uint8)
    return flat[..., 0] if grey else flat


def _fitted(pixels: NDArray[uint8], channels: int, size: tuple[int, int] | None) -> NDArray[uint8]:
    """Grey (H, W) or RGB (H, W, 3) with the channels and the size that are wanted."""
    import numpy as np
    from PIL import Image as pillow

    image = pillow.fromarray(pixels)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    return np.array(image)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _damaged(name: str, error: BaseException) -> DataError:
    return DataError(f"{name}: a damaged image ({_one_line(error)}); replace it or leave it out")
