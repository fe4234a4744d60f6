"""What several tests build: embeddings with structure, and small data sets."""

from typing import Any

import torch
from torch.nn.functional import normalize

from jest_loader import Embeddings


def random_embeddings(
    size: int,
    width: int,
    *,
    seed: int,
    scale: float = 10.0,
    bias: float | None = -5.0,
    agreement: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Embeddings:
    """Pairs whose text is the image plus noise, so that own pairs score above others."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, width, dtype=torch.float64, generator=generator)
    noise = torch.randn(size, width, dtype=torch.float64, generator=generator)
    text = agreement * image + noise
    return Embeddings(
        normalize(image, dim=1).to(dtype), normalize(text, dim=1).to(dtype), scale, bias
    )


def numbered_batches(num_batches: int, batch_size: int) -> list[dict[str, Any]]:
    """Batches whose rows carry their own number, as a tensor and as text."""
    return [
        {
            "number": torch.arange(start, start + batch_size),
            "caption": [f"row {row}" for row in range(start, start + batch_size)],
        }
        for start in range(0, num_batches * batch_size, batch_size)
    ]
