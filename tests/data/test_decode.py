"""Decoding: strict by default, one clear line for each refusal, conversions against values worked out by hand."""

from __future__ import annotations

import io
import os
import random
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vaelens.data import decode
from vaelens.data.decode import list_images, read_image
from vaelens.errors import DataError, UsageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: bytes | Image.Image | np.ndarray, name: str = "image.png", **options: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else encoded(content, **options))
        return path

    return write


def complaint(path: Path, channels: int = 1, size: tuple[int, int] | None = None, convert: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, channels, size, convert)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert not (convert and "--convert" in message)
    return message


def values(image: torch.Tensor) -> np.ndarray:
    """(H, W) or (H, W, 3)."""
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


# --- as stored


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "pixels", "channels"),
    [(kind, {}, *of) for kind in ("PNG", "BMP", "TIFF", "PPM") for of in ((GREY, 1), (COLOUR, 3))]
    + [("WEBP", {"lossless": True}, COLOUR, 3)],  # WebP has no grey images
)
def test_lossless_formats_come_back_exactly(
    file: Any, kind: str, options: dict[str, Any], pixels: np.ndarray, channels: int, convert: bool
) -> None:
    path = file(pixels, "wrong suffix.jpg", kind=kind, **options)
    image = read_image(path, channels, (6, 9), convert)
    assert image.dtype == torch.uint8
    assert image.shape == (channels, 6, 9)
    assert image.is_contiguous()
    assert np.array_equal(values(image), pixels)
    image.zero_()  # belongs to the caller


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_jpeg_comes_back_closely(file: Any, channels: int, mode: str) -> None:
    ramp = Image.linear_gradient("L").resize((32, 24)).convert(mode)
    image = read_image(file(ramp, "a.jpg", kind="JPEG", quality=95), channels, (24, 32))
    assert np.abs(values(image).astype(int) - np.array(ramp)).max() <= 6


def test_one_bit_and_four_bits_are_grey(file: Any) -> None:
    bits = GREY > 127
    assert np.array_equal(values(read_image(file(Image.fromarray(bits)), 1)), bits * 255)
    four = png(2, 1, 4, 0, b"\0\x0f")
    assert values(read_image(file(four), 1)).tolist() == [[0, 255]]


def test_a_palette_is_colour(file: Any) -> None:
    palette = Image.fromarray(COLOUR).quantize(8)
    path = file(palette)
    assert np.array_equal(values(read_image(path, 3)), np.array(palette.convert("RGB")))
    assert "make it grey" in complaint(path, 1)


# --- refused unless converted


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


SIXTEEN = (GREY.astype(np.uint16) << 8) + GREY
RGBA = np.dstack([COLOUR, ALPHA])
PALETTE = Image.fromarray(COLOUR).quantize(8)
DEEP_RGB = png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 65535, 0, 32768, 1, 256, 65280))
DEEP_GREY_ALPHA = png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 65535, 65535, 65535, 0))

