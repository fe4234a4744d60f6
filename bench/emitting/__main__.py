"""How many chosen examples a second: reading super-batches, choosing, decoding what was chosen.

Regime: synthetic JPEGs of 256 x 256 (20 KB) or 640 x 480 (58 KB) with a caption and two 512-d fp16
embeddings, in MDS shards, in the page cache. Sub-batches of 512 are emitted, decoded and resized to
224, from super-batches 5 or 10 times as large. The scorers cost next to nothing: this measures the
loading, not the models. Rates are examples emitted per second of CPU time of the process, all
threads and workers together. Every form reads the same shards in one run: only ratios carry over to
another machine.

    OMP_NUM_THREADS=1 python -m bench.emitting > bench/results/emitting_cpu.txt

Forms:

- floor: batches of 512 read and decoded by ours, nothing selected; the cost of loading without
  selection.
- cached: the scorer reads embeddings; only the chosen are decoded.
- low resolution: the scorer sees all candidates, decoded at a quarter of the 256 pixels by the
  JPEG's own scaling; the chosen are decoded in full.
- thumbnails: the same from a column of 64-pixel JPEGs, stored beside the images.
- usual: StreamingDataset reads all candidates; Pillow decodes and transforms all of them as
  open_clip does, and most are then dropped. "Usual, fast" uses our decoder.
- DataLoader, StreamingDataLoader: plain batches of 512, read and decoded by our decoder a row at a
  time in two worker processes, and stacked by ``default_collate``.

Forms take turns. Rates are medians of the rounds, with minimum and maximum; ratios to the floor are
taken within a round.

"First sub-batch" is the time from the start of iteration to the first sub-batch, of 512 from 2,560
of 30,000 rows of 256 x 256, in a new source that hashes its shards: until the super-batch is read,
for scoring, and for decoding the chosen. Each maximum comes from the process's first pass, with
imports.

"Waiting" is the fraction of its time that a training loop waits for sub-batches, with reading ahead
and without. A step takes 100 ms and a super-batch 90 ms to read, both asleep.

The last line of the output is one JSON document.
"""

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.emitting.data import write
from bench.emitting.first_sub_batch import first_sub_batch
from bench.emitting.forms import Batches, forms_of
from bench.emitting.waiting import waiting_fraction
from bench.harness import parser_of, print_document, ratios, spread

SUB_BATCH, NUM_PHOTOS = 512, 100
WITH_WORKERS = ("DataLoader", "StreamingDataLoader")


def main() -> None:
    """Emit from the same shards in every way."""
    parser = parser_of(__doc__, smoke=True)
    parser.add_argument("--rows", type=int, default=10_240)
    parser.add_argument("--sub-batch", type=int, default=SUB_BATCH)
    parser.add_argument("--first-rows", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each form in a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.sub_batch, arguments.seconds = 96, 4, 0.05
        arguments.first_rows, arguments.rounds = 96, 1
    num_photos = 4 if arguments.smoke else NUM_PHOTOS
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first"
        write(path, 256, 256, arguments.first_rows, num_photos)
        num_passes = 1 if arguments.smoke else 5
        first = first_sub_batch(path, arguments.first_rows, arguments.sub_batch, num_passes)
        for width, height in ((256, 256), (640, 480)):
            path = Path(folder) / f"{width}"
            sizes = write(path, width, height, arguments.rows, num_photos)
            print(f"{width} x {height}, {sizes}")
            found = measure(path, arguments.sub_batch, arguments.seconds, arguments.rounds)
            for name, form in found.items():
                print(f"  {name:22s} {describe(form)}", flush=True)
            results.append({"width": width, "height": height, "bytes": sizes, "forms": found})
    num_steps = 3 if arguments.smoke else 100
    waiting = {prefetch: waiting_fraction(prefetch, num_steps) for prefetch in (0, 1)}
    for prefetch, fraction in waiting.items():
        print(f"waiting, prefetch={prefetch}: {fraction:.2%} of a training loop's time")
    figures = {"first_sub_batch": first, "results": results, "waiting_fraction": waiting}
    print_document({**vars(arguments), **figures})


def measure(path: Path, sub_batch: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Examples emitted per second of CPU time, and of a clock, by each form."""
    rates: dict[str, list[tuple[float, float]]] = {}
    running: dict[str, Batches] = {}
    for _ in range(rounds):
        for name, form in forms_of(path, sub_batch).items():
            if name not in running:
                running[name] = form()
                # What happens once is not counted: imports, threads, the first super-batch. To
                # Pillow on one thread that is next to nothing.
                if not name.startswith("usual, ") or "fast" in name:
                    next(running[name])
            emitted, cpu, clock = 0, cpu_s(), time.perf_counter()
            while time.perf_counter() - clock < seconds:
                emitted += len(next(running[name])["jpg"])
            cpu, clock = cpu_s() - cpu, time.perf_counter() - clock
            rates.setdefault(name, []).append((emitted / cpu, emitted / clock))
            if name in WITH_WORKERS:  # They would go on in the background.
                running.pop(name).close()
    return {
        name: {
            "per_cpu_s": spread([per_cpu_s for per_cpu_s, _ in found]),
            "per_s": spread([per_s for _, per_s in found]),
            "times_floor": spread(
                ratios((own for own, _ in found), (of for of, _ in rates["floor"]))
            ),
        }
        for name, found in rates.items()
    }


def cpu_s() -> float:
    """CPU time of this process and of its workers."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def describe(form: dict[str, Any]) -> str:
    """One line of the table."""
    rate = form["per_cpu_s"]
    spread_of = f"({rate['min']:.0f}, {rate['max']:.0f})"
    parts = [f"{rate['median']:8.0f} {spread_of:14s} /CPU-s  {form['per_s']['median']:8.0f} /s"]
    parts.append(f"{form['times_floor']['median']:5.2f} x floor")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
