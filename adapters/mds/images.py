"""Columns of images that are decoded, by no other reader than that of the column's format.

Pillow knows many formats, and starts programs to read some. Images are opened, and their pixels
decoded by whoever looks at them; ``pil`` columns hold pixels.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jest_loader.checks import shown

if TYPE_CHECKING:
    from PIL import Image


class _Form(NamedTuple):
    """How a column's values are laid out.

    Args:
        num_reserved: Words before the number of images; None for a single image.
        kind: The format of each.
    """

    num_reserved: int | None
    kind: str


_FORMS = {
    "pil": _Form(None, "pil"),
    "list[pil]": _Form(1, "pil"),
    "list[jpeg]": _Form(1, "JPEG"),
    "list[png]": _Form(1, "PNG"),
    "jpeg_array": _Form(0, "JPEG"),
    "jpegarray": _Form(0, "JPEG"),
}
IMAGES = frozenset(_FORMS)
"""The encodings of columns that ``images_of`` reads."""


def images_of(encoding: str, value: bytes) -> "Image.Image | list[Image.Image]":
    """The image, or the images, of a value.

    Args:
        encoding: One of ``IMAGES``.
        value: As it is stored.

    Raises:
        ValueError: if the value is not laid out so, or an image is too large.
        Exception: whatever Pillow raises for what is no such image.
    """
    num_reserved, kind = _FORMS[encoding]
    open_one = _with_pixels if kind == "pil" else lambda image: _opened(image, kind)
    if num_reserved is None:
        return open_one(value)
    head = 4 * num_reserved
    (num_images,) = np.frombuffer(value, np.uint32, 1, head).tolist()
    sizes = np.frombuffer(value, np.uint32, num_images, head + 4).astype(np.int64)
    ends = head + 4 + 4 * num_images + sizes.cumsum()
    if num_images and ends[-1] != len(value):
        raise ValueError("its images do not fill it")
    places = zip((ends - sizes).tolist(), ends.tolist(), strict=True)
    return [open_one(value[start:end]) for start, end in places]


def _opened(image: bytes, kind: str) -> "Image.Image":
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(image), formats=(kind,))
    except UnidentifiedImageError as error:  # Its message is the address of a buffer.
        raise ValueError(f"it holds an image that is no {kind}") from error
    _check_size(*opened.size)
    return opened


def _with_pixels(image: bytes) -> "Image.Image":
    from PIL import Image

    width, height, mode_size = np.frombuffer(image, np.uint32, 3).tolist()
    mode, pixels = image[12 : 12 + mode_size].decode(), image[12 + mode_size :]
    _check_size(width, height)
    if width * height > 8 * len(pixels):  # Pillow makes room for all before it finds so.
        raise ValueError(f"{width} x {height} pixels are not in {len(pixels)} bytes")
    return Image.frombytes(mode, (width, height), pixels)


def _check_size(width: int, height: int) -> None:
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise ValueError(
            f"an image must have at most {most} pixels (PIL.Image.MAX_IMAGE_PIXELS), got "
            f"{shown(width)} x {shown(height)}"
        )
