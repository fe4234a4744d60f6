"""Images that cannot be decoded, and odd ones that can."""

import random
import struct
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from jest_loader import SkipRowsError
from jest_loader.adapters.images import DecodeImages
from tests.adapters.pictures import DECODERS, FILES, file, needs_simplejpeg, photo


def with_shorter_chunk(png):
    """Says of the pixels' chunk that it is shorter than it is."""
    start = png.index(b"IDAT") - 4
    length = int.from_bytes(png[start : start + 4])
    return png[:start] + (length - 64).to_bytes(4) + png[start + 4 :]


JPEG = FILES["jpeg"]
DAMAGED = {
    "half": (JPEG[: len(JPEG) // 2], "truncated"),
    "half progressive": (FILES["progressive"][:2000], "truncated"),
    "without the last bytes": (JPEG[:-20], "truncated"),
    "head only": (JPEG[:300], "Truncated File Read"),
    "half png": (FILES["png"][: len(FILES["png"]) // 2], "truncated"),
    "chunk of another length": (with_shorter_chunk(FILES["png"]), "broken PNG file"),
    "half webp": (FILES["webp"][: len(FILES["webp"]) // 2], "decode"),
    "empty": (b"", "at least one byte"),
    "text": (b"no image at all", "read as JPEG, PNG, WEBP"),
    "another format": (file(photo(20, 20), "BMP"), "read as JPEG, PNG, WEBP"),
    "string": ("a caption", "must be bytes, got str"),
    "nothing": (None, "must be bytes, got NoneType"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("fast_scaling", [False, True])
def test_rows_to_skip_are_named_together(decoder, num_threads, fast_scaling):
    column = []
    for encoded, _ in DAMAGED.values():
        column += [FILES["jpeg"], encoded]
    decode_images = DecodeImages(
        "jpg", 40, decoder=decoder, num_threads=num_threads, fast_scaling=fast_scaling
    )
    with pytest.raises(SkipRowsError) as raised:
        decode_images({"jpg": column})
    reasons = raised.value.reasons
    assert list(reasons) == list(range(1, len(column), 2))
    for (name, (_, words)), reason in zip(DAMAGED.items(), reasons.values(), strict=True):
        assert words in reason, name
    assert decode_images({"jpg": column[::2]})["jpg"].shape[0] == len(DAMAGED)


@needs_simplejpeg
@pytest.mark.parametrize("name", ["jpeg", "progressive"])
def test_lost_data_before_an_end_marker_is_refused(name):
    """Pillow, OpenCV, torchvision and torchcodec all fill these with grey and return them."""
    cut = FILES[name][: len(FILES[name]) // 2] + b"\xff\xd9"
    with pytest.raises(SkipRowsError, match="premature end of data segment"):
        DecodeImages("jpg", 40, decoder="simplejpeg")({"jpg": [cut]})


@needs_simplejpeg
def test_what_libjpeg_only_grumbles_at_is_decoded():
    """Junk between segments: simplejpeg refuses, Pillow decodes, nothing is lost."""
    import simplejpeg

    start = JPEG.index(b"\xff\xda")
    odd = JPEG[:start] + b"\0\0\0" + JPEG[start:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    images = DecodeImages("jpg", 40, decoder="simplejpeg")({"jpg": [odd, JPEG]})["jpg"]
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("decoder", DECODERS)
def test_broken_bytes_never_raise_anything_else(decoder):
    draw = random.Random(0)
    names = ["jpeg", "progressive", "orientation 6", "png", "clear palette", "webp", "16-bit png"]
    rows = []
    for _ in range(400):
        encoded = bytearray(FILES[draw.choice(names)])
        for _ in range(draw.choice([1, 3, 20])):
            encoded[draw.randrange(min(len(encoded), draw.choice([60, 10**6])))] ^= (
                1 << draw.randrange(8)
            )
        rows.append(bytes(encoded))
    with pytest.raises(SkipRowsError) as raised:
        DecodeImages("jpg", 16, decoder=decoder, num_threads=2)({"jpg": rows})
    assert 40 < len(raised.value.reasons) < 400


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_leaves_an_image_as_it_lies():
    encoded = file(photo(121, 90), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    images = DecodeImages("jpg", 40)({"jpg": [encoded, file(photo(121, 90))]})["jpg"]
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("kind", [EOFError, IndexError, TypeError, struct.error, UserWarning])
def test_whatever_a_reader_says_of_broken_bytes(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", Mock(side_effect=kind("odd bytes")))
    with pytest.raises(SkipRowsError, match="cannot be decoded: odd bytes"):
        DecodeImages("jpg", num_threads=1)({"jpg": [FILES["png"]]})
