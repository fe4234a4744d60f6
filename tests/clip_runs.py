"""A run of the trainer that takes a second: bars whose place is their name."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.models.towers import BundledArchitecture

MODEL = ModelConfig(
    image_size=8, channels=1, patch_size=4, vision_width=16, vision_depth=1,
    text_width=16, text_depth=0, heads=2, embed_dim=8, vocab_size=64, context_length=3,
)  # fmt: skip
ARCHITECTURE = BundledArchitecture(MODEL)
COLUMNS = {"image": "ndarray:uint8:8,8", "caption": "str"}


def rows(size: int):
    """Bars whose place is their name: something that can be learned."""
    for row in range(size):
        image = np.zeros((8, 8), dtype=np.uint8)
        image[row % 8] = 255
        yield {"image": image, "caption": f"bar {row % 8}"}


def config_for(shards: Path, out: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        data=DataConfig(train=shards / "train", test=shards / "test", batch_size=8),
        out=out,
        model=MODEL,
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=5),
        steps=12,
        initial_logit_bias=-2.0,
        device="cpu",
        eval_every=4,
        checkpoint_every=5,
    )
    return replace(config, **changes)
