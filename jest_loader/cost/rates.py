"""How fast a device multiplies at most, by precision: what makes time of operations."""

from dataclasses import replace
from typing import Literal

from jest_loader.cost.flops import ExampleCost

Device = Literal["A100", "H100", "H200"]
ProductPrecision = Literal["fp32", "tf32", "bf16", "fp16"]

# Dense matrix products, without sparsity, by NVIDIA's data sheets of the SXM modules.
_HOPPER: dict[ProductPrecision, float] = {"fp32": 67.0, "tf32": 494.5, "bf16": 989.0, "fp16": 989.0}
PEAK_TFLOPS: dict[Device, dict[ProductPrecision, float]] = {
    "A100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "fp16": 312.0},
    "H100": _HOPPER,
    "H200": _HOPPER,
}


def in_time(
    cost: ExampleCost, device: Device, training: ProductPrecision, scoring: ProductPrecision
) -> ExampleCost:
    """The cost in time rather than operations, where each part runs at the device's peak rate.

    Its unit is the time of an operation in training, so that overheads are those of time. Selection
    and an online proxy's training are in fp32.

    Args:
        cost: In operations.
        device: The device.
        training: The precision in which the learner trains.
        scoring: The precision in which learner, proxy and reference score.
    """
    peak = PEAK_TFLOPS[device]
    score, plain = peak[training] / peak[scoring], peak[training] / peak["fp32"]
    return replace(
        cost,
        scoring=cost.scoring * score,
        reference=cost.reference * score,
        selection=cost.selection * plain,
        proxy=cost.proxy * plain,
    )
