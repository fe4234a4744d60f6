"""Joint selection on a GPU: as published, plain, fused, as a CUDA graph, and the bare products.

Regime: learnability of B candidates of which f = 0.8 are dropped, in 16 chunks; embeddings in fp16
that are on the device already, clustered so that scores tell candidates apart. Forms take turns.

- published fp32: the matrix of all pairs, and in each chunk its products with what was chosen.
- plain: ``FactoredScores`` in PyTorch, whose products are in fp32.
- fused: its Triton kernels; "fused, fp32" of the same embeddings in fp32, as models give them.
- graph: the fused selection alone, from scores that were made before, captured and replayed.
- products: the same matrix products and nothing else, in fp16 by cuBLAS: the bound.

Picks are the share of the sub-batch that fp64 picks too, under the same noise. Memory is the peak
beside the embeddings.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench.device import Device
from bench.gpu.parts import Setting
from bench.gpu.predictions import known_device, selection_ms
from bench.harness import PeakMemory, in_rounds, ratios, spread
from bench.selection import (
    Sides,
    Size,
    clustered_sides,
    in_fp64,
    logit_parameters,
    products,
    products_flops,
    select,
    shared,
)
from jest_loader import FactoredScores
from jest_loader.selecting.selectors import chunk_sizes

# The two that goals are about come first.
SIZES = [Size(5120, 512), Size(163_840, 768), Size(40_960, 768)]
SMOKE_SIZES = [Size(60, 16, num_chunks=3)]
LARGEST_PUBLISHED = 40_960
"""Its matrices take 40 GiB there, and four times as much at twice as many candidates."""

_CANDIDATES_PER_SAMPLE = 100_000


def run(setting: Setting) -> None:
    """Measure each size; the figure's key is the number of candidates."""
    for size in SMOKE_SIZES if setting.smoke else SIZES:
        setting.measure(
            str(size.num_candidates), partial(measure, size, setting.device, setting.rounds)
        )


def measure(size: Size, device: Device, rounds: int) -> dict[str, Any]:
    """Times, memory, agreement and the cost model's time of each form."""
    sides = clustered_sides(size, device.type, torch.float16)
    expected = select(in_fp64(sides, "sigmoid"), size)
    runs = dict(forms_of(size, sides, device))
    forms: dict[str, Any] = {}
    for name, select_so in runs.items():
        # The first call compiles and allocates; what it adds to the peak is the form's own.
        with PeakMemory(device.type) as memory:
            index = select_so()
        forms[name] = {"peak_bytes": memory.peak_bytes}
        if isinstance(index, Tensor):
            forms[name]["picks_of_fp64"] = shared(index, expected)
    calls = max(1, _CANDIDATES_PER_SAMPLE // size.num_candidates) if rounds > 1 else 1
    ms = in_rounds(runs, rounds, partial(device.ms, calls=calls))
    for name, form in forms.items():
        form["ms"] = spread(ms[name])
        form["over_products"] = spread(ratios(ms[name], ms["products"]))
        form["predicted_ms"] = selection_ms(name, size, known_device(device.name))
    return {
        **size._asdict(),
        "sub_batch": size.sub_batch,
        "products_flops": products_flops(size),
        "forms": forms,
    }


def forms_of(
    size: Size, sides: Sides, device: Device
) -> Iterator[tuple[str, Callable[[], Tensor | None]]]:
    """Each form's name, and a call that selects with it."""
    learner, reference = (
        replace(side, image=side.image.float(), text=side.text.float()) for side in sides
    )
    if size.num_candidates <= LARGEST_PUBLISHED:
        yield "published fp32", partial(published, size, sides)
    yield "plain", lambda: select(FactoredScores(*sides, fused=False), size)
    yield "fused", lambda: select(FactoredScores(*sides, fused=True), size)
    yield "fused, fp32", lambda: select(FactoredScores(learner, reference, fused=True), size)
    yield "graph", device.captured(partial(select, FactoredScores(*sides, fused=True), size))
    yield "products", partial(products, size, sides)


def published(size: Size, sides: Sides) -> None:
    """Algorithm 1 from its description, drawn by Gumbel-top-k: multinomial stops at 2^24."""
    eye = torch.eye(size.num_candidates, dtype=torch.bool, device=sides[0].image.device)
    learner, reference = (
        side.image.float() @ side.text.float().T * scale + bias
        for side, (scale, bias) in zip(sides, map(logit_parameters, sides), strict=True)
    )
    pairwise = softplus(learner.where(~eye, -learner)) - softplus(reference.where(~eye, -reference))
    own, chosen = pairwise.diagonal(), torch.zeros_like(pairwise[0])
    for chunk in chunk_sizes(size.sub_batch, size.num_chunks):
        logits = own + chosen @ pairwise + pairwise @ chosen
        logits = logits.masked_fill(chosen > 0, -torch.inf)
        noise = -torch.empty_like(logits).exponential_().log()
        chosen[(logits + noise).topk(chunk).indices] = 1
