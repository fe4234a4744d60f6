"""The small model that scores in the learner's place and learns from what is trained on."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from jest_loader.batch import Batch, take
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.towers import BundledArchitecture
from jest_loader.clip.step.optimizer import build_optimizer, clamp_scale, set_learning_rate
from jest_loader.ops.noise import fold
from jest_loader.ranks.ranks import ranks_of
from jest_loader.scoring.models import EmbedFunction
from jest_loader.scoring.online_proxy import OnlineProxy

_PURPOSE = 0x9807  # Its weights are drawn from a seed of their own.


class Proxy(OnlineProxy):
    """An online proxy by a run's configuration, trained as the learner is but in fp32.

    Args:
        config: The run.
        embed: Runs a model on a batch.
        device: Where it runs.
        micro_batch_size: Candidates embedded at once.

    Raises:
        ValueError: if several processes select together.
    """

    def __init__(
        self,
        config: TrainConfig,
        embed: EmbedFunction,
        device: torch.device,
        *,
        micro_batch_size: int,
    ) -> None:
        if (num_ranks := ranks_of(None).size) > 1:
            raise ValueError(
                "selection.scores_with must be learner over several processes, since a proxy would "
                f"become another in each, but there are {num_ranks}"
            )
        options = config.selection.proxy
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(config.seed, _PURPOSE))
            sizes = options.model(config.model)
            model = (
                BundledArchitecture(sizes)
                .build(
                    config.loss, logit_scale=config.initial_scale, logit_bias=config.initial_bias
                )
                .to(device)
            )
        optimizer = build_optimizer(model, replace(config.optimizer, lr=options.lr))

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)

        optimizer.register_step_pre_hook(clip)
        super().__init__(
            model,
            optimizer,
            embed,
            loss=config.loss,
            equal_by="caption" if config.mask_equal_captions else None,
            micro_batch_size=micro_batch_size,
        )
        self._config = config
        self._step = 0

    def update(self, sub_batch: Batch) -> None:
        """One optimizer step on the sub-batch, without images that could not be decoded."""
        # They are there in uniform steps, which score nothing.
        good = [row for row, reason in enumerate(sub_batch["unreadable"]) if not reason]
        if len(good) < len(sub_batch["unreadable"]):
            sub_batch = take(sub_batch, torch.tensor(good))
        config = self._config
        set_learning_rate(self.optimizer, self._step, config.steps, config.optimizer)
        super().update(sub_batch)
        assert isinstance(self.model, ClipModel)
        clamp_scale(self.model, config.optimizer.max_scale)
        self._step += 1

    def state_dict(self) -> dict[str, Any]:
        """The states of the model and the optimizer, and how many steps it has learned."""
        return {**super().state_dict(), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._step = state_dict["step"]
