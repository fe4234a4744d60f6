"""``jest-loader cost``: what selection costs, before anyone spends a GPU hour."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from jest_loader.checks import whole
from jest_loader.cost.flops import ExampleCost, Flops, Setup, example_cost
from jest_loader.cost.rates import Device, ProductPrecision, in_time
from jest_loader.cost.shapes import ModelShape, model_shape
from jest_loader.loader.telemetry import Counts


@dataclass(frozen=True)
class CostConfig:
    """Say how many floating-point operations and how much time selection adds, and when it pays."""

    model: str = "ViT-B-16"
    """The learner: a name as in open_clip, or sizes such as 12x768@16/224+12x512@77 (depth x width
    @ patch/image + depth x width @ tokens).
    """

    filter_ratio: float = 0.8
    """Share of candidates not chosen."""

    batch_size: int = 32768
    """Examples trained on per step."""

    num_chunks: int = 16
    """Draws per sub-batch."""

    score: Literal["learnability", "easy_reference", "hard_learner"] = "learnability"
    """Learner loss less reference loss, minus the reference loss, or the learner loss."""

    reference: Literal["cached", "live"] = "cached"
    """Whether the reference's embeddings were computed before, or are on every super-batch."""

    reference_model: str | None = None
    """The reference, given like the model; None takes one of the learner's sizes."""

    proxy_model: str | None = None
    """A small model that is trained alongside and scores in the learner's place; None has none."""

    context_length: int | None = None
    """Tokens per caption in all models; None takes each model's own."""

    score_patch: int | None = None
    """Patch size at which the learner or its proxy scores; None takes the model's own."""

    score_image: int | None = None
    """Image size at which the learner or its proxy scores; None takes the model's own."""

    low_resolution_fraction: float = 0.0
    """Share of the sub-batch on which the learner trains at the patch and image size of scoring."""

    device: Device = "H100"
    """The GPU by whose peak rates operations become time."""

    train_precision: ProductPrecision = "bf16"
    """Precision in which the learner trains."""

    score_precision: ProductPrecision = "fp16"
    """Precision in which the models score; fp32 is what torch takes without TF32."""

    json: bool = False
    """Print one JSON document rather than a table."""

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1)
        whole("num_chunks", self.num_chunks, 1)
        for name in ("context_length", "score_patch", "score_image"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        if not 0 <= self.filter_ratio < 1:
            raise ValueError(
                f"filter_ratio must be at least 0 and below 1, got {self.filter_ratio:g}"
            )
        if not 0 <= self.low_resolution_fraction <= 1:
            raise ValueError(
                f"low_resolution_fraction must be from 0 to 1, got {self.low_resolution_fraction:g}"
            )
        if self.low_resolution_fraction > 0 and not (self.score_patch or self.score_image):
            raise ValueError(
                "low_resolution_fraction needs the resolution; set score_patch or score_image"
            )


def estimate(config: CostConfig) -> ExampleCost:
    """The cost of a set-up, per example.

    Raises:
        ValueError: if a model is not known, or its patches do not fit its images.
    """
    uses_learner = config.score != "easy_reference"
    uses_reference = config.score != "hard_learner"
    learner = _shape(config.model, config)
    low = learner.at(patch_size=config.score_patch, image_size=config.score_image)
    scorer = low
    if config.proxy_model is not None:
        proxy = _shape(config.proxy_model, config)
        scorer = proxy.at(patch_size=config.score_patch, image_size=config.score_image)
    reference = _shape(config.reference_model or config.model, config)
    runs_reference = uses_reference and config.reference == "live"
    return example_cost(
        Setup(
            learner=learner.forward_flops,
            learner_low=low.forward_flops,
            low_resolution_fraction=config.low_resolution_fraction,
            scorer=scorer.forward_flops if uses_learner else 0,
            trains_scorer=config.proxy_model is not None,
            reference=reference.forward_flops if runs_reference else 0,
            width=scorer.embed_dim * uses_learner + reference.embed_dim * uses_reference,
            sub_batch_size=config.batch_size,
            num_chunks=config.num_chunks,
        )
    )


def describe(config: CostConfig) -> str:
    """The cost of a step by part, and the iteration speed-up at which it breaks even.

    Raises:
        ValueError: as ``estimate``.
    """
    candidates = round(config.batch_size / (1 - config.filter_ratio))
    counts, cost = Counts(scored=candidates, trained=config.batch_size), estimate(config)
    timed = in_time(cost, config.device, config.train_precision, config.score_precision)
    say = _document if config.json else _table
    return say(config, candidates, cost.flops(counts), timed.flops(counts))


def _document(config: CostConfig, candidates: int, step: Flops, timed: Flops) -> str:
    document = {
        "config": asdict(config),
        "candidates": candidates,
        "flops_per_step": asdict(step) | {"total": step.total},
        "overhead": step.overhead,
        "time_overhead": timed.overhead,
    }
    return json.dumps(document, indent=1)


def _table(config: CostConfig, candidates: int, step: Flops, timed: Flops) -> str:
    learner = _shape(config.model, config)
    names = ("training", "scoring", "reference", "selection", "total")
    parts = [(name, getattr(step, name), getattr(timed, name)) for name in names]
    return "\n".join(
        [
            f"{config.model}: {learner.forward_flops / 1e9:,.1f} GFLOP to embed a pair (image "
            f"{learner.vision.forward_flops / 1e9:,.1f}, text "
            f"{learner.text.forward_flops / 1e9:,.1f})",
            f"{config.batch_size:,} of {candidates:,} candidates per step",
            f"time at the peak rates of {config.device}: training in {config.train_precision}, "
            f"scoring in {config.score_precision}, selection in fp32",
            "",
            "                            of uniform training",
            "part       TFLOP per step  operations      time",
            *(
                f"{part:9}  {flops / 1e12:14,.2f}  {flops / step.uniform:10.3f}  "
                f"{time / timed.uniform:8.3f}"
                for part, flops, time in parts
            ),
            "",
            "It pays if it reaches the goal in fewer than",
            f"  1/{step.overhead:.2f} of the iterations ({1 / step.overhead:.0%}), in operations",
            f"  1/{timed.overhead:.2f} of the iterations ({1 / timed.overhead:.0%}), in time",
        ]
    )


def _shape(name: str, config: CostConfig) -> ModelShape:
    return model_shape(name).at(context_length=config.context_length)
