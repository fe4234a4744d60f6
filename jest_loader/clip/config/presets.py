"""Configurations to start from."""

from pathlib import Path
from typing import Literal

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig

Preset = Literal["smoke", "demo", "single_gpu", "eight_gpus", "siglip2_finetune"]


def preset(name: Preset, train: Path, out: Path) -> TrainConfig:
    """The named configuration for the data in ``train``."""
    match name:
        case "smoke":
            return _smoke(train, out)
        case "demo":
            return _demo(train, out)
        case "single_gpu":
            return _flexi_jest(train, out, width=384, batch_size=1024, steps=20_000)
        case "eight_gpus":
            return _flexi_jest(train, out, width=768, batch_size=8192, steps=50_000)
        case "siglip2_finetune":
            return _siglip2_finetune(train, out)


def _smoke(train: Path, out: Path) -> TrainConfig:
    """Every part of a step at work, in sizes that mean nothing."""
    return TrainConfig(
        DataConfig(train, batch_size=16),
        out,
        model=ModelConfig(
            image_size=32, vision_width=32, vision_depth=2, text_width=32, text_depth=1,
            heads=2, embed_dim=32, vocab_size=1024,
        ),
        selection=SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=4),
        optimizer=OptimizerConfig(warmup_steps=5),
        steps=20,
        eval_every=10,
        checkpoint_every=10,
    )  # fmt: skip


def _demo(train: Path, out: Path) -> TrainConfig:
    """The learning rate is the best of uniform sampling and of curated data: demo_sweep.txt."""
    return TrainConfig(
        DataConfig(train, batch_size=256),
        out,
        model=ModelConfig(
            image_size=32, channels=1, image_tower="conv", vision_width=128, vision_depth=4,
            text_width=64, text_depth=0, embed_dim=64,
        ),
        optimizer=OptimizerConfig(lr=2e-3, warmup_steps=50),
        steps=800,
        initial_logit_bias=-5.0,
        eval_every=40,
    )  # fmt: skip


def _flexi_jest(train: Path, out: Path, *, width: int, batch_size: int, steps: int) -> TrainConfig:
    """The paper's: f = 0.8, scoring and half of training at patch 32, the other half at 16."""
    return TrainConfig(
        DataConfig(train, batch_size=batch_size),
        out,
        model=ModelConfig(
            image_size=224, patch_size=16, vision_width=width, vision_depth=12, text_width=width,
            text_depth=12, heads=width // 64, embed_dim=width, vocab_size=32768, context_length=32,
        ),
        selection=SelectionConfig("joint", score_patch_size=32, low_resolution_fraction=0.5),
        optimizer=OptimizerConfig(warmup_steps=2000),
        steps=steps,
        compile=True,
        checkpoint_activations=True,
        eval_every=1000,
        checkpoint_every=500,
    )  # fmt: skip


def _siglip2_finetune(train: Path, out: Path) -> TrainConfig:
    """SigLIP 2's fine-tuning with a strong reference (arXiv 2502.14786, section 2.5)."""
    return TrainConfig(
        DataConfig(train, batch_size=256),
        out,
        open_clip=OpenClipConfig("ViT-B-16-SigLIP2"),
        selection=SelectionConfig("joint", filter_ratio=0.5),
        optimizer=OptimizerConfig(lr=1e-5, logit_lr_factor=1.0, weight_decay=0.0),
        steps=10_000,
        checkpoint_activations=True,
        eval_every=500,
        checkpoint_every=500,
    )
