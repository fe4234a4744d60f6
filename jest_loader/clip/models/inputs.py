"""What data, caches and checkpoints need to know of a model before there is one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

CONTENT = "content"
"""The column of prepared batches that holds a key of each picture as it is stored, int64 [B]."""

Tokenizer = Callable[[Sequence[str]], Tensor]
"""Captions to token ids, int64 [captions, context length]."""


class ModelInputs(Protocol):
    """What a two-tower model takes, how wide its embeddings are, and what embedding costs."""

    @property
    def image_size(self) -> int:
        """Height and width of an image, pixels."""
        ...

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens per caption."""
        ...

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding."""
        ...

    @property
    def preprocessing(self) -> str:
        """How an image becomes pixels, in words that differ where the pixels do."""
        ...

    @property
    def tokenization(self) -> str:
        """How a caption becomes token ids, in words that differ where the ids do."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Makes the token ids that the text tower takes.

        Raises:
            ValueError: if its files are not there.
        """
        ...

    def transform(self) -> Callable[[Any], Tensor] | None:
        """Makes uint8 [channels, height, width] of a ``PIL.Image``; None for ``DecodeImages``' way.

        Several threads may call it at once.
        """
        ...

    def forward_flops(self, patch_size: int | None = None, image_size: int | None = None) -> int:
        """Flops of embedding one image-text pair.

        Args:
            patch_size: Pixels of a patch; None takes the model's own.
            image_size: Pixels of an image; None takes the model's own.

        Raises:
            ValueError: if the image tower cannot run at that resolution.
        """
        ...