REFUSED = {
    "colour": (encoded(COLOUR), 1, "8-bit colour, 9x6", "make it grey"),
    "grey": (encoded(GREY), 3, "8-bit grey, 9x6", "repeat its grey in three channels"),
    "16-bit grey": (encoded(SIXTEEN), 1, "16-bit grey", "scale it to 8 bits"),
    "16-bit grey TIFF": (encoded(SIXTEEN, "TIFF"), 1, "16-bit grey", "scale it to 8 bits"),
    "16-bit PGM": (b"P5 2 1 65535 \xff\xff\0\0", 1, "16-bit grey", "scale it to 8 bits"),
    "10-bit PGM": (b"P5 2 1 1023 \x03\xff\0\0", 1, "16-bit grey", "scale it to 8 bits"),
    "16-bit PPM": (b"P6 1 1 65535 \xff\xff\0\0\x80\0", 3, "16-bit colour", "scale it to 8 bits"),
    "16-bit colour": (DEEP_RGB, 3, "16-bit colour", "scale it to 8 bits"),
    "16-bit grey with alpha": (DEEP_GREY_ALPHA, 3, "16-bit colour with transparency", "scale.* and flatten"),
    "RGBA": (encoded(RGBA), 3, "colour with transparency", "flatten it on black"),
    "LA": (encoded(np.dstack([GREY, ALPHA])), 1, "grey with transparency", "flatten it on black"),
    "transparent palette": (encoded(PALETTE, transparency=3), 3, "colour with transparency", "flatten it on black"),
    "transparent grey": (encoded(GREY, transparency=7), 1, "grey with transparency", "flatten it on black"),
    "RGBA WebP": (encoded(RGBA, "WEBP", lossless=True), 3, "colour with transparency", "flatten it on black"),
    "CMYK": (encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), 3, "8-bit CMYK", "make it RGB"),
    "turned JPEG": (encoded(GREY, "JPEG", exif=exif(6)), 1, "EXIF orientation 6", "turn it upright"),
    "turned PNG": (encoded(GREY, exif=exif(3)), 1, "EXIF orientation 3", "turn it upright"),
    "turned TIFF": (encoded(GREY, "TIFF", exif=exif(8)), 1, "EXIF orientation 8", "turn it upright"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_what_it_is_and_how_to_mend_it(file: Any, case: str) -> None:
    import re

    content, channels, is_, mend = REFUSED[case]
    message = complaint(file(content), channels)
    assert is_ in message
    assert re.search(f"is wanted; pass --convert to .*{mend}", message)
    converted = read_image(file(content), channels, (4, 5), convert=True)
    assert converted.shape == (channels, 4, 5)


def test_all_that_is_wrong_is_said_at_once(file: Any) -> None:
    path = file(encoded(RGBA))
    assert complaint(path, 1, (28, 28)) == (
        f"{path}: 8-bit colour with transparency, 9x6 (width x height), where 8-bit grey, 28x28 is wanted; "
        "pass --convert to make it grey, flatten it on black and resize it"
    )


@pytest.mark.parametrize("size", [(6, 8), (9, 6), (28, 28)])
def test_another_size(file: Any, size: tuple[int, int]) -> None:
    message = complaint(file(GREY), 1, size)
    assert "9x6" in message
    assert f"{size[1]}x{size[0]}" in message
    assert "resize it" in message


# --- conversions, by hand


def test_sixteen_bits_scale_to_eight(file: Any) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    by_hand = [[0, 0, 1, 1, 128, 254, 255, 255]]  # round(value / 257)
    for kind in ("PNG", "TIFF"):
        assert values(read_image(file(deep, kind=kind), 1, convert=True)).tolist() == by_hand
    big_endian = b"P5 8 1 65535 " + deep.astype(">u2").tobytes()
    assert values(read_image(file(big_endian), 1, convert=True)).tolist() == by_hand


def test_every_sixteen_bit_value(file: Any) -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(values(read_image(file(deep), 1, convert=True)), expected)


def test_sixteen_bit_colour_keeps_its_ends(file: Any) -> None:
    assert values(read_image(file(DEEP_RGB), 3, convert=True)).tolist() == [[[255, 0, 128], [0, 1, 255]]]


def test_white_is_zero_tiff_is_inverted_at_sixteen_bits_too(file: Any) -> None:
    deep = np.array([[0, 65535, 257]], np.uint16)
    path = file(encoded(deep, "TIFF", tiffinfo={262: 0}), "a.tif")
    assert values(read_image(path, 1, convert=True)).tolist() == [[255, 0, 254]]


def test_alpha_is_flattened_on_black(file: Any) -> None:
    pixels = np.array([[[200, 99, 50, 255], [200, 99, 50, 0], [200, 99, 50, 128]]], np.uint8)
    by_hand = [[[200, 99, 50], [0, 0, 0], [100, 50, 25]]]  # round(value * alpha / 255)
    assert values(read_image(file(pixels), 3, convert=True)).tolist() == by_hand
    grey = np.array([[[200, 255], [200, 0], [200, 128]]], np.uint8)
    assert values(read_image(file(grey), 1, convert=True)).tolist() == [[200, 0, 100]]
    assert values(read_image(file(DEEP_GREY_ALPHA), 1, convert=True)).tolist() == [[255, 0]]


def test_transparent_colours_become_black(file: Any) -> None:
    row = np.array([[7, 8, 200]], np.uint8)
    assert values(read_image(file(encoded(row, transparency=8)), 1, convert=True)).tolist() == [[7, 0, 200]]
    deep = png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 7 * 257, 8 * 257, 200 * 257), (b"tRNS", struct.pack(">H", 8 * 257)))
    assert values(read_image(file(deep), 1, convert=True)).tolist() == [[7, 0, 200]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    flat = values(read_image(file(encoded(palette, transparency=1)), 3, convert=True))
    assert flat.tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_colour_to_grey_is_itu_601(file: Any) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert values(read_image(file(pixels), 1, convert=True)).tolist() == [[76, 150, 29, 255]]


def test_grey_to_colour_repeats(file: Any) -> None:
    image = read_image(file(GREY), 3, convert=True)
    assert all(np.array_equal(channel.numpy(), GREY) for channel in image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(file: Any, kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(COLOUR, kind, exif=exif(orientation), **options)
    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    by_hand = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: COLOUR[::-1].transpose(1, 0, 2),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: COLOUR[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert np.array_equal(upright, by_hand)
    assert np.array_equal(values(read_image(file(content), 3, by_hand.shape[:2], convert=True)), by_hand)


def test_turned_before_it_is_resized(file: Any) -> None:
    pixels = np.zeros((2, 4), np.uint8)
    pixels[:, 2:] = 255  # right half white; orientation 6 shows the right half at the bottom
    image = values(read_image(file(encoded(pixels, exif=exif(6))), 1, (4, 2), convert=True))
    assert image.tolist() == [[0, 0], [0, 0], [255, 255], [255, 255]]


def test_shrinking_averages(file: Any) -> None:
    """A checkerboard shrunk sixteenfold is even grey: without antialiasing it would be black, white or striped."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = values(read_image(file(board), 1, (4, 4), convert=True)).astype(int)
    assert np.abs(small - 127.5).max() <= 2


def test_enlarging_is_bilinear(file: Any) -> None:
    image = values(read_image(file(np.array([[0, 100]], np.uint8)), 1, (1, 4), convert=True))
    assert image.tolist() == [[0, 25, 75, 100]]


def test_size_is_height_then_width(file: Any) -> None:
    assert read_image(file(GREY), 1, (11, 5), convert=True).shape == (1, 11, 5)


# --- never read


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})], ids=["apng", "tiff", "webp"]
)
def test_several_frames(file: Any, kind: str, options: dict[str, Any], convert: bool) -> None:
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert "several frames or pages" in complaint(file(content), 3, convert=convert)


def test_of_a_multi_picture_jpeg_the_main_one_is_taken(file: Any) -> None:
    main, preview = Image.new("RGB", (16, 8), (200, 30, 30)), Image.new("RGB", (4, 2), (0, 0, 0))
    content = encoded(main, "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    image = values(read_image(file(content, "phone.jpg"), 3, (8, 16)))
    assert np.abs(image.astype(int) - [200, 30, 30]).max() <= 4


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(COLOUR).convert("LAB"), "TIFF"),
        b"Pf 1 1 -1.0 \0\0\0\0",
    ],
    ids=["float", "32-bit", "Lab", "PFM"],
)
def test_pixels_without_a_natural_scale(file: Any, content: bytes, convert: bool) -> None:
    assert "save it as 8-bit" in complaint(file(content), 1, convert=convert)


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "is no image"),
        (encoded(COLOUR, "GIF"), "not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "is no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (bytes(1000), "is no image"),
        (b"\xff\xd8\xff", "image"),
        (b"P5 0 5 255 ", "image"),
    ],
    ids=["empty", "text", "gif", "eps", "svg", "signature", "zeros", "jpeg start", "no width"],
)
def test_no_image(file: Any, content: bytes, words: str, convert: bool) -> None:
    assert words in complaint(file(content), 1, convert=convert)


def test_bombs(file: Any) -> None:
    """Fewer bytes than a kilobyte that declare thousands of megapixels, and just over the limit."""
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (decode.MAX_PIXELS // 1000 + 1, 1001)):
        for convert in (False, True):
            message = complaint(file(png(width, height, 8, 0, bytes(1000))), 1, (28, 28), convert)
            assert "89,478,485 pixels" in message


def test_bombs_do_not_warn_and_filters_are_restored(file: Any, recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    filters = list(warnings.filters)
    complaint(file(png(10_000, 9_000, 8, 0, b"")), 1)
    assert not recwarn.list
    assert list(warnings.filters) == filters


def test_text_bombs_inside_a_png(file: Any) -> None:
    huge = zlib.compress(bytes(50_000_000))
    content = png(1, 1, 8, 0, b"\0\0", (b"zTXt", b"note\0\0" + huge))
    assert "damaged" in complaint(file(content), 1)


# --- damaged files

DAMAGEABLE = {
    "png": (encoded(GREY), 1),
    "jpg": (encoded(GREY, "JPEG"), 1),
    "progressive": (encoded(COLOUR, "JPEG", progressive=True), 3),
    "bmp": (encoded(GREY, "BMP"), 1),
    "tif": (encoded(GREY, "TIFF"), 1),
    "tif lzw": (encoded(COLOUR, "TIFF", compression="tiff_lzw"), 3),
    "webp": (encoded(COLOUR, "WEBP", lossless=True), 3),
    "pgm": (encoded(GREY, "PPM"), 1),
    "16-bit png": (encoded(SIXTEEN), 1),
    "palette": (encoded(PALETTE, transparency=3), 3),
}


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("case", DAMAGEABLE)
def test_every_truncation_is_refused(file: Any, case: str, convert: bool) -> None:
    content, channels = DAMAGEABLE[case]
    needed = len(content) - (3 if case == "bmp" else 0)  # rows of 9 bytes are padded to 12, the last row's padding too
    for length in {*range(0, needed, max(1, needed // 60)), *range(needed - 12, needed)}:
        with pytest.raises(DataError):
            read_image(file(content[:length]), channels, convert=convert)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(sorted(DAMAGEABLE)),
    seed=st.integers(0, 2**32),
    changes=st.integers(1, 12),
    near_start=st.booleans(),
    convert=st.booleans(),
)
def test_changed_bytes_raise_nothing_but_data_errors(
    tmp_path: Path, case: str, seed: int, changes: int, near_start: bool, convert: bool
) -> None:
    content, channels = DAMAGEABLE[case]
    mutated, rng = bytearray(content), random.Random(seed)
    for _ in range(changes):
        at = rng.randrange(min(80, len(mutated)) if near_start else len(mutated))
        kind = rng.randrange(4)
        if kind == 0 and len(mutated) > 9:
            del mutated[at : at + rng.randrange(1, 9)]
        elif kind == 1:
            mutated[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            mutated[at % len(mutated)] = rng.randrange(256)
    path = tmp_path / "mutated"
    path.write_bytes(mutated)
    try:
        image, message = read_image(path, channels, (6, 9), convert), ""
    except DataError as error:
        image, message = None, str(error)
    if image is None:
        assert str(path) in message
        assert "\n" not in message
    else:
        assert image.shape == (channels, 6, 9)
        assert image.dtype == torch.uint8


@pytest.mark.parametrize("position", range(0, len(DAMAGEABLE["png"][0]), 7))
def test_any_changed_bit_of_a_png_is_noticed(file: Any, position: int) -> None:
    content = bytearray(DAMAGEABLE["png"][0])
    content[position] ^= 0x10
    complaint(file(bytes(content)), 1)


def test_damaged_exif_does_not_hide_the_pixels(file: Any) -> None:
    content = encoded(GREY, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(values(read_image(file(content), 1)), GREY)


# --- files that are none


def test_missing_folder_pipe_and_link(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "missing.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "missing.png")
    assert "No such file" in complaint(tmp_path / "dangling.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    assert "symbolic links" in complaint(tmp_path / "circle.png")
    assert "is a folder" in complaint(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "no regular file" in complaint(tmp_path / "pipe.png")  # and does not wait for a writer
    assert "too long" in complaint(tmp_path / ("x" * 300 + ".png"))
    with pytest.raises(DataError, match="null byte"):
        read_image(tmp_path / "nul\0.png", 1)


def test_a_file_of_absurd_length_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as stream:
        stream.truncate(decode.MAX_FILE_BYTES + 1)
    assert "too many" in complaint(path)


def test_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "line\nbreak.png"
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_image(path, 1)
    assert "\n" not in str(caught.value)
    assert "line\\nbreak.png" in str(caught.value)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_channels(file: Any, channels: int) -> None:
    with pytest.raises(UsageError, match=rf"not {channels}"):
        read_image(file(GREY), channels)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (10**6, 10**6)])
def test_sizes(file: Any, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="height, width"):
        read_image(file(GREY), 1, size)


def test_many_threads(file: Any) -> None:
    path = file(encoded(COLOUR, exif=exif(1)))
    right: list[bool] = []

    def read() -> None:
        right.extend(np.array_equal(values(read_image(path, 3)), COLOUR) for _ in range(20))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 80


# --- real images


def test_real_screws(real_data: Path) -> None:
    folder = real_data / "mvtec_ad" / "screw" / "test"
    paths = list_images(folder)
    assert len(paths) == 160
    for path in paths[::40]:
        assert read_image(path, 1, (256, 256)).float().std() > 5
    assert "make it RGB" not in complaint(paths[0], 3, (256, 256))


def test_real_tiff_frames_and_jpegs(real_data: Path) -> None:
    clip = real_data / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2" / "Train" / "Train001"
    frames = list_images(clip)
    assert [path.name for path in frames[:2]] == ["001.tif", "002.tif"]
    pixels = values(read_image(frames[0], 1, (120, 180)))
    assert np.array_equal(pixels, np.array(Image.open(frames[0])))
    tiles = list_images(real_data / "magnetic_tile" / "train" / "good")
    assert len(tiles) == 500
    assert read_image(tiles[0], 1, (64, 64), convert=True).shape == (1, 64, 64)
    assert "resize it" in complaint(tiles[0], 1, (64, 64))


def test_real_jpeg_cut_anywhere(real_data: Path, file: Any) -> None:
    content = list_images(real_data / "magnetic_tile" / "train" / "good")[0].read_bytes()
    for length in range(0, len(content), max(1, len(content) // 50)):
        with pytest.raises(DataError):
            read_image(file(content[:length]), 1, convert=True)
