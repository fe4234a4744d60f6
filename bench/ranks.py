r"""Selection over many ranks: what it costs, what is received, and what the quotas are worth.

Three regimes, each said in the output:

- *weak scaling*: real processes over gloo on this machine, 2,560 candidates and 512 chosen a rank,
  one thread each. A rank's candidates are conditioned on what all chose, so its work grows with
  the number of ranks: twice at 2, four times at 4. Where there are more processes than cores the
  times are those of a machine that is too small, and are marked.
- *cost at the paper's scale*: computed, not measured. From one GPU's stated throughput on this
  arithmetic and stated speeds of the links between GPUs; both are arguments.
- *what quotas are worth*: learnability of the sub-batch that all ranks choose together, simulated
  in one process on synthetic clusters whose other members are the hard negatives, dealt evenly or
  so that half of a rank's candidates are those of few clusters.

    python -m bench.ranks --plot bench/results/ranks.png > bench/results/ranks_cpu.txt

The last line of the output is one JSON document.
"""

import json
import os
import tempfile
import time
import warnings
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import normalize

from bench.harness import learnability, parser_of, print_document, pyplot, spread, unit_rows
from jest_loader import Embeddings, FactoredScores, JointSelector, Selector, UniformSelector
from jest_loader.cost.flops import selection_flops
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import Collective, joint_bytes, ranks_of
from jest_loader.selecting.selectors import IndependentSelector
from jest_loader.testing import simulate_ranks

PAPER = {"super_batch_size": 163_840, "sub_batch_size": 32_768, "width": 768, "num_chunks": 16}
NUM_MODELS, HALF_BYTES = 2, 2


def main() -> None:
    """Measure, compute and simulate; print tables and one JSON document."""
    parser = parser_of(__doc__, smoke=True)
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--gpu-tflops", type=float, default=300.0, help="of one GPU, stated")
    parser.add_argument("--link-gb-s", type=float, nargs="+", default=[25.0, 100.0], help="stated")
    options = parser.parse_args()
    numbers = (1, 2) if options.smoke else (1, 2, 4)
    scaling = [weak_scaling(num_ranks, options.smoke) for num_ranks in numbers]
    for row in scaling:
        print(row)
    costs = [
        cost(ranks, options.gpu_tflops, link)
        for link in options.link_gb_s
        for ranks in (8, 16, 32, 64, 128, 256)
    ]
    for row in costs:
        print(row)
    worth = simulated(options.smoke)
    for row in worth:
        print(row)
    if options.plot is not None:
        plot(worth, options.plot)
    print_document({"paper": PAPER, "weak_scaling": scaling, "cost": costs, "worth": worth})


def weak_scaling(num_ranks: int, smoke: bool) -> dict[str, Any]:
    """Times of one selection, the slowest rank's, with the same work for each rank."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (num_ranks, Path(folder), 256 if smoke else 2560, 2 if smoke else 7)
        spawn(_select, arguments, nprocs=num_ranks)  # type: ignore[no-untyped-call]
        ranks = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    times = [max(step) for step in zip(*(rank["times_ms"] for rank in ranks), strict=True)]
    return {
        "ranks": num_ranks,
        "oversubscribed": num_ranks > (os.cpu_count() or 1),
        "candidates_of_a_rank": arguments[2],
        "select_ms": spread(times),
        "received_bytes": ranks[0]["received_bytes"],
        "received_bytes_by_the_formula": ranks[0]["formula"],
    }


def _select(rank: int, num_ranks: int, folder: Path, size: int, num_steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "store").as_uri(),
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=120),
    )
    width, chosen = 512, size // 5
    learner, reference = (random_embeddings(size, width, seed=2 * rank + side) for side in (0, 1))
    times = []
    for step in range(num_steps + 1):
        ranks = ranks_of(None)
        scores = RankScores(FactoredScores(learner, reference), ranks)
        dist.barrier()
        started = time.perf_counter()
        JointSelector().select(scores, chosen, key=step)
        times.append(1000 * (time.perf_counter() - started))
    formula = joint_bytes(num_ranks * chosen, 16, num_ranks, NUM_MODELS * 2 * width * 4)
    found = {"times_ms": times[1:], "received_bytes": ranks.bytes_received, "formula": formula}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def random_embeddings(size: int, width: int, *, seed: int) -> Embeddings:
    """Pairs that match a little, in fp32."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, width, generator=generator)
    text = image + torch.randn(size, width, generator=generator)
    return Embeddings(normalize(image, dim=1), normalize(text, dim=1), 12.0, -4.0)


