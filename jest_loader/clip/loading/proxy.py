"""The small model that scores in the learner's place and learns from what is trained on."""

from dataclasses import replace
from typing import Unpack

import torch
from torch.optim.lr_scheduler import LambdaLR

from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.models.towers import BundledArchitecture
from jest_loader.clip.step.optimizer import build_optimizer, clamp_logit_scale, schedule
from jest_loader.ops.noise import fold
from jest_loader.ranks.ranks import ranks_of
from jest_loader.scoring.online_proxy import OnlineProxy
from jest_loader.scoring.runner import RunOptions

_PURPOSE = 0x9807  # Its weights are drawn from a seed of their own.


def build_proxy(
    config: TrainConfig, device: torch.device, **options: Unpack[RunOptions]
) -> OnlineProxy:
    """An online proxy by a run's configuration, trained as the learner is but in fp32.

    Args:
        config: The run.
        device: Where it runs.
        options: How it is run to score.

    Raises:
        ValueError: if several processes select together.
    """
    if (num_ranks := ranks_of(None).size) > 1:
        raise ValueError(
            "selection.scores_with must be learner over several processes, since a proxy would "
            f"become another in each, but there are {num_ranks}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(config.seed, _PURPOSE))
        architecture = BundledArchitecture(config.selection.proxy.model(config.model))
        model = architecture.build(
            config.loss,
            logit_scale=config.initial_logit_scale,
            logit_bias=config.initial_logit_bias,
        ).to(device)
    training = replace(config.optimizer, lr=config.selection.proxy.lr)
    optimizer = build_optimizer(model, training)
    optimizer.register_step_post_hook(lambda *_: clamp_logit_scale(model, training.max_logit_scale))
    return OnlineProxy(
        model,
        optimizer,
        loss=config.loss,
        equal_by="caption" if config.mask_equal_captions else None,
        clip_norm=training.clip_norm,
        scheduler=LambdaLR(optimizer, lambda step: schedule(step, config.steps, training)),
        **options,
    )
