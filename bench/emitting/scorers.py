"""Scorers that cost next to nothing, by what they look at."""

from typing import Any

import numpy as np
import torch

from bench.emitting.data import THUMBNAIL_SIZE
from jest_loader import ExampleScores
from jest_loader.adapters.images import DecodeImages


def scorers() -> dict[str, Any]:
    """Each cheap scorer by what it looks at."""
    scaled = DecodeImages("jpg", THUMBNAIL_SIZE, out_column="small", fast_scaling=True)
    stored = DecodeImages("thumbnail", THUMBNAIL_SIZE, out_column="small")
    return {"cached": Cached(), "low resolution": Seen(scaled), "thumbnails": Seen(stored)}


class Cached:
    """Scores by stored embeddings: image and text of a pair, nothing joint."""

    def score(self, super_batch: dict[str, Any]) -> ExampleScores:
        """One number per candidate."""
        image, text = (super_batch[side].astype(np.float32) for side in ("image", "text"))
        return ExampleScores(torch.from_numpy(np.einsum("ij,ij->i", image, text)) / 512)


class Seen:
    """Scores by small pixels."""

    def __init__(self, decode: DecodeImages) -> None:
        self._decode = decode

    def score(self, super_batch: dict[str, Any]) -> ExampleScores:
        """One number per candidate: the brightness of one pixel."""
        return ExampleScores(self._decode(super_batch)["small"][:, 0, 32, 32].float() / 255)
