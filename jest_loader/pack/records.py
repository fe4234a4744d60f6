"""What the readers of pictures and captions yield, and the account of what they had to skip."""

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

from jest_loader.adapters.images.decoders import FORMATS, TooLargeError, choose_decoder, decode
from jest_loader.checks import shown

_LOG = logging.getLogger(__name__)
_MOST_IN_A_ROW = 100
MOST_IMAGE_BYTES = 1 << 28
"""The size of the largest picture that is read."""

DUPLICATE = "duplicate"
"""The reason of skipping what was written before, which loses nothing."""


@dataclass(frozen=True)
class Record:
    """One picture and its caption.

    Args:
        key: Its name in the input.
        image: The encoded picture, as it was found.
        caption: Text, not blank.
        extra: Further columns, as text.
    """

    key: str
    image: bytes
    caption: str
    extra: dict[str, str]


class SkipError(Exception):
    """A record cannot be used; the message is the reason, worded alike for all of a kind."""


@dataclass
class Tally:
    """Counts what was written and what was skipped, and says when it is too much.

    Args:
        max_skipped_fraction: The largest share of all records that may be skipped, from 0 to 1.
        written: Records used so far.
        skipped: For each reason, how often records were skipped.
        left_out: Records of a fold that was left out.
    """

    max_skipped_fraction: float
    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    _in_a_row: int = 0

    @property
    def num_records(self) -> int:
        """Records seen so far."""
        return self.written + self.skipped.total() + self.left_out

    def write(self) -> None:
        """Count a record that is used."""
        self.written += 1
        self._in_a_row = 0

    def skip(self, name: str, reason: str) -> None:
        """Count and log a record that is not used. Duplicates count for no limit.

        Raises:
            ValueError: after 100 in a row, unless all of them may be skipped.
        """
        name, reason = shown(name), shown(reason)
        _LOG.warning("skipped %s: %s", name, reason)
        self.skipped[reason] += 1
        if reason == DUPLICATE:
            return
        self._in_a_row += 1
        if self._in_a_row >= _MOST_IN_A_ROW and self.max_skipped_fraction < 1:
            raise ValueError(
                f"fewer than {_MOST_IN_A_ROW} records in a row may be skipped, got {self}; the "
                f"last was {name} ({reason}). Check the input's paths and columns"
            )

    def check(self) -> None:
        """See that enough was written.

        Raises:
            ValueError: if nothing was, or the skipped share is over the limit.
        """
        if not self.written:
            raise ValueError(f"at least one record must be usable, got {self}; check the input")
        num_lost = self.skipped.total() - self.skipped[DUPLICATE]
        if num_lost > self.max_skipped_fraction * (self.written + num_lost):
            raise ValueError(
                f"at most a fraction of {self.max_skipped_fraction:g} of the records may be "
                f"skipped, got {self}; mend the records that the log names, or raise "
                "--max-skipped-fraction"
            )

    def __str__(self) -> str:
        skipped = f"{self.skipped.total()} skipped"
        if self.skipped:
            reasons = (f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
            skipped += f" ({', '.join(reasons)})"
        left_out = f", {self.left_out} left out" if self.left_out else ""
        return f"{self.written} written, {skipped}{left_out}"


def check_image(image: bytes) -> None:
    """See that a picture can be decoded to its end, as training will decode it.

    Pillow's ``verify`` checks PNG's checksums, which decoding does not. A JPEG is decoded at an
    eighth of its size, which reads all of its data at a fraction of the cost.

    Raises:
        SkipError: if it cannot, or it is no JPEG, PNG or WebP picture.
    """
    try:
        decode(image, "RGB", choose_decoder("auto"), scale_to=1)
        with Image.open(BytesIO(image), formats=FORMATS) as picture:
            picture.verify()
    except TooLargeError as error:
        raise SkipError("a picture of too many pixels or scans (resize it)") from error
    except Exception as error:  # A reader may raise anything for damaged bytes.
        raise SkipError("no readable JPEG, PNG or WebP image") from error


def text_of(value: Any) -> str:
    """A JSON value as text: strings as they are, anything else in JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def extra_columns(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """The fields to keep, as text.

    Raises:
        SkipError: if one is missing.
    """
    missing = [name for name in names if fields.get(name) is None]
    if missing:
        raise SkipError(f"no {shown(missing[0])!r}")
    try:
        kept = {name: text_of(fields[name]) for name in names}
        for text in kept.values():
            text.encode()
    except Exception:  # half a character, or nested too deeply
        raise SkipError("a kept column that is no text in UTF-8") from None
    return kept


def caption_of(value: Any) -> str:
    """A caption without surrounding blanks.

    Raises:
        SkipError: if there is none.
    """
    if not isinstance(value, str):
        raise SkipError("no caption")
    caption = value.strip()
    if not caption:
        raise SkipError("empty caption")
    if "\0" in caption:
        raise SkipError("caption with a NUL character (is it in UTF-16?)")
    if not caption.isascii():
        try:
            caption.encode()
        except UnicodeEncodeError:
            raise SkipError("caption with half a character (lone surrogate)") from None
    return caption


def digest_of(*parts: bytes | str) -> bytes:
    """A digest by which records are told apart, in place of what they hold."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()
