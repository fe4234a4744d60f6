"""Images made to take memory or time, and readers that raise anything."""

import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from jest_loader import SkipRowsError
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import MAX_PIXELS
from jest_loader.adapters.mds.shard import decode
from jest_loader.pack.records import SkipError, check_image
from jest_loader.ragged import RaggedBytes
from tests.adapters.pictures import DECODERS, FILES, file, photo


def png(width, height, *chunks, depth=8, kind=0):
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (head, *chunks, (b"IEND", b""))
    )


def jpeg(width, height):
    """A small JPEG that says it has this size."""
    small = file(photo(8, 8))
    size = small.index(b"\xff\xc0") + 5
    return small[:size] + struct.pack(">HH", height, width) + small[size + 4 :]


def many_scans(width, height, number):
    """A progressive JPEG whose last scan is repeated."""
    whole = file(photo(width, height), progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * number + b"\xff\xd9"


def reason_of(encoded, **options):
    images = DecodeImages("x", 8, num_threads=1, **options)
    with warnings.catch_warnings(action="ignore"), pytest.raises(SkipRowsError) as raised:
        images({"x": [encoded]})
    return raised.value.reasons[0]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("make", [png, jpeg])
def test_too_many_pixels_are_refused_from_the_limit_on(make, decoder):
    side = int(MAX_PIXELS**0.5) + 1
    assert f"at most {MAX_PIXELS} pixels" in reason_of(make(side, side), decoder=decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_the_limit_on_pixels_is_an_argument(name, decoder):
    width, height = Image.open(io.BytesIO(FILES[name])).size
    exact = DecodeImages("x", 8, decoder=decoder, max_pixels=width * height)
    assert exact({"x": [FILES[name]]})["x"].shape == (1, 3, 8, 8)
    reason = reason_of(FILES[name], decoder=decoder, max_pixels=width * height - 1)
    assert f"got {width} x {height}" in reason


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_jpeg_of_thousands_of_scans_is_refused_at_once(decoder):
    encoded = many_scans(2000, 2000, 1500)
    start = time.monotonic()
    assert "scans of 2000 x 2000" in reason_of(encoded, decoder=decoder)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("error", [AssertionError, MemoryError, RecursionError, KeyError])
def test_whatever_a_reader_raises_is_a_bad_row(error, monkeypatch):
    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(Image, "open", fails)
    assert error.__name__ in reason_of(FILES["png"], decoder="pillow")
    with pytest.raises(SkipError):
        check_image(FILES["png"])


TOO_LARGE = {
    "png": png(9500, 9500),
    "png that Pillow refuses": png(30_000, 30_000),
    "jpeg": jpeg(9500, 9500),
    "jpeg that Pillow refuses": jpeg(30_000, 30_000),
    "scans": many_scans(2000, 2000, 1500),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoded", TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_to_decode_does_not_pack(encoded, decoder):
    assert " at most " in reason_of(encoded, decoder=decoder)
    reason = "a picture of too many pixels or scans"
    with warnings.catch_warnings(action="ignore"), pytest.raises(SkipError, match=reason):
        check_image(encoded)


@pytest.mark.parametrize("encoded", [png(4, 4), png(0, 0)], ids=["no pixels' chunk", "no size"])
def test_what_does_not_decode_does_not_pack(encoded):
    assert reason_of(encoded)
    with pytest.raises(SkipError, match="no readable JPEG"):
        check_image(encoded)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_grey_is_white(dtype):
    grey = np.zeros((4, 4), dtype)
    grey[2:] = np.iinfo(dtype).max // 255 * 200
    encoded = file(Image.fromarray(grey), "PNG", transparency=0)
    for mode in ("RGB", "L"):
        pixels = DecodeImages("x", 4, mode=mode)({"x": [encoded]})["x"][0]
        assert (pixels[:, :2] == 255).all()
        assert (pixels[:, 2:] == 200).all()


GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
COLORS = (b"PLTE", bytes([200, 10, 20, 0, 0, 200]))


def row_of(value, depth, kind=GREY, *chunks):
    """A PNG of 8 x 1 pixels that have this value in all channels."""
    channels = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}[kind]
    bits = "".join(f"{value:0{depth}b}" for _ in range(8 * channels))
    data = zlib.compress(b"\0" + int(bits, 2).to_bytes(len(bits) // 8))
    return png(8, 1, *chunks, (b"IDAT", data), depth=depth, kind=kind)


def clear(*values):
    return (b"tRNS", struct.pack(f">{len(values)}H", *values))


ROWS = {
    "1 bit": (row_of(1, 1), 255),
    "2 bits": (row_of(2, 2), 170),
    "4 bits": (row_of(2, 4), 34),
    "16 bits": (row_of(51400, 16), 200),
    "1 bit, clear": (row_of(0, 1, GREY, clear(0)), 255),
    "2 bits, clear": (row_of(1, 2, GREY, clear(1)), 255),
    "4 bits, clear": (row_of(2, 4, GREY, clear(2)), 255),
    "4 bits, another clear": (row_of(2, 4, GREY, clear(3)), 34),
    "8 bits, clear": (row_of(17, 8, GREY, clear(17)), 255),
    "16 bits, clear": (row_of(51400, 16, GREY, clear(51400)), 255),
    "colour of 16 bits": (row_of(51400, 16, RGB), 200),
    "colour of 16 bits, clear": (row_of(51400, 16, RGB, clear(51400, 51400, 51400)), 255),
    "grey and alpha": (row_of(0, 8, GREY_ALPHA), 255),
    "grey and alpha of 16 bits": (row_of(0, 16, GREY_ALPHA), 255),
    "colour and alpha of 16 bits": (row_of(0, 16, RGBA), 255),
    "palette of 1 bit": (row_of(0, 1, PALETTE, COLORS), (200, 10, 20)),
    "palette of 4 bits": (row_of(1, 4, PALETTE, COLORS), (0, 0, 200)),
    "palette, clear": (row_of(1, 8, PALETTE, COLORS, (b"tRNS", b"\xff\0")), 255),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ROWS)
def test_png_of_every_depth_and_kind(name, decoder):
    encoded, expected = ROWS[name]
    pixels = DecodeImages("x", 1, decoder=decoder)({"x": [encoded]})["x"]
    assert pixels.flatten().tolist() == np.broadcast_to(expected, 3).tolist()


@pytest.mark.parametrize("kind", ["CMYK", "YCbCr", "MPO", "PNG", "WEBP"])
def test_the_first_picture_is_decoded_whatever_its_mode(kind):
    red, blue = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    if kind in ("CMYK", "YCbCr"):
        encoded = file(red.convert(kind))
    else:
        lossless = {"lossless": True} if kind == "WEBP" else {}
        encoded = file(red, kind, save_all=True, append_images=[blue], **lossless)
    pixels = DecodeImages("x", 16)({"x": [encoded]})["x"].int()
    assert (pixels - torch.tensor([255, 0, 0])[:, None, None]).abs().max() <= 3


@pytest.mark.parametrize(
    "encoded",
    [
        *(file(Image.new(mode, (8, 8)), "TIFF") for mode in ("LAB", "F", "CMYK", "I;16B")),
        file(photo(8, 8), "TIFF", save_all=True, append_images=[photo(8, 8)]),
        file(photo(8, 8).quantize(16), "GIF", save_all=True, append_images=[photo(8, 8)]),
        row_of(0, 4, PALETTE),
        row_of(0, 4, PALETTE, COLORS, (b"tRNS", bytes(500))),
        row_of(0, 8, GREY, (b"tRNS", b"")),
        row_of(0, 8, RGB, (b"tRNS", b"\0")),
        row_of(0, 3),
        row_of(0, 4, RGBA),
    ],
    ids=[
        "LAB", "F", "CMYK", "I;16B", "TIFF of two", "GIF of two", "no palette", "long tRNS",
        "no tRNS", "short tRNS", "3 bits", "colour of 4 bits",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_is_no_picture_of_ours_is_a_bad_row(encoded, mode):
    assert reason_of(encoded, mode=mode)
    with pytest.raises(SkipError):
        check_image(encoded)


@pytest.mark.parametrize("kind", ["EPS", "BMP", "PNG"])
def test_columns_of_jpegs_hold_no_other_format(kind):
    other = file(photo(8, 8), kind)
    pytest.importorskip("streaming")
    stored = struct.pack("<II", 1, len(other)) + other
    with pytest.raises(ValueError, match="holds an image that is no JPEG"):
        decode("jpeg_array", RaggedBytes([stored]))
