"""Words to token ids without a vocabulary file, and what all tokenizers do with long captions."""

import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from jest_loader.checks import shown

PADDING = 0

# Longer captions are rare; kept, they would fill the memory.
_MAX_KEPT_LETTERS = 256

# Far above what real text has per token (CLIP's longest of letters and its blank have 25).
_LETTERS_A_TOKEN = 32
_LEAST_LETTERS = 2048

_WORD = re.compile(r"[^\W_]+|[^\w\s]")


class HashTokenizer:
    """Lower-cased words hashed to ``vocab_size`` - 1 ids; id 0 is padding.

    Hashing needs no training pass and no file, and gives the same ids everywhere. Words that
    collide share an embedding: with V ids and n distinct words, about n / V of them do.

    Args:
        vocab_size: Number of ids, at least 2.
        context_length: Tokens per caption; longer captions are cut.

    Raises:
        ValueError: if ``vocab_size`` or ``context_length`` is too small.
    """

    def __init__(self, vocab_size: int, context_length: int) -> None:
        if vocab_size < 2 or context_length < 1:
            raise ValueError(
                "vocab_size must be at least 2 and context_length at least 1, "
                f"got {vocab_size} and {context_length}"
            )
        self.vocab_size = vocab_size
        self.context_length = context_length

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Int64 [captions, context_length].

        Raises:
            ValueError: as ``cut``.
        """
        rows = [
            (_kept_ids if len(caption) <= _MAX_KEPT_LETTERS else _ids)(
                caption, self.vocab_size, self.context_length
            )
            for caption in cut(captions, self.context_length)
        ]
        ids = np.frombuffer(bytearray(b"".join(rows)), np.int64)
        return torch.from_numpy(ids).view(len(rows), self.context_length)


def cut(captions: Sequence[str], context_length: int, *, from_end: bool = False) -> list[str]:
    """The captions without the letters that lie far beyond the tokens that are kept.

    The first 32 x ``context_length`` letters of a caption are left, and at least 2,048. No
    vocabulary has tokens of so many letters on average, so those within the context stay the same;
    only thousands of blanks or of HTML's entities in front could have let later words in.

    Args:
        captions: Texts of any length.
        context_length: Tokens per caption.
        from_end: Whether the last letters are left instead.

    Raises:
        ValueError: if a caption is not text.
    """
    if isinstance(captions, str):
        raise ValueError(f"captions must be a list of texts, got the text {shown(captions)!r}")
    for row, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(
                f"captions must be text, but that of row {row} is {shown(repr(caption))}; leave "
                "such rows out, or name the column that holds text"
            )
    most = max(_LEAST_LETTERS, _LETTERS_A_TOKEN * context_length)
    return [caption[-most:] if from_end else caption[:most] for caption in captions]


def _ids(caption: str, vocab_size: int, context_length: int) -> bytes:
    """The ids of the first words and padding, as int64."""
    words = islice(_WORD.finditer(caption.lower()), context_length)
    # Half a character (a lone surrogate) is hashed too, so that no caption ends a run.
    hashes = (crc32(word[0].encode(errors="surrogatepass")) for word in words)
    ids = array("q", (1 + number % (vocab_size - 1) for number in hashes))
    return ids.tobytes().ljust(8 * context_length, b"\0")


_kept_ids = lru_cache(maxsize=1 << 16)(_ids)
