"""Images made to take memory or time, and readers that raise anything."""

import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from jest_loader import SkipRowsError
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import MAX_PIXELS
from jest_loader.adapters.mds.shard import decode
from jest_loader.pack.records import SkipError, check_image
from jest_loader.ragged import RaggedBytes
from tests.adapters.pictures import DECODERS, FILES, file, photo


def png(width, height, *chunks):
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
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


@pytest.mark.parametrize(
    "encoded",
    [png(4, 4), png(9500, 9500), png(0, 0), jpeg(9500, 9500), many_scans(2000, 2000, 1500)],
    ids=["no pixels' chunk", "huge png", "no size", "huge jpeg", "scans"],
)
def test_what_does_not_decode_does_not_pack(encoded):
    reason_of(encoded)
    with warnings.catch_warnings(action="ignore"), pytest.raises(SkipError):
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


@pytest.mark.parametrize("kind", ["EPS", "BMP", "PNG"])
def test_columns_of_jpegs_hold_no_other_format(kind):
    other = file(photo(8, 8), kind)
    pytest.importorskip("streaming")
    stored = struct.pack("<II", 1, len(other)) + other
    with pytest.raises(ValueError, match=f"of format {kind}"):
        decode("jpeg_array", RaggedBytes([stored]))
