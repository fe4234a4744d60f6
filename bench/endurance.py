r"""Does a long run stay as it began: its memory, file descriptors, threads, and time per step?

Regime: a small source, 512 rows of 4 columns, gone over again and again; joint selection of 16 from
super-batches of 64, by a reference cache and a learner of one matrix, which is trained on them. An
epoch has 8 steps, so that all that begins and ends with an epoch does so thousands of times. Every
1,000 steps the state is saved, and loaded into a new dataset that goes on.

    python -m bench.endurance > bench/results/endurance_cpu.txt

The last line of the output is one JSON document.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from bench.harness import parser_of, print_document
from jest_loader import (
    CachedReference,
    Embeddings,
    FrozenReference,
    JestDataset,
    JointSelector,
    Learnability,
    LiveLearner,
    Source,
)
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.ops.losses import contrastive_loss
from jest_loader.pack import write_mds, write_zarr
from jest_loader.reference_cache import build

NUM_ROWS, WIDTH, SUPER_BATCH, SUB_BATCH = 512, 16, 64, 16
COLUMNS = {
    "image": "ndarray:float32:16",
    "text": "ndarray:float32:16",
    "name": "str",
    "raw": "bytes",
}
SAVE_EVERY = 1000


class Held(NamedTuple):
    """What the process holds, and what steps take: resident memory in MiB, and ms per step."""

    step: int
    memory_mib: float
    descriptors: int
    threads: int
    step_ms: float


class Learner(nn.Module):
    """One matrix for both sides."""

    logit_scale, logit_bias = 10.0, -5.0

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, WIDTH, bias=False)

    def embed(self, batch: Any) -> Embeddings:
        """Embeddings of both columns, fp32 [B, 16]."""
        image, text = (
            normalize(self.project(torch.as_tensor(batch[side])), dim=1)
            for side in ("image", "text")
        )
        return Embeddings(image, text, self.logit_scale, self.logit_bias)


def main() -> None:
    """Run each source for as many steps, and say what is held on the way."""
    parser = parser_of(__doc__, smoke=True)
    parser.add_argument("--steps", type=int, default=100_000)
    given = parser.parse_args()
    steps = 100 if given.smoke else given.steps
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source_of in written(Path(folder)).items():
            held = list(run(source_of, Path(folder) / "cache", steps))
            results[name] = [found._asdict() for found in held]
            print(f"{name}\n{'step':>8} {'MiB':>8} {'files':>6} {'threads':>8} {'ms/step':>8}")
            for found in held:
                print(
                    f"{found.step:8} {found.memory_mib:8.1f} {found.descriptors:6} "
                    f"{found.threads:8} {found.step_ms:8.2f}"
                )
    print_document({"steps": steps, "results": results}, packages=["mosaicml-streaming", "zarr"])


def written(folder: Path) -> dict[str, Callable[[], Source]]:
    """The sources over what is written into the folder, with a reference cache beside it."""
    write_mds(folder / "mds", COLUMNS, rows(), shard_bytes=1 << 14)
    write_zarr(folder / "zarr", COLUMNS, rows(), chunk_rows=64)
    sources: dict[str, Callable[[], Source]] = {
        "MdsSource": lambda: MdsSource(folder / "mds", batch_size=32),
        "ZarrSource": lambda: ZarrSource(folder / "zarr", batch_size=32),
    }
    build(
        folder / "cache",
        MdsSource(folder / "mds", batch_size=64, shuffle=False),
        FrozenReference(Learner()),
    )
    return sources


def rows() -> Iterator[dict[str, Any]]:
    """Texts that are their images plus noise."""
    generator = np.random.default_rng(0)
    for row in range(NUM_ROWS):
        image, noise = generator.standard_normal((2, WIDTH), dtype=np.float32)
        yield {
            "image": image,
            "text": image + noise,
            "name": f"row {row}",
            "raw": generator.bytes(100 + row),
        }


def run(source_of: Callable[[], Source], cache: Path, steps: int) -> Iterator[Held]:
    """Train for ``steps``; what is held is yielded ten times."""
    learner = Learner()
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3)
    dataset = dataset_of(source_of(), learner, cache)
    step, started = 0, time.perf_counter()
    every = steps // 10
    while step < steps:
        for batch in dataset:
            optimizer.zero_grad()
            contrastive_loss(learner.embed(batch), "sigmoid").backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % every == 0:
                taken = time.perf_counter() - started
                yield held(step, 1000 * taken / every)
                started = time.perf_counter()
            if step % SAVE_EVERY == 0 or step == steps:
                break
        if step % SAVE_EVERY == 0:
            state = dataset.state_dict()
            dataset.close()
            dataset = dataset_of(source_of(), learner, cache)
            dataset.load_state_dict(state)
    dataset.close()


def dataset_of(source: Source, learner: Learner, cache: Path) -> JestDataset:
    """What is iterated: joint selection by learnability."""
    return JestDataset(
        source,
        Learnability(LiveLearner(learner), CachedReference.open(cache)),
        JointSelector(4),
        super_batch_size=SUPER_BATCH,
        sub_batch_size=SUB_BATCH,
    )


def held(step: int, step_ms: float) -> Held:
    """What this process holds now, as Linux says."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        step,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        step_ms,
    )


if __name__ == "__main__":
    main()
