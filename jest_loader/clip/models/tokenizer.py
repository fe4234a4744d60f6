"""Words to token ids without a vocabulary file."""

import re
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor

PADDING = 0

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
        padding = (PADDING,) * self.context_length
        rows = [
            (_ids(caption, self.vocab_size) + padding)[: self.context_length]
            for caption in captions
        ]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.context_length)


@lru_cache(maxsize=1 << 18)
def _ids(caption: str, vocab_size: int) -> tuple[int, ...]:
    return tuple(
        1 + crc32(word.encode()) % (vocab_size - 1) for word in _WORD.findall(caption.lower())
    )
