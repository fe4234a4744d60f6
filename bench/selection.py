"""What joint selection costs on a CPU: Algorithm 1 as published, ours, and the bare products.

Regime: learnability of B candidates of which f = 0.8 are dropped, in 16 chunks, the embeddings
already there. Clustered embeddings, whose scores tell candidates apart. All forms of a size are
timed in one run, since only their ratios carry over to another machine. ``bench.gpu`` measures the
same on a GPU.

    python -m bench.selection > bench/results/selection_cpu.txt

Forms:

- published: the matrix of all pairs, and in each chunk its products with an indicator of what was
  chosen; NumPy in fp64 and in fp32.
- plain: ``FactoredScores`` in plain PyTorch.
- products: the same matrix products and nothing else, in the dtype of the embeddings: the bound.

Every form is timed once a round, and a ratio ("7 times published": 7 times as fast) is taken within
a round; the median of all rounds is printed, with the least and the greatest.

Memory is the process's peak above the embeddings. Picks are the share of the sub-batch that the
same form picks in fp64 under the same noise. The last line of the output is one JSON document.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.harness import (
    PeakMemory,
    in_rounds,
    learnability,
    once_ms,
    parser_of,
    print_document,
    ratios,
    spread,
    unit_rows,
)
from jest_loader import Embeddings, FactoredScores, JointSelector
from jest_loader.protocols import Loss
from jest_loader.selecting.selectors import chunk_sizes
from tests.published import choice, jointly_sample, sigmoid_pairwise, sum_of_pairs

FILTER_RATIO = 0.8

Sides = tuple[Embeddings, Embeddings]
"""The learner's embeddings and the reference's."""


class Size(NamedTuple):
    """Candidates, the width of their embeddings, and how many draws choose from them."""

    num_candidates: int
    width: int
    num_chunks: int = 16

    @property
    def sub_batch(self) -> int:
        """Candidates that are chosen."""
        return round(self.num_candidates * (1 - FILTER_RATIO))


SIZES = {
    "smoke": [Size(640, 32)],
    "cpu": [Size(5120, 512), Size(20480, 512)],
}
LARGEST_PUBLISHED = 5120
"""Twice as many candidates take four times the memory: 16 GiB in NumPy's fp64 at 20,480."""


def main() -> None:
    """Time every form at every size."""
    parser = parser_of(__doc__, smoke=True, repeats=5)
    parser.add_argument("--loss", default="sigmoid", choices=["sigmoid", "softmax"])
    arguments = parser.parse_args()
    repeats = 1 if arguments.smoke else arguments.repeats
    results = []
    for size in SIZES["smoke" if arguments.smoke else "cpu"]:
        found = measure(size, arguments.loss, repeats)
        results.append(found)
        print(f"{size.num_candidates} -> {size.sub_batch}, width {size.width}")
        for name, form in found["forms"].items():
            print(f"  {name:14s} {describe(form)}", flush=True)
    figures = {
        "loss": arguments.loss,
        "num_chunks": Size._field_defaults["num_chunks"],
        "filter_ratio": FILTER_RATIO,
        "repeats": repeats,
        "results": results,
    }
    print_document(figures)


def measure(size: Size, loss: Loss, repeats: int) -> dict[str, Any]:
    """Times, memory and agreement of each form that fits."""
    sides = clustered_sides(size, "cpu", torch.float32)
    expected = select(in_fp64(sides, loss), size)
    forms: dict[str, Any] = {}
    runs = dict(forms_of(size, sides, loss))
    for name, run in runs.items():
        # The first call allocates; what it adds to the peak is the form's own.
        with PeakMemory("cpu") as memory:
            index = run()
        forms[name] = {"peak_bytes": memory.peak_bytes}
        if isinstance(index, Tensor):
            forms[name]["picks_of_fp64"] = shared(index, expected)
            forms[name]["learnability"] = learnability(sides, index, loss)
    ms = in_rounds(runs, repeats, once_ms)
    for name, form in forms.items():
        form["ms"] = spread(ms[name])
        form["times"] = {
            other: spread(ratios(ms[other], ms[name]))
            for other in runs
            if other.startswith(("published", "products"))
        }
    return {
        **size._asdict(),
        "sub_batch": size.sub_batch,
        "dtype": str(sides[0].image.dtype),
        "embedding_bytes": sum(2 * s.image.nbytes for s in sides),
        "learnability_of_fp64": learnability(sides, expected, loss),
        "products_flops": products_flops(size),
        "forms": forms,
    }


