"""Small copies of pictures, for scorers that look at all candidates."""

from io import BytesIO

from PIL import Image

from jest_loader.adapters.images import DecodeImages
from jest_loader.pack.records import SkipError
from jest_loader.skipped import SkipRowsError

_QUALITY = 90
_ALL_CHROMA = 0  # Half of the colours of so small an image would be missed: twice the error.


class Thumbnails:
    """Makes thumbnails: the square that ``DecodeImages`` would make, as a JPEG.

    Args:
        size: Height and width in pixels.

    Raises:
        ValueError: if ``size`` is less than 1.
    """

    def __init__(self, size: int) -> None:
        self._decode = DecodeImages("image", size, num_threads=1)

    def __call__(self, image: bytes) -> bytes:
        """The thumbnail of an encoded picture.

        Raises:
            SkipError: if the picture cannot be decoded.
        """
        try:
            square = self._decode({"image": [image]})["image"][0]
        except SkipRowsError as error:
            raise SkipError("no readable JPEG, PNG or WebP image") from error
        file = BytesIO()
        thumbnail = Image.fromarray(square.permute(1, 2, 0).numpy())
        thumbnail.save(file, "JPEG", quality=_QUALITY, subsampling=_ALL_CHROMA)
        return file.getvalue()
