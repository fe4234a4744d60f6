"""Words to token ids without a vocabulary file."""

import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

PADDING = 0

# Longer captions are rare; kept, they would fill the memory.
_MAX_KEPT_LETTERS = 256

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
        """Int64 [captions, context_length]."""
        rows = [
            (_kept_ids if len(caption) <= _MAX_KEPT_LETTERS else _ids)(
                caption, self.vocab_size, self.context_length
            )
            for caption in captions
        ]
        ids = np.frombuffer(bytearray(b"".join(rows)), np.int64)
        return torch.from_numpy(ids).view(len(rows), self.context_length)


def _ids(caption: str, vocab_size: int, context_length: int) -> bytes:
    """The ids of the first words and padding, as int64."""
    words = islice(_WORD.finditer(caption.lower()), context_length)
    # Half a character (a lone surrogate) is hashed too, so that no caption ends a run.
    hashes = (crc32(word[0].encode(errors="surrogatepass")) for word in words)
    ids = array("q", (1 + number % (vocab_size - 1) for number in hashes))
    return ids.tobytes().ljust(8 * context_length, b"\0")


_kept_ids = lru_cache(maxsize=1 << 16)(_ids)
