"""Whole steps with selection: choosing and training in turn, and the next choice meanwhile.

Regime: the towers and sizes of ``bench.scoring`` (on a GPU ViT-B/16 with 64 text tokens, 512 of
2,560), training in bf16, scoring in fp16, the reference cached; candidates are on the device
already, so that reading costs nothing. "Predicted" is the step's time over that of training alone,
by the cost model at the device's peak rates.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.gpu.parts import Setting
from bench.gpu.predictions import known_device, step_overhead
from bench.scoring.forms import NUM_CHUNKS, Bench
from bench.scoring.setting import SETTINGS
from bench.scoring.steps import measure_steps
from jest_loader import Counts
from jest_loader.cost.flops import ExampleCost, selection_flops


def run(setting: Setting) -> None:
    """One figure: steps of training alone, with a choice before, and with a choice meanwhile."""
    setting.measure("steps", lambda: measure(setting))


def measure(setting: Setting) -> dict[str, Any]:
    """Times of a step, their ratios to training alone, and what the cost model says."""
    sizes = SETTINGS["smoke" if setting.smoke else "cuda"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sizes, torch.device(setting.device.type), Path(folder))
        ms = measure_steps(bench, num_steps=2 if setting.smoke else 15)
    alone, in_turn, overlapped = ms.values()
    forward = bench.learner.forward_flops()
    models = 2 * sizes.learner.embed_dim
    cost = ExampleCost(
        training=3 * forward,
        scoring=forward,
        selection=selection_flops(1, sizes.sub_batch, models, NUM_CHUNKS),
    )
    counts = Counts(scored=sizes.super_batch, trained=sizes.sub_batch)
    predicted = step_overhead(cost, counts, known_device(setting.device.name))
    return {
        "super_batch": sizes.super_batch,
        "sub_batch": sizes.sub_batch,
        "ms": ms,
        "in_turn_over_training": in_turn / alone,
        "overlapped_over_training": overlapped / alone,
        "predicted": predicted,
        "over_predicted": min(in_turn, overlapped) / alone / predicted,
    }
