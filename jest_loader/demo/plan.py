"""How many steps each run of the demo gets, so that all take the same floating-point operations."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from jest_loader.clip.config.presets import preset
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.cost.flops import Setup, example_cost
from jest_loader.demo.data import DemoData
from jest_loader.ops.losses import contrastive_loss

Arm = Literal["uniform", "curated", "independent", "joint"]
SELECTING: tuple[Arm, ...] = ("independent", "joint")

FILTER_RATIO = 0.8
NUM_CHUNKS = 8

SCORE_IMAGE_SIZE = 16
"""Pixels at which the learner scores, half of those that it is trained at."""

STOP_FRACTION = 0.5
"""Up to this share of a run its sub-batches are chosen; its other steps are uniform."""

_TIMED_STEPS = 4
_SLOWER = (
    1.4  # Than those: reading, scoring at half size and evaluation take longer by their flops.
)


@dataclass(frozen=True)
class Plan:
    """The runs of a demo.

    Every arm has the flops of the uniform one. Arms that select pay for their reference out of
    them: for its training, and for embedding the uncurated set once.

    Args:
        steps: Training steps of each arm.
        reference_steps: Training steps of the reference.
        reference_flops: Of training it and of embedding with it.
        step_flops: Of a training step, without selection.
        selecting_flops: What selection adds to a step, by arm.
    """

    steps: dict[Arm, int]
    reference_steps: int
    reference_flops: float
    step_flops: float
    selecting_flops: dict[Arm, float]

    def flops(self, arm: Arm, step: int) -> float:
        """Flops that an arm has taken after some steps, its reference's included."""
        if arm not in SELECTING:
            return step * self.step_flops
        selecting = min(step, STOP_FRACTION * self.steps[arm])
        own = step * self.step_flops + selecting * self.selecting_flops[arm]
        return self.reference_flops + own


def plan(steps: int, reference_steps: int, arms: Sequence[Arm], data: DemoData) -> Plan:
    """The runs of a demo whose uniform arm has, or would have, so many steps.

    Raises:
        ValueError: if the reference takes so many that none are left for the arms that select.
    """
    config = preset("demo", data.uncurated, Path())
    forward = trained_architecture(config).forward_flops()
    step_flops = 3 * config.data.batch_size * forward
    reference_flops = reference_steps * step_flops + data.num_examples["uncurated"] * forward
    selecting = {arm: _selecting_flops(arm) for arm in SELECTING if arm in arms}
    left = steps * step_flops - reference_flops
    by_arm: dict[Arm, int] = dict.fromkeys(arms, steps)
    for arm, added in selecting.items():
        by_arm[arm] = int(left / (step_flops + STOP_FRACTION * added))
    if min(by_arm.values()) < 1:
        raise ValueError(
            f"steps must leave some for the arms that select, but the reference takes as many "
            f"operations as {reference_flops / step_flops:.0f} steps, got {steps}; set more"
        )
    return Plan(by_arm, reference_steps, reference_flops, step_flops, selecting)


def _selecting_flops(arm: Arm) -> float:
    """What a step's scoring and drawing take by the cost model; the reference is cached."""
    config = preset("demo", Path(), Path())
    batch_size, model = config.data.batch_size, trained_architecture(config)
    scoring = model.forward_flops(image_size=SCORE_IMAGE_SIZE)
    cost = example_cost(
        Setup(
            learner=model.forward_flops(),
            learner_low=scoring,
            scorer=scoring,
            width=2 * model.embed_dim if arm == "joint" else 0,
            sub_batch_size=batch_size,
            num_chunks=NUM_CHUNKS,
        )
    )
    return round(batch_size / (1 - FILTER_RATIO)) * (cost.scoring + cost.selection)


def seconds_per_flop(device: torch.device) -> float:
    """Roughly the time of a run on ``device`` over its flops; takes a second or two."""
    config = preset("demo", Path(), Path())
    architecture = trained_architecture(config)
    model = architecture.build(config.loss, logit_scale=10.0, logit_bias=-5.0).to(device)
    size, batch_size = config.model.image_size, config.data.batch_size
    image = torch.zeros(batch_size, 1, size, size, dtype=torch.uint8, device=device)
    text = torch.ones(batch_size, config.model.context_length, dtype=torch.long, device=device)
    seconds = []
    for _ in range(_TIMED_STEPS):
        started = time.perf_counter()
        loss = contrastive_loss(model.embed({"image": image, "text": text}), config.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # A GPU is waited for.
        seconds.append(time.perf_counter() - started)
    return _SLOWER * min(seconds) / (3 * batch_size * architecture.forward_flops())
