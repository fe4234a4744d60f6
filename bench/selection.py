"""What joint selection costs: Algorithm 1 as published, ours, and the bare matrix products.

Regime: learnability of B candidates of which f = 0.8 are dropped, in 16 chunks, one device, the
embeddings already there. Clustered embeddings, whose scores tell candidates apart. All forms of a
size are timed in one run, since only their ratios carry over to another machine.

    python -m bench.selection > bench/results/selection_cpu.txt
    python -m bench.selection --device cuda > bench/results/selection_h100.txt

Forms:

- published: the matrix of all pairs, and in each chunk its products with an indicator of what was
  chosen; NumPy in fp64 and in fp32 on a CPU, PyTorch in fp32 on a GPU.
- plain: ``FactoredScores`` in plain PyTorch.
- fused: its Triton kernels; on a GPU only. Graph: its selection alone, from scores that were made
  before, captured once and replayed; its memory is not measured.
- products: the same matrix products and nothing else, in the dtype of the embeddings: the bound.

Every form is timed once a round, and a ratio ("7 times published": 7 times as fast) is taken within
a round; the median of all rounds is printed, with the least and the greatest.

Memory is the peak above the embeddings: of the process on a CPU, of the allocator on a GPU. Picks
are the share of the sub-batch that the same form picks in fp64 under the same noise. The last line
of the output is one JSON document.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

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

SELECTOR = JointSelector(num_chunks=16)
FILTER_RATIO = 0.8


class Size(NamedTuple):
    """Candidates, and the width of their embeddings."""

    num_candidates: int
    width: int

    @property
    def sub_batch(self) -> int:
        """Candidates that are chosen."""
        return round(self.num_candidates * (1 - FILTER_RATIO))


SIZES = {
    "smoke": [Size(640, 32)],
    "cpu": [Size(5120, 512), Size(20480, 512)],
    "cuda": [
        Size(5120, 512),
        Size(20480, 512),
        Size(40960, 768),
        Size(81920, 768),
        Size(163840, 768),
    ],
}
LARGEST_PUBLISHED = {"cpu": 5120, "cuda": 40960}
"""Twice as many candidates take four times the memory: 75 GiB at 81,920."""


def main() -> None:
    """Time every form at every size."""
    parser = parser_of(__doc__, smoke=True, repeats=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--loss", default="sigmoid", choices=["sigmoid", "softmax"])
    arguments = parser.parse_args()
    repeats = 1 if arguments.smoke else arguments.repeats
    results = []
    for size in SIZES["smoke" if arguments.smoke else arguments.device]:
        found = measure(size, arguments.device, arguments.loss, repeats)
        results.append(found)
        print(f"{size.num_candidates} -> {size.sub_batch}, width {size.width}")
        for name, form in found["forms"].items():
            print(f"  {name:14s} {describe(form)}", flush=True)
    figures = {
        "loss": arguments.loss,
        "num_chunks": SELECTOR.num_chunks,
        "filter_ratio": FILTER_RATIO,
        "repeats": repeats,
        "results": results,
    }
    print_document(figures, device=arguments.device)


def measure(size: Size, device: str, loss: Loss, repeats: int) -> dict[str, Any]:
    """Times, memory and agreement of each form that fits."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    learner = clustered(size, seed=0, noise=1.2, logit_bias=-10.0, device=device, dtype=dtype)
    reference = clustered(size, seed=1, noise=0.6, logit_bias=-14.0, device=device, dtype=dtype)
    sides = (learner, reference)
    exact = (replace(s, image=s.image.double(), text=s.text.double()) for s in sides)
    expected = select(FactoredScores(next(exact), next(exact), loss, fused=False), size)
    forms: dict[str, Any] = {}
    runs = dict(forms_of(size, sides, device, loss))
    for name, run in runs.items():
        # The first call compiles and allocates; what it adds to the peak is the form's own.
        with PeakMemory(device) as memory:
            index = run()
        forms[name] = {"peak_bytes": memory.peak_bytes}
        if isinstance(index, Tensor):
            forms[name]["picks_of_fp64"] = shared(index, expected)
            forms[name]["learnability"] = learnability(sides, index, loss)
    ms = in_rounds(runs, repeats, partial(once_ms, device=device))
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
        "dtype": str(dtype),
        "embedding_bytes": sum(2 * s.image.nbytes for s in sides),
        "learnability_of_fp64": learnability(sides, expected, loss),
        "products_flops": products_flops(size),
        "forms": forms,
    }


