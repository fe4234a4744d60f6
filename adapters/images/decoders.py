"""One encoded image to pixels: by Pillow, and by simplejpeg where that gives the same pixels.

Pillow is the specification. simplejpeg decodes plain JPEGs to the same bits in little more than
half the time; PNG, WebP, CMYK and whatever it does not know go to Pillow. Both are imported when
they are used.
"""

import io
import threading
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown

if TYPE_CHECKING:
    from PIL import Image, ImageFile

Decoder = Literal["simplejpeg", "pillow"]
Mode = Literal["RGB", "L"]
Pixels = NDArray[np.uint8]
"""[height, width, channels]."""

FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats that are read. With others, such as EPS, a data set could start programs."""

MAX_PIXELS = 89_478_485
"""Pixels of the largest image, unless said otherwise; from here on Pillow warns of a bomb."""

# A progressive JPEG has some 10 scans over its pixels. Thousands, of 10 bytes each, take hours.
_MAX_FULL_SCANS = 16
# Markers that a length follows: tables, applications' data and comments.
_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
_ORIENTATION = 0x0112
_PNG_DEPTH = 24  # the byte of its head that says the bits of a channel
# EXIF and XMP, where an orientation may be said. Few images of a data set have either.
_TURNED = (b"Exif\0\0", b"tiff:Orientation")
# What libjpeg says when it makes up pixels. Its other warnings lose nothing.
_LOST = ("premature end of data segment", "bad Huffman code", "bad arithmetic code", "of RST")
# Memory of larger images, which are rare, is not kept.
_MAX_SCRATCH_BYTES = 1 << 24

_local = threading.local()


class DecodeError(ValueError):
    """An image that cannot be decoded; says why."""


class TooLargeError(DecodeError):
    """An image that would take too much memory or time."""


def choose_decoder(decoder: str) -> Decoder:
    """The decoder to use: ``"auto"`` is simplejpeg where it is installed, Pillow elsewhere.

    Raises:
        ValueError: if there is none of this name, or it is not installed.
    """
    names = ("auto", *get_args(Decoder))
    if decoder not in names:
        raise ValueError(f"decoder must be one of {', '.join(names)}, got {decoder!r}")
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "images are decoded with Pillow, which is not installed; pip install pillow simplejpeg"
        ) from error
    if decoder == "pillow":
        return "pillow"
    try:
        import simplejpeg  # noqa: F401
    except ImportError as error:
        if decoder == "auto":
            return "pillow"
        raise ValueError(
            f"decoder={decoder!r} needs a package that is not installed; pip install simplejpeg, "
            "or use decoder='auto'"
        ) from error
    return "simplejpeg"


def decode(
    encoded: object,
    mode: Mode,
    decoder: Decoder,
    *,
    scale_to: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """The image upright, with 8 bits a channel, and white where it is transparent.

    Args:
        encoded: A JPEG, PNG or WebP (of an animation the first frame), as bytes, bytearray or
            memoryview.
        mode: ``"RGB"``, or ``"L"`` for grey: of a JPEG the luma that it stores.
        decoder: One that is installed.
        scale_to: Decode a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest whose shorter side has
            at least so many pixels; None for its own size.
        max_pixels: Pixels of the largest image that is decoded. A JPEG's scans may cover 16 times
            as many.

    Returns:
        uint8 [height, width, channels]. With simplejpeg it may lie in memory that this thread's
        next call overwrites.

    Raises:
        DecodeError: if it cannot be decoded, or only in part.
        TooLargeError: if it has more than ``max_pixels``.
    """
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise DecodeError(f"an encoded image must be bytes, got {type(encoded).__name__}")
    if len(encoded) == 0:
        raise DecodeError("an encoded image must have at least one byte, got none")
    from PIL import Image, UnidentifiedImageError

    content = bytes(encoded)  # No copy where it is bytes already.
    try:
        pixels = None
        if decoder == "simplejpeg" and content.startswith(b"\xff\xd8"):
            pixels = _simplejpeg(content, mode, scale_to, max_pixels)
        return _pillow(content, mode, scale_to, max_pixels) if pixels is None else pixels
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:  # raised before anyone can look at the size
        raise TooLargeError(
            f"an image must have at most {max_pixels} pixels, got more ({error}); resize it, or "
            "raise max_pixels of DecodeImages and PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:  # its message is the address of a buffer
        raise DecodeError(f"the image cannot be read as {', '.join(FORMATS)}") from error
    except Exception as error:  # A reader may raise anything for damaged bytes.
        reason = shown(error) or type(error).__name__
        raise DecodeError(f"the image cannot be decoded: {reason}") from error


def flat(image: "Image.Image") -> "Image.Image":
    """Eight bits a channel, and white where it is transparent.

    ``convert`` alone would clip 16 bits and ignore transparency.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits: "I;16", or "I" in older Pillow.
        deep = np.asarray(image)
        grey = (deep // 257).astype(np.uint8)
        clear = image.info.get("transparency")  # The one value that is.
        return Image.fromarray(
            grey if clear is None else np.where(deep == clear, np.uint8(255), grey)
        )
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA"))
    return image


def _pillow(encoded: bytes, mode: Mode, scale_to: int | None, max_pixels: int) -> Pixels:
    with _open(encoded) as image:
        _check_work(encoded, image.size, max_pixels)
        if image.format in ("JPEG", "MPO"):
            factor = _factor(image.size, scale_to)
            # Pillow chooses the factor from the size that it is asked for; with None it takes 1.
            size = (image.width // factor, image.height // factor) if factor > 1 else None
            image.draft(mode, size)
        _scale_clear_grey(image, encoded)
        # A copy, since Pillow's own memory is read-only, which torch warns of.
        pixels = np.array(flat(image).convert(mode))
        return _upright(pixels.reshape(*pixels.shape[:2], len(mode)), _orientation(image))


def _scale_clear_grey(image: "Image.Image", encoded: bytes) -> None:
    """Scale the value that is transparent in a grey PNG of 2 or 4 bits, as Pillow does pixels."""
    value = image.info.get("transparency")
    depth = encoded[_PNG_DEPTH] if image.format == "PNG" and image.mode == "L" else 8
    if isinstance(value, int) and value < 1 << depth < 256:
        image.info["transparency"] = value * 255 // ((1 << depth) - 1)


def _simplejpeg(encoded: bytes, mode: Mode, scale_to: int | None, max_pixels: int) -> Pixels | None:
    """The pixels; None if Pillow is to decode, or to say what is wrong."""
    import simplejpeg

    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    _check_work(encoded, (width, height), max_pixels)
    if colors not in ("YCbCr", "Gray"):
        return None
    factor = _factor((width, height), scale_to)
    height, width = (-(-side // factor) for side in (height, width))
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            encoded,
            colorspace="GRAY" if mode == "L" else "RGB",
            min_height=height,
            min_width=width,
            buffer=_scratch(height * width * len(mode)),
        )
    except ValueError as error:
        if any(words in str(error) for words in _LOST):
            raise DecodeError(f"the image cannot be decoded: {error}") from error
        return None
    if any(mark in encoded for mark in _TURNED):
        with _open(encoded) as image:
            pixels = _upright(pixels, _orientation(image))
    return pixels


def _open(encoded: bytes) -> "ImageFile.ImageFile":
    # Naming the formats keeps Pillow from importing their readers itself.
    from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    return Image.open(io.BytesIO(encoded), formats=FORMATS)


def _check_work(encoded: bytes, size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image that would take too much memory or time, before it is decoded."""
    width, height = size
    num_pixels = width * height
    if num_pixels > max_pixels:
        raise TooLargeError(
            f"an image must have at most {max_pixels} pixels, got {width} x {height}; resize it, "
            "or raise max_pixels of DecodeImages"
        )
    # Coded pixels do not contain a marker. The two bytes after it are a length below 256.
    if encoded.startswith(b"\xff\xd8") and not _ends_with_one_scan(encoded):
        num_scans = encoded.count(b"\xff\xda\x00")
        if num_scans * num_pixels > _MAX_FULL_SCANS * max_pixels:
            raise TooLargeError(
                f"the scans of a JPEG must cover at most {_MAX_FULL_SCANS * max_pixels} pixels, "
                f"got {num_scans} scans of {width} x {height}; save it with fewer"
            )


def _ends_with_one_scan(encoded: bytes) -> bool:
    """Whether a JPEG's first scan is its only one by its head; counting them takes longer."""
    place, num_components = 2, 0
    while encoded.startswith(b"\xff", place) and place + 10 <= len(encoded):
        marker = encoded[place + 1]
        if marker == 0xDA:
            return encoded[place + 4] == num_components
        if marker in (0xC0, 0xC1):  # neither progressive nor lossless
            num_components = encoded[place + 9]
        elif marker not in _SEGMENTS:
            return False
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4])
    return False


def _factor(size: tuple[int, int], scale_to: int | None) -> int:
    # Decoding at the sizes between, 7/8 to 3/8, takes longer than at the next larger of these.
    if scale_to is None:
        return 1
    return next((factor for factor in (8, 4, 2) if min(size) // factor >= scale_to), 1)


def _orientation(image: "Image.Image") -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # damaged EXIF tells no orientation; the pixels are whole


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """A view of the pixels, turned and mirrored by EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _scratch(num_bytes: int) -> Pixels:
    """This thread's memory, overwritten by its next call: new pages cost a quarter of a decode."""
    buffer: Pixels | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < num_bytes:
        buffer = np.empty(num_bytes, np.uint8)
        if num_bytes <= _MAX_SCRATCH_BYTES:
            _local.buffer = buffer
    return buffer
