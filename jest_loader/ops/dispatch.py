"""Chooses the form of the arithmetic: Triton kernels on GPUs that can run them, else plain PyTorch.

``JEST_LOADER_FUSED=0`` in the environment chooses the plain form everywhere.
"""

import logging
import os
from functools import cache
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from jest_loader.embeddings import Embeddings
from jest_loader.ops import noise, plain


class Pairs(Protocol):
    """What the plain and the fused form both compute; ``plain.Pairs`` documents the methods."""

    @property
    def embeddings(self) -> Embeddings:
        """The candidates' embeddings."""
        ...

    def own_logits(self) -> Tensor:
        """[B]."""
        ...

    def rows(self, chosen: Tensor) -> Tensor:
        """[2, chosen, D]."""
        ...

    def sigmoid_loss(self, chunk: Tensor, groups: plain.Groups | None = None) -> Tensor:
        """[B]."""
        ...

    def softmax_normalisers(self, chunk: Tensor, groups: plain.Groups | None = None) -> Tensor:
        """[2, B]."""
        ...


def pairs(embeddings: Embeddings, *, fused: bool | None = None) -> Pairs:
    """The pairs of the embeddings, fused or plain; with None the faster form that can run.

    Raises:
        ValueError: if the fused form is asked for and cannot run.
    """
    image = embeddings.image
    kernels = _kernels() if fused or (fused is None and image.is_cuda) else None
    if kernels is not None and kernels.runs_on(image.device, image.dtype):
        form: Pairs = kernels.Pairs(embeddings)
        return form
    if fused:
        raise ValueError(
            "fused=True needs Triton 3.4 or later, embeddings in fp16, bf16 or fp32 on a CUDA GPU "
            "of compute capability 8.0 or later, and no JEST_LOADER_FUSED=0, got "
            f"{image.dtype} on {image.device}; use fused=None for what can run"
        )
    return plain.Pairs(embeddings)


def perturbed(
    logits: Tensor, key: int, *, gain: float = 1.0, share: noise.Share = noise.ALL
) -> Tensor:
    """``noise.perturbed``, in one launch where the kernels run."""
    kernels = _kernels() if logits.is_cuda and logits.dtype == torch.float32 else None
    form = kernels if kernels and kernels.runs_on(logits.device, logits.dtype) else noise
    drawn: Tensor = form.perturbed(logits, key, gain=gain, share=share)
    return drawn


@cache
def _kernels() -> ModuleType | None:
    if os.environ.get("JEST_LOADER_FUSED") == "0":
        return None
    try:
        from jest_loader.ops import fused
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "joint selection takes its plain form, several times slower on a GPU than its fused "
            "kernels, because these need Triton 3.4 or later (%s)",
            error,
        )
        return None
    return fused
