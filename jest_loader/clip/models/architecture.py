"""What data, caches and checkpoints need to know of a model before there is one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from jest_loader.clip.models.model import ClipModel
from jest_loader.protocols import Loss

Tokenizer = Callable[[Sequence[str]], Tensor]
"""Captions to token ids, int64 [captions, context length]."""


class Architecture(Protocol):
    """A two-tower model's sizes and inputs: ``ModelConfig``, or ``OpenClipArchitecture``."""

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
        """What becomes of an image, in words that tell two such ways apart."""
        ...

    @property
    def tokenization(self) -> str:
        """What becomes of a caption, in words that tell two such ways apart."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Makes the token ids that the text tower takes.

        Raises:
            ValueError: if its files are not there.
        """
        ...

    def transform(self) -> Callable[[Any], Tensor] | None:
        """Makes uint8 [channels, height, width] of a ``PIL.Image``; None for ``DecodeImages``' way.

        A function that can be called in several threads at once.
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

    def build(self, loss: Loss, *, logit_scale: float, logit_bias: float) -> ClipModel:
        """A model to train: with the weights that it starts from, if it has any.

        Args:
            loss: A softmax model has no bias.
            logit_scale: Inverse temperature at the start, unless the weights have one.
            logit_bias: Logit bias at the start, unless the weights have one.

        Raises:
            ValueError: if the weights cannot be read, or are another model's.
        """
        ...

    def empty(self, loss: Loss) -> ClipModel:
        """The model of ``build``, whose weights are still to be loaded."""
        ...