def forms_of(size: Size, sides: Sides, loss: Loss) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each form's name, and a call that selects with it."""
    if size.num_candidates <= LARGEST_PUBLISHED and loss == "sigmoid":
        yield "published fp64", lambda: published_numpy(size, sides, np.float64)
        yield "published fp32", lambda: published_numpy(size, sides, np.float32)
    yield "plain", lambda: select(FactoredScores(*sides, loss, fused=False), size)
    yield "products", lambda: products(size, sides)


def select(scores: FactoredScores, size: Size) -> Tensor:
    """Our selection."""
    return JointSelector(size.num_chunks).select(scores, size.sub_batch, key=0)


def published_numpy(size: Size, sides: Sides, dtype: Any) -> None:
    """Algorithm 1 from its description; it draws noise of its own, so its picks are others."""
    losses = [
        sigmoid_pairwise(
            side.image.numpy().astype(dtype),
            side.text.numpy().astype(dtype),
            *logit_parameters(side),
        )
        for side in sides
    ]
    score, draw = sum_of_pairs(losses[0] - losses[1]), choice(np.random.default_rng(0))
    jointly_sample(score, size.sub_batch, size.num_chunks, draw)


def logit_parameters(side: Embeddings) -> tuple[float, float]:
    """Scale and bias as numbers."""
    assert side.logit_bias is not None, "the published form is timed with the sigmoid loss"
    return float(side.logit_scale), float(side.logit_bias)


def products(size: Size, sides: Sides) -> None:
    """What no matrix-free form can leave out: each chunk but the last with all candidates."""
    chunks = chunk_sizes(size.sub_batch, size.num_chunks)
    out = sides[0].image.new_empty(size.num_candidates, chunks[0])
    for side in sides:
        for candidates, others in ((side.image, side.text), (side.text, side.image)):
            start = 0
            for chunk in chunks[:-1]:
                torch.mm(candidates, others[start : start + chunk].T, out=out[:, :chunk])
                start += chunk


def products_flops(size: Size) -> int:
    """Floating-point operations of ``products``."""
    chunks = chunk_sizes(size.sub_batch, size.num_chunks)
    return 4 * 2 * size.num_candidates * size.width * sum(chunks[:-1])


def clustered_sides(size: Size, device: str, dtype: torch.dtype) -> Sides:
    """A learner's embeddings, and those of a reference that tells pairs apart better."""
    return (
        clustered(size, seed=0, noise=1.2, logit_bias=-10.0, device=device, dtype=dtype),
        clustered(size, seed=1, noise=0.6, logit_bias=-14.0, device=device, dtype=dtype),
    )


def in_fp64(sides: Sides, loss: Loss) -> FactoredScores:
    """The scores that others are compared with: plain, of the same numbers in fp64."""
    learner, reference = (
        replace(side, image=side.image.double(), text=side.text.double()) for side in sides
    )
    return FactoredScores(learner, reference, loss, fused=False)


def clustered(
    size: Size, *, seed: int, noise: float, logit_bias: float, device: str, dtype: torch.dtype
) -> Embeddings:
    """Pairs around 64 centres, image and text the further apart the more ``noise``."""
    random = torch.Generator(device).manual_seed(seed)
    unit = partial(unit_rows, width=size.width, generator=random)
    of_cluster = torch.randint(64, (size.num_candidates,), generator=random, device=device)
    pair = normalize(unit(64)[of_cluster] + unit(size.num_candidates), dim=1)
    image, text = (
        normalize(pair + noise * unit(size.num_candidates), dim=1).to(dtype) for _ in range(2)
    )
    return Embeddings(image, text, logit_scale=20.0, logit_bias=logit_bias)


def shared(index: Tensor, expected: Tensor) -> float:
    """Share of the sub-batch that is in the other one too."""
    return len(set(index.tolist()) & set(expected.tolist())) / len(expected)


def describe(form: dict[str, Any]) -> str:
    """One line of the table."""
    parts = [
        f"{form['ms']['median']:9.2f} ms ({form['ms']['min']:.2f} to {form['ms']['max']:.2f})",
        f"{1 / form['times']['products']['median']:6.2f} x products",
        f"{form['peak_bytes'] / 2**20:6.0f} MiB",
    ]
    parts += [
        f"{ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f}) times {name}"
        for name, ratio in form["times"].items()
        if name.startswith("published")
    ]
    if "picks_of_fp64" in form:
        parts.append(f"picks of fp64 {form['picks_of_fp64']:.2%}")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