def forms_of(
    size: Size, sides: tuple[Embeddings, Embeddings], device: str, loss: Loss
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each form's name, and a call that selects with it."""
    if size.num_candidates <= LARGEST_PUBLISHED[device] and loss == "sigmoid":
        if device == "cpu":
            yield "published fp64", lambda: published_numpy(size, sides, np.float64)
            yield "published fp32", lambda: published_numpy(size, sides, np.float32)
        else:
            yield "published fp32", lambda: published_torch(size, sides)
    yield "plain", lambda: select(FactoredScores(*sides, loss, fused=False), size)
    if device == "cuda":
        yield "fused", lambda: select(FactoredScores(*sides, loss, fused=True), size)
        yield "graph", captured(FactoredScores(*sides, loss, fused=True), size)
    yield "products", lambda: products(size, sides)


def select(scores: FactoredScores, size: Size) -> Tensor:
    """Our selection."""
    return SELECTOR.select(scores, size.sub_batch, key=0)


def captured(scores: FactoredScores, size: Size) -> Callable[[], Tensor]:
    """The selection as one CUDA graph, which the host launches at once."""
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        select(scores, size)  # Compiles the kernels; a capture must not.
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        index = select(scores, size)

    def replay() -> Tensor:
        graph.replay()
        return index

    return replay


def published_numpy(size: Size, sides: tuple[Embeddings, Embeddings], dtype: Any) -> None:
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
    jointly_sample(score, size.sub_batch, SELECTOR.num_chunks, draw)


def published_torch(size: Size, sides: tuple[Embeddings, Embeddings]) -> None:
    """The same in PyTorch, drawn by Gumbel-top-k: multinomial stops at 2^24 categories."""
    eye = torch.eye(size.num_candidates, dtype=torch.bool, device=sides[0].image.device)
    learner, reference = (
        side.image.float() @ side.text.float().T * scale + bias
        for side, (scale, bias) in zip(sides, map(logit_parameters, sides), strict=True)
    )
    pairwise = softplus(learner.where(~eye, -learner)) - softplus(reference.where(~eye, -reference))
    own, chosen = pairwise.diagonal(), torch.zeros_like(pairwise[0])
    for chunk in chunk_sizes(size.sub_batch, SELECTOR.num_chunks):
        logits = own + chosen @ pairwise + pairwise @ chosen
        logits = logits.masked_fill(chosen > 0, -torch.inf)
        noise = -torch.empty_like(logits).exponential_().log()
        chosen[(logits + noise).topk(chunk).indices] = 1


def logit_parameters(side: Embeddings) -> tuple[float, float]:
    """Scale and bias as numbers."""
    assert side.logit_bias is not None, "the published form is timed with the sigmoid loss"
    return float(side.logit_scale), float(side.logit_bias)


def products(size: Size, sides: tuple[Embeddings, Embeddings]) -> None:
    """What no matrix-free form can leave out: each chunk but the last with all candidates."""
    chunks = chunk_sizes(size.sub_batch, SELECTOR.num_chunks)
    out = sides[0].image.new_empty(size.num_candidates, chunks[0])
    for side in sides:
        for candidates, others in ((side.image, side.text), (side.text, side.image)):
            start = 0
            for chunk in chunks[:-1]:
                torch.mm(candidates, others[start : start + chunk].T, out=out[:, :chunk])
                start += chunk


def products_flops(size: Size) -> int:
    """Floating-point operations of ``products``."""
    chunks = chunk_sizes(size.sub_batch, SELECTOR.num_chunks)
    return 4 * 2 * size.num_candidates * size.width * sum(chunks[:-1])


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
