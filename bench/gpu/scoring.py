"""Scoring in fp32, TF32, bf16 and fp16: its time beside a training step, and the picks it keeps.

Regime: the towers and sizes of ``bench.scoring`` (on a GPU ViT-B/16 with 64 text tokens, 512 of
2,560, training in bf16). Pictures and captions are made up, of 64 kinds; learner and reference are
trained on them for a moment, the reference for longer, so that scores tell candidates apart.

- times: the learner on all candidates in each precision, the look-up of a cached reference, and the
  selection, as shares of a training step. "Predicted" is the share by the cost model, each part at
  the device's peak rate in its precision.
- picks: the share of the sub-batch that scoring in fp64 picks too, both models in the precision,
  under the same noise; and the learnability of what was picked, by fp64. "Other noise" is fp64
  under another key: what two draws share anyway.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.device import Device
from bench.gpu.parts import Setting
from bench.gpu.predictions import known_device, share_of_training
from bench.harness import in_rounds, learnability, ratios, spread
from bench.scoring.exact import embed_in_fp64
from bench.scoring.forms import SELECTOR, Bench, matmul_precision
from bench.scoring.setting import SETTINGS
from bench.scoring.setting import Setting as Sizes
from bench.selection import Sides, shared
from jest_loader import Embeddings, FactoredScores, FrozenReference, LiveLearner
from jest_loader.cost.rates import ProductPrecision
from jest_loader.ops.losses import contrastive_loss
from jest_loader.scoring.precision import Precision

PRECISIONS: dict[ProductPrecision, Precision] = {
    "fp16": "fp16",
    "bf16": "bf16",
    "tf32": "fp32",
    "fp32": "fp32",
}
_FP64_MICRO_BATCH = 128
_NUM_KINDS = 64


class Form(NamedTuple):
    """Something to time, its operations, and the precision of its products by the cost model."""

    run: Callable[[], object]
    flops: float
    precision: ProductPrecision


def run(setting: Setting) -> None:
    """Two figures, of one pair of models."""
    if {"times", "picks"} <= setting.done:
        return
    sizes = SETTINGS["smoke" if setting.smoke else "cuda"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sizes, torch.device(setting.device.type), Path(folder))
        kinds = Kinds(sizes, bench.device)
        fit(bench.learner, kinds, bench, num_steps=2 if setting.smoke else 30)
        fit(bench.reference_model, kinds, bench, num_steps=4 if setting.smoke else 60)
        bench.candidates |= kinds.batch(sizes.super_batch)
        setting.measure("times", partial(times, bench, setting.device, setting.rounds))
        setting.measure("picks", partial(picks, bench))


class Kinds:
    """Made-up pairs of 64 kinds: a picture of a kind's colours under noise, a caption of its words.

    Args:
        sizes: Of pictures and captions.
        device: Where they are made.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        config = sizes.learner
        self._random = torch.Generator(device).manual_seed(0)
        self._words = config.vocab_size
        coarse = self._integers(256, _NUM_KINDS, config.channels, 8, 8)
        times = config.image_size // 8
        self._pictures = coarse.repeat_interleave(times, 2).repeat_interleave(times, 3)
        self._captions = self._integers(self._words - 1, _NUM_KINDS, config.context_length) + 1

    def batch(self, size: int) -> dict[str, Tensor]:
        """Images uint8 [size, C, H, W] and tokens int64 [size, T], a quarter of them others."""
        kind = self._integers(_NUM_KINDS, size)
        pictures, captions = self._pictures[kind], self._captions[kind]
        noise = self._integers(256, *pictures.shape)
        words = self._integers(self._words - 1, *captions.shape)
        other = self._integers(4, *captions.shape) == 0
        return {
            "image": ((pictures + noise) // 2).to(torch.uint8),
            "text": torch.where(other, words + 1, captions),
        }

    def _integers(self, most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=self._random, device=self._random.device)


def fit(model: nn.Module, kinds: Kinds, bench: Bench, num_steps: int) -> None:
    """Train a model for a moment, in the precision of training."""
    frozen = not next(model.parameters()).requires_grad
    model.requires_grad_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(num_steps):
        batch = kinds.batch(bench.setting.sub_batch)
        in_bf16 = bench.training_precision == "bf16"
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=in_bf16):
            embeddings = model(batch)
        loss = contrastive_loss(embeddings, "sigmoid")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.requires_grad_(not frozen)


def times(bench: Bench, device: Device, rounds: int) -> dict[str, Any]:
    """Time of each form, measured and predicted as a share of training."""
    forms = dict(timed_forms(bench))
    for form in forms.values():
        form.run()  # Compiles, and allocates what stays.
    ms = in_rounds({name: form.run for name, form in forms.items()}, rounds, device.ms)
    known, training = known_device(device.name), forms["training"].flops
    return {
        name: {
            "ms": spread(ms[name]),
            "share": spread(ratios(ms[name], ms["training"])),
            "predicted_share": share_of_training(form.flops, training, form.precision, known),
        }
        for name, form in forms.items()
    }


def timed_forms(bench: Bench) -> Iterator[tuple[str, Form]]:
    """Training, the learner in each precision, the cached reference, the selection."""
    parts = dict(bench.parts())
    yield "training", Form(bench.train, bench.training_flops, "bf16")
    for name in PRECISIONS:
        run = partial(embed_in, name, bench.learner, bench)
        yield f"learner, {name}", Form(run, bench.scoring_flops, name)
    yield "cached reference", Form(parts["cached reference"].run, 0, "fp32")
    yield "selection", Form(parts["selection"].run, parts["selection"].flops, "fp32")


def embed_in(name: ProductPrecision, model: nn.Module, bench: Bench) -> Embeddings:
    """The model's embeddings of the candidates, in a precision."""
    size = bench.setting.micro_batch
    embedder = LiveLearner(model, micro_batch_size=size, precision=PRECISIONS[name])
    with matmul_precision("high") if name == "tf32" else nullcontext():
        return embedder.embed(bench.candidates)


def picks(bench: Bench) -> dict[str, Any]:
    """Share of fp64's picks that each precision keeps, and the worth of its own."""
    models = (bench.learner, bench.reference_model)
    exact = in_fp64(models, bench)
    forms: dict[str, Sides] = {"fp64": exact}
    for name in PRECISIONS:
        learner, reference = (embed_in(name, model, bench) for model in models)
        forms[name] = learner, reference
    chosen = {name: picked(sides, bench, key=0) for name, sides in forms.items()}
    chosen["other noise"] = picked(exact, bench, key=1)
    return {
        name: {
            "picks_of_fp64": shared(index, chosen["fp64"]),
            "learnability": learnability(exact, index, "sigmoid"),
        }
        for name, index in chosen.items()
    }


def in_fp64(models: tuple[nn.Module, nn.Module], bench: Bench) -> Sides:
    """What both models make of the candidates in fp64."""
    learner, reference = (
        FrozenReference(
            deepcopy(model).double(), embed_in_fp64, micro_batch_size=_FP64_MICRO_BATCH
        ).embed(bench.candidates)
        for model in models
    )
    return learner, reference


def picked(sides: Sides, bench: Bench, *, key: int) -> Tensor:
    """Int64 [b]: what joint selection picks."""
    return SELECTOR.select(FactoredScores(*sides), bench.setting.sub_batch, key=key)
