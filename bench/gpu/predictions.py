"""What the cost model says of a GPU, and the goals: written down before anything was measured."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from bench.selection import Size, products_flops
from jest_loader.cost.flops import ExampleCost
from jest_loader.cost.rates import PEAK_TFLOPS, Device, ProductPrecision, in_time
from jest_loader.loader.telemetry import Counts

# In what a form of the selection multiplies, and how many products it takes for one.
_PRODUCTS: dict[str, tuple[ProductPrecision, int]] = {
    "plain": ("fp32", 1),
    "fused": ("fp16", 1),
    "fused, fp32": ("tf32", 3),
    "graph": ("fp16", 1),
    "products": ("fp16", 1),
}


def known_device(name: str) -> Device:
    """The device of the cost model that a GPU's name stands for; an H100 if it has no such."""
    found: list[Device] = [known for known in get_args(Device) if known in name]
    return found[0] if found else "H100"


def selection_ms(form: str, size: Size, device: Device) -> float | None:
    """Time of a selection whose products run at the device's peak; None for the published form.

    Of small super-batches it is far below what is possible: launches take their time too.
    """
    if form not in _PRODUCTS:
        return None
    precision, products = _PRODUCTS[form]
    return 1e3 * products * products_flops(size) / (1e12 * PEAK_TFLOPS[device][precision])


def share_of_training(
    flops: float, training_flops: float, precision: ProductPrecision, device: Device
) -> float:
    """Time of a part over that of a training step in bf16, both at the device's peak."""
    peak = PEAK_TFLOPS[device]
    return flops * peak["bf16"] / (training_flops * peak[precision])


def step_overhead(cost: ExampleCost, counts: Counts, device: Device) -> float:
    """Time of a step over that of training alone: training in bf16, scoring in fp16."""
    return in_time(cost, device, "bf16", "fp16").flops(counts).overhead


class Goal(NamedTuple):
    """Something to reach.

    Args:
        says: What, with its unit.
        most: At most this.
        found: Takes the value out of the parts' figures; ``KeyError`` if it was not measured.
    """

    says: str
    most: float
    found: Callable[[dict[str, Any]], float]


def _form(parts: dict[str, Any], candidates: str, form: str) -> dict[str, Any]:
    found: dict[str, Any] = parts["selection"]["figures"][candidates]["forms"][form]
    return found


GOALS = (
    Goal(
        "163,840 -> 32,768: time over that of the bare products",
        1.3,
        lambda parts: _form(parts, "163840", "fused")["over_products"]["median"],
    ),
    Goal(
        "163,840 -> 32,768: GiB beside the embeddings",
        2.0,
        lambda parts: _form(parts, "163840", "fused")["peak_bytes"] / 2**30,
    ),
    Goal(
        "5,120 -> 1,024: ms, as a graph",
        1.0,
        lambda parts: _form(parts, "5120", "graph")["ms"]["median"],
    ),
    Goal(
        "a step with a cached reference: time over what the cost model says",
        1.15,
        lambda parts: parts["steps"]["figures"]["steps"]["over_predicted"],
    ),
)
