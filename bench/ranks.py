"""Selection over many ranks: what does it cost, and what is received?

Two regimes, each said in the output; ``bench.quotas`` has what the quotas are worth.

- *weak scaling*: real processes over gloo on this machine, 2,560 candidates and 512 chosen a rank,
  one thread each. A rank's candidates are conditioned on what all chose, so its work grows with
  the number of ranks: twice at 2, four times at 4. Where there are more processes than cores the
  times are those of a machine that is too small, and are marked.
- *cost at the paper's scale*: computed, not measured. From one GPU's stated throughput on this
  arithmetic and stated speeds of the links between GPUs; both are arguments.

    python -m bench.ranks > bench/results/ranks_cpu.txt

The last line of the output is one JSON document.
"""

import json
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import normalize

from bench.harness import parser_of, print_document, spread
from jest_loader import Embeddings, FactoredScores, JointSelector
from jest_loader.cost.flops import selection_flops
from jest_loader.ranks.rank_scores import RankScores
from jest_loader.ranks.ranks import joint_bytes, ranks_of

PAPER = {"super_batch_size": 163_840, "sub_batch_size": 32_768, "width": 768, "num_chunks": 16}
NUM_MODELS, HALF_BYTES = 2, 2


def main() -> None:
    """Measure and compute; print tables and one JSON document."""
    parser = parser_of(__doc__, smoke=True)
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
    print_document({"paper": PAPER, "weak_scaling": scaling, "cost": costs})


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


if __name__ == "__main__":
    main()
