"""The models, sizes and random data of ``bench.scoring``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from bench.harness import unit_rows
from jest_loader import CachedReference
from jest_loader.clip.config.model import ModelConfig

SUPER_TO_SUB = 5
CACHE_TO_SUPER = 10


@dataclass(frozen=True)
class Setting:
    """A learner, a proxy, and sizes.

    Args:
        learner: Sizes of the learner and of the reference.
        proxy: Sizes of the proxy.
        sub_batch: Examples trained on.
        micro_batch: Candidates embedded at once.
    """

    learner: ModelConfig
    proxy: ModelConfig
    sub_batch: int
    micro_batch: int

    @property
    def super_batch(self) -> int:
        """Candidates."""
        return SUPER_TO_SUB * self.sub_batch


def towers(base: ModelConfig, width: int, depth: int, heads: int, patch_size: int) -> ModelConfig:
    """Two towers of one width and depth, for the base's images and tokens."""
    return replace(
        base,
        patch_size=patch_size,
        vision_width=width,
        vision_depth=depth,
        text_width=width,
        text_depth=depth,
        heads=heads,
        embed_dim=width,
    )


LARGE = ModelConfig(image_size=224, vocab_size=32_000, context_length=64)
SMALL = ModelConfig(image_size=64, vocab_size=8_192, context_length=16)
SETTINGS = {
    "smoke": Setting(towers(SMALL, 32, 1, 2, 16), towers(SMALL, 16, 1, 2, 32), 16, 16),
    "cpu": Setting(towers(SMALL, 192, 4, 4, 8), towers(SMALL, 96, 2, 4, 16), 64, 64),
    "cuda": Setting(towers(LARGE, 768, 12, 12, 16), towers(LARGE, 384, 6, 6, 32), 512, 512),
}


def random_batch(setting: Setting, size: int, device: torch.device) -> dict[str, Any]:
    """Images uint8 [size, C, H, W], tokens int64 [size, T], and distinct sample ids."""
    config = setting.learner
    side = (config.channels, config.image_size, config.image_size)
    ids = np.random.default_rng(0).permutation(CACHE_TO_SUPER * setting.super_batch)[:size]
    return {
        "image": torch.randint(256, (size, *side), dtype=torch.uint8).to(device),
        "text": torch.randint(1, config.vocab_size, (size, config.context_length)).to(device),
        "sample_id": ids,
    }


def random_sides(setting: Setting, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random image and text embeddings, fp32 [size, embed_dim] each."""
    generator = Generator(device).manual_seed(0)
    image, text = (unit_rows(size, setting.learner.embed_dim, generator) for _ in range(2))
    return image, text


def cache_of(setting: Setting, folder: Path, device: torch.device) -> CachedReference:
    """Random fp16 embeddings in two memory maps."""
    sides = random_sides(setting, CACHE_TO_SUPER * setting.super_batch, torch.device("cpu"))
    paths = [folder / "image.npy", folder / "text.npy"]
    for path, rows in zip(paths, sides, strict=True):
        np.save(path, rows.half().numpy())
    image, text = (np.load(path, mmap_mode="r") for path in paths)
    return CachedReference(image, text, 10.0, -10.0, device=device)