def cost(num_ranks: int, gpu_tflops: float, link_gb_s: float) -> dict[str, Any]:
    """At the paper's scale, from a GPU's stated speed and that of its link to the others."""
    flops = NUM_MODELS * selection_flops(**PAPER)
    received = joint_bytes(
        PAPER["sub_batch_size"], PAPER["num_chunks"], num_ranks,
        NUM_MODELS * 2 * PAPER["width"] * HALF_BYTES,
    )  # fmt: skip
    others = PAPER["super_batch_size"] * (num_ranks - 1) / num_ranks
    all_embeddings = others * NUM_MODELS * 2 * PAPER["width"] * HALF_BYTES
    return {
        "ranks": num_ranks,
        "stated": {"gpu_tflops": gpu_tflops, "link_gb_s": link_gb_s},
        "received_mb": received / 1e6,
        "received_mb_if_all_were_gathered": all_embeddings / 1e6,
        "select_ms": 1000 * flops / num_ranks / (gpu_tflops * 1e12),
        "select_ms_if_replicated": 1000 * flops / (gpu_tflops * 1e12),
        "receive_ms": 1000 * received / (link_gb_s * 1e9),
    }


def simulated(smoke: bool) -> list[dict[str, Any]]:
    """Learnability by quota, number of ranks and how the candidates are dealt."""
    size, num_steps = (640, 1) if smoke else (5120, 4)
    numbers = (2, 8) if smoke else (2, 4, 8, 16, 32, 64)
    alone: dict[str, Selector] = {
        "uniform": UniformSelector(),
        "independent": IndependentSelector(),
        "global": JointSelector(quota="global"),
    }
    runs = [(name, selector, 1, 0.0) for name, selector in alone.items()]
    runs += [
        (quota, JointSelector(quota=quota), num_ranks, skew)
        for skew in (0.0, 0.5)
        for quota in ("equal", "local")
        for num_ranks in numbers
    ]
    found = []
    for name, selector, num_ranks, skew in runs:
        values = [chosen_learnability(selector, num_ranks, skew, size, s) for s in range(num_steps)]
        found.append(
            {"selector": name, "ranks": num_ranks, "skew": skew, "learnability": spread(values)}
            | {"mean": mean(values), "candidates": size}
        )
    return found


def chosen_learnability(
    selector: Selector, num_ranks: int, skew: float, size: int, seed: int
) -> float:
    """Learnability of the sub-batch, a fifth of a super-batch, that ranks choose together."""
    pair, cluster = clustered(size, seed=seed)
    random = torch.rand(2, size, generator=torch.Generator().manual_seed(seed))
    place = torch.where(random[0] < skew, cluster / cluster.max(), random[1])
    order = place.argsort().reshape(num_ranks, -1).T.flatten()
    dealt = [replace(side, image=side.image[order], text=side.text[order]) for side in pair]
    run = partial(_choose, selector=selector, pair=dealt, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quota="local"
        chosen = torch.cat(simulate_ranks(num_ranks, run))
    return learnability((dealt[0], dealt[1]), chosen, "sigmoid")


def _choose(group: Collective, *, selector: Any, pair: list[Embeddings], seed: int) -> Tensor:
    rows = slice(group.rank, None, group.size)
    learner, reference = (
        replace(side, image=side.image[rows], text=side.text[rows]) for side in pair
    )
    size = len(pair[0].image) // 5 // group.size
    scores = RankScores(FactoredScores(learner, reference), ranks_of(group))
    index: Tensor = selector.select(scores, size, key=seed)
    return index * group.size + group.rank


def clustered(size: int, *, seed: int) -> tuple[list[Embeddings], Tensor]:
    """A learner that tells clusters apart, and a reference that also tells their members apart."""
    generator = torch.Generator().manual_seed(seed)
    num_clusters = size // 40
    unit = partial(unit_rows, width=32, generator=generator)
    cluster = torch.randint(num_clusters, (size,), generator=generator)
    centre, own = unit(num_clusters)[cluster], unit(size)
    tight = (0.3 + 1.2 * torch.rand(num_clusters, 1, generator=generator))[cluster]

    def side(
        at_centre: Any, at_own: float, noise: float, logit_scale: float, logit_bias: float
    ) -> Embeddings:
        image, text = (
            normalize(at_centre * centre + at_own * own + noise * unit(size), dim=1)
            for _ in range(2)
        )
        return Embeddings(image, text, logit_scale, logit_bias)

    return [side(tight, 0.5, 0.5, 12.0, -8.0), side(0.5, 1.0, 0.4, 16.0, -9.0)], cluster


def plot(worth: list[dict[str, Any]], path: Path) -> None:
    """Learnability over the number of ranks."""
    figure, axes = pyplot().subplots(figsize=(8, 4))
    for row in worth:
        if row["ranks"] == 1:
            style = {"global": "-", "independent": "--", "uniform": ":"}[row["selector"]]
            label = {"global": "global (exact)"}.get(row["selector"], row["selector"])
            axes.axhline(row["mean"], color="grey", linestyle=style, label=label)
    for quota, colour in (("equal", "tab:blue"), ("local", "tab:red")):
        for skew, style in ((0.0, "o-"), (0.5, "s--")):
            rows = [r for r in worth if (r["selector"], r["skew"]) == (quota, skew)]
            rows = [row for row in rows if row["ranks"] > 1]
            label = quota if skew == 0 else f"{quota}, half dealt by cluster"
            axes.plot(
                [row["ranks"] for row in rows], [row["mean"] for row in rows],
                style, color=colour, label=label,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("ranks")
    axes.set_ylabel("learnability of the sub-batch, per example")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
