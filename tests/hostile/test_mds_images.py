"""Columns of images open what their name says, and pictures of a size that was looked at."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from jest_loader.adapters.mds.images import IMAGES
from jest_loader.adapters.mds.shard import decode
from jest_loader.ragged import RaggedBytes

PICTURE = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
PIXELS = PICTURE.tobytes()


def file(kind, picture=PICTURE):
    written = io.BytesIO()
    picture.save(written, kind)
    return written.getvalue()


def pixels(width=4, height=4, mode=b"RGB", content=PIXELS):
    return struct.pack("<3I", width, height, len(mode)) + mode + content


def several(encoding, *images):
    head = [0] if encoding.startswith("list") else []
    words = [*head, len(images), *map(len, images)]
    return struct.pack(f"<{len(words)}I", *words) + b"".join(images)


def one(encoding, value):
    return decode(encoding, RaggedBytes([value]))[0]


FORMATS = {
    "jpeg_array": "JPEG", "jpegarray": "JPEG", "list[jpeg]": "JPEG", "list[png]": "PNG",
}  # fmt: skip


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_images_of_a_column_as_streaming_has_them(encoding, num_images):
    found = one(encoding, several(encoding, *[file(FORMATS[encoding])] * num_images))
    expected = Image.open(io.BytesIO(file(FORMATS[encoding])))
    assert [image.tobytes() for image in found] == [expected.tobytes()] * num_images


def test_pixels_of_a_column_as_streaming_has_them():
    from streaming.base.format.mds.encodings import mds_encode

    for mode in ("RGB", "1", "L", "I;16"):
        picture = Image.new(mode, (9, 5), 1)
        assert one("pil", mds_encode("pil", picture)) == picture
        assert one("list[pil]", mds_encode("list[pil]", [picture] * 2)) == [picture] * 2
    assert {*FORMATS, "pil", "list[pil]"} == IMAGES


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("kind", ["EPS", "BMP", "GIF", "TIFF", "JPEG", "PNG"])
def test_no_reader_of_another_format_sees_the_bytes(encoding, kind, monkeypatch):
    value = several(encoding, file(kind))
    if kind == FORMATS[encoding]:
        return
    Image.init()

    def seen(*_):
        raise AssertionError

    monkeypatch.setitem(Image.OPEN, kind, (seen, seen))
    with pytest.raises(ValueError, match="holds an image that is no"):
        one(encoding, value)


WIDE = Image.new("1", (30_000, 3000))
BAD = {
    "wide JPEG": ("list[jpeg]", several("list", file("JPEG", WIDE.convert("L")))),
    "wide PNG": ("list[png]", several("list", file("PNG", WIDE))),
    "wide pixels": ("pil", pixels(30_000, 3000, b"1", bytes(3000 * 3750))),
    "pixels that are not there": ("pil", pixels(9000, 9000)),
    "width of 32 bits": ("pil", pixels(2**32 - 1, 2**32 - 1)),
    "too few pixels": ("pil", pixels(content=bytes(47))),
    "mode": ("pil", pixels(mode=b"XYZ")),
    "mode without end": ("pil", struct.pack("<3I", 4, 4, 2**32 - 1)),
    "no head": ("pil", b"abc"),
    "images without end": ("list[jpeg]", struct.pack("<2I", 0, 2**32 - 1)),
    "an image beyond": ("list[jpeg]", struct.pack("<3I", 0, 1, 10**6) + file("JPEG")),
    "more than images": ("list[jpeg]", several("list", file("JPEG")) + b"x"),
    "nothing": ("jpeg_array", b""),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("encoding", "value"), BAD.values(), ids=BAD)
def test_values_that_lie_are_refused(encoding, value):
    with pytest.raises(ValueError, match=r"pixels|mode|fill|buffer|bytes|image data"):
        one(encoding, value)


def test_arrays_of_another_byte_order_come_in_that_of_the_processor():
    values = np.arange(6, dtype=">i4").reshape(3, 2)
    found = decode("ndarray:>i4:2", RaggedBytes([row.tobytes() for row in values]))
    assert found.dtype == np.dtype("int32")
    assert found.dtype.isnative
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize("form", ["O:1", "V8:1", "S4:2", "f4,f4:1", "M8[s]:1", "uint8:-8", "i8:1,"])
def test_arrays_are_of_numbers(form):
    with pytest.raises((ValueError, TypeError)):
        decode(f"ndarray:{form}", RaggedBytes([bytes(8)]))
