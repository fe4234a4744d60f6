"""How many chosen examples a second: reading super-batches, choosing, decoding what was chosen.

Regime: synthetic JPEGs of 256 x 256 (20 KB) or 640 x 480 (58 KB) with a caption and two 512-d fp16
embeddings, in MDS shards, in the page cache. Sub-batches of 512 are emitted, decoded and resized to
224, from super-batches 5 or 10 times as large, by a scorer that costs next to nothing: this
measures the loading, not the models. One process; examples emitted per second of its CPU time, all
threads together. Every form reads the same shards in one run, since only ratios carry over.

    OMP_NUM_THREADS=1 python -m bench.emitting > bench/results/emitting_cpu.txt

Forms:

- floor: batches of 512 read and decoded by ours, nothing selected. What training without selection
  costs.
- cached: the scorer reads embeddings; only the chosen are decoded.
- low resolution: the scorer sees all candidates, decoded at a quarter of the 256 pixels by the
  JPEG's own scaling; the chosen are decoded in full.
- thumbnails: the same from a column of 64-pixel JPEGs, stored beside the images.
- usual: StreamingDataset reads all candidates, and all are decoded by Pillow and transformed as
  open_clip does; then most are dropped. Usual, fast: with our decoder.
- DataLoader, StreamingDataLoader: plain batches of 512, read and decoded by our decoder a row at a
  time in two worker processes, whose CPU time counts too, and stacked by ``default_collate``.

Forms take turns; rates are medians of the rounds, with the least and the most, and ratios to the
floor are taken within a round.

First is the time from the start of iteration to the first sub-batch, of 512 from 2,560 of 30,000
rows of 256 x 256, in a new source whose shards are hashed: until the super-batch is read, then for
scoring, and for decoding what was chosen. The most of each is that of the process's first pass,
with imports.

Waiting is the share of its time that a training loop waits for sub-batches when it takes 100 ms a
step and the source 90 ms a super-batch, both asleep: with reading ahead and without.

The last line of the output is one JSON document.
"""

import argparse
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.decoding import jpeg
from bench.harness import environment, spread
from jest_loader import ExampleScores, IndependentSelector, JestDataset
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import write_mds
from jest_loader.pack.thumbnails import Thumbnails

SIZE, THUMBNAIL_SIZE, SUB_BATCH, NUM_PHOTOS, WORKERS = 224, 64, 512, 100, 2
WITH_WORKERS = ("DataLoader", "StreamingDataLoader")
COLUMNS = {
    "jpg": "bytes",  # What "jpeg" columns hold, StreamingDataset would open with Pillow at once.
    "caption": "str",
    "image": "ndarray:float16:512",
    "text": "ndarray:float16:512",
}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
Form = Callable[[], Iterable[Any]]


def main() -> None:
    """Emit from the same shards in every way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_240)
    parser.add_argument("--sub-batch", type=int, default=SUB_BATCH)
    parser.add_argument("--first-rows", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each form in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="few rows, for a moment")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.sub_batch, arguments.seconds = 320, 16, 0.1
        arguments.first_rows, arguments.rounds = 320, 1
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        first = first_sub_batch(Path(folder) / "first", arguments.first_rows, arguments.sub_batch)
        for width, height in ((256, 256), (640, 480)):
            path = Path(folder) / f"{width}"
            sizes = write(path, width, height, arguments.rows)
            print(f"{width} x {height}, {sizes}")
            found = measure(path, arguments.sub_batch, arguments.seconds, arguments.rounds)
            for name, form in found.items():
                print(f"  {name:22s} {describe(form)}", flush=True)
            results.append({"width": width, "height": height, "bytes": sizes, "forms": found})
    waiting = {prefetch: waiting_fraction(prefetch, arguments.smoke) for prefetch in (0, 1)}
    for prefetch, fraction in waiting.items():
        print(f"waiting, prefetch={prefetch}: {fraction:.2%} of a training loop's time")
    document = {"first_sub_batch": first, "results": results, "waiting_fraction": waiting}
    print(json.dumps({"environment": environment(), **vars(arguments), **document}))


def write(path: Path, width: int, height: int, num_rows: int) -> dict[str, int]:
    """Pack the rows, without and with thumbnails; the mean sizes of both JPEGs."""
    photos = [jpeg(width, height, seed) for seed in range(NUM_PHOTOS)]
    small = [*map(Thumbnails(THUMBNAIL_SIZE), photos)]
    random = np.random.default_rng(0)

    def rows(with_thumbnails: bool) -> Iterator[dict[str, Any]]:
        for row in range(num_rows):
            image, text = random.standard_normal((2, 512)).astype(np.float16)
            caption = f"a picture of something, number {row}"
            columns = {"caption": caption, "image": image, "text": text}
            if with_thumbnails:
                columns["thumbnail"] = small[row % NUM_PHOTOS]
            yield {"jpg": photos[row % NUM_PHOTOS], **columns}

    write_mds(path, COLUMNS, rows(with_thumbnails=False))
    write_mds(with_thumbnails(path), {**COLUMNS, "thumbnail": "bytes"}, rows(with_thumbnails=True))
    means = (sum(map(len, files)) // NUM_PHOTOS for files in (photos, small))
    return dict(zip(("image", "thumbnail"), means, strict=True))


def with_thumbnails(path: Path) -> Path:
    """The data set that has them: the other forms need not read past them."""
    return path.with_name(f"{path.name}_with_thumbnails")


def measure(path: Path, sub_batch: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Examples emitted per second of CPU time, and of a clock, by each form."""
    rates: dict[str, list[tuple[float, float]]] = {}
    running: dict[str, Iterator[Any]] = {}
    for _ in range(rounds):
        for name, form in forms_of(path, sub_batch).items():
            if name not in running:
                running[name] = iter(form())
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
                running.pop(name).close()  # type: ignore[attr-defined]
    return {
        name: {
            "per_cpu_s": spread([per_cpu_s for per_cpu_s, _ in found]),
            "per_s": spread([per_s for _, per_s in found]),
            "times_floor": spread(
                [own / other for (own, _), (other, _) in zip(found, rates["floor"], strict=True)]
            ),
        }
        for name, found in rates.items()
    }


def first_sub_batch(path: Path, num_rows: int, size: int) -> dict[str, Any]:
    """Seconds until the first sub-batch, and of its parts, by each way of scoring."""
    write(path, 256, 256, num_rows)
    found: dict[str, Any] = {}
    print(f"first sub-batch of {size} from {5 * size} of {num_rows} rows, s (from, to)")
    for name in ("cached", "low resolution", "thumbnails"):
        passes = [one_first(path, name, size) for _ in range(5)]
        found[name] = {part: spread([one[part] for one in passes]) for part in passes[0]}
        parts = (
            f"{part} {s['median']:.3f} ({s['min']:.3f}, {s['max']:.3f})"
            for part, s in found[name].items()
        )
        print(f"  {name:22s} {'  '.join(parts)}", flush=True)
    return found


def one_first(path: Path, name: str, size: int) -> dict[str, float]:
    """One pass to its first sub-batch."""
    seconds: dict[str, float] = {}

    def timed(part: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(batch: Any) -> Any:
            begun = time.perf_counter()
            result = function(batch)
            seconds[part] = time.perf_counter() - begun
            return result

        return call

    def source() -> Iterator[Any]:
        for batch in MdsSource(with_thumbnails(path), batch_size=5 * size):
            seconds.setdefault("reading", time.perf_counter() - started)
            yield batch

    scorer = scorers()[name]
    dataset = JestDataset(
        source(),
        SimpleNamespace(score=timed("scoring", scorer.score)),
        IndependentSelector(),
        super_batch_size=5 * size,
        sub_batch_size=size,
        materialize=timed("decoding", DecodeImages("jpg", SIZE)),
    )
    started = time.perf_counter()
    with dataset:
        next(iter(dataset))
        total = time.perf_counter() - started
    return {"total": total, **seconds, "after_reading": total - seconds["reading"]}


def scorers() -> dict[str, Any]:
    """Each cheap scorer by what it looks at."""
    scaled = DecodeImages("jpg", THUMBNAIL_SIZE, out_column="small", fast_scaling=True)
    stored = DecodeImages("thumbnail", THUMBNAIL_SIZE, out_column="small")
    return {"cached": Cached(), "low resolution": Seen(scaled), "thumbnails": Seen(stored)}


def cpu_s() -> float:
    """CPU time of this process and of its workers."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def forms_of(path: Path, size: int) -> dict[str, Form]:
    """Each form as endless batches, without a thread that reads ahead: CPU time is what counts."""
    full = DecodeImages("jpg", SIZE)

    def selected(name: str, ratio: int) -> Form:
        rows = with_thumbnails(path) if name == "thumbnails" else path
        return lambda: over_and_over(
            JestDataset(
                MdsSource(rows, batch_size=size * ratio),
                scorers()[name],
                IndependentSelector(),
                super_batch_size=size * ratio,
                sub_batch_size=size,
                materialize=full,
                prefetch=0,
            )
        )

    def usual(ratio: int, decode: Any) -> Form:
        batches = streaming_loader(path, size * ratio)
        return lambda: (decode(b, slice(size)) for b in over_and_over(batches))

    forms: dict[str, Form] = {
        "floor": lambda: (full(batch) for batch in over_and_over(MdsSource(path, batch_size=size))),
        "DataLoader": lambda: over_and_over(map_loader(path, size)),
        "StreamingDataLoader": lambda: over_and_over(decoding_loader(path, size)),
    }
    for ratio in (5, 10):
        forms |= {
            **{f"{name}, {ratio} x": selected(name, ratio) for name in scorers()},
            f"usual, fast, {ratio} x": usual(ratio, lambda b, rows: {"jpg": full(b)["jpg"][rows]}),
            f"usual, {ratio} x": usual(ratio, pillow_all),
        }
    return forms


class Cached:
    """Scores by stored embeddings: image and text of a pair, nothing joint."""

    def score(self, super_batch: dict[str, Any]) -> ExampleScores:
        """One number per candidate."""
        image, text = (super_batch[side].astype(np.float32) for side in ("image", "text"))
        return ExampleScores(torch.from_numpy(np.einsum("ij,ij->i", image, text)) / 512)


class Seen:
    """Scores by small pixels."""

    def __init__(self, decode: DecodeImages) -> None:
        self._decode = decode

    def score(self, super_batch: dict[str, Any]) -> ExampleScores:
        """One number per candidate: the brightness of one pixel."""
        return ExampleScores(self._decode(super_batch)["small"][:, 0, 32, 32].float() / 255)


def one_row() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What a Dataset's ``__getitem__`` does with a row."""
    decode = DecodeImages("jpg", SIZE, num_threads=1)

    def decoded(row: dict[str, Any]) -> dict[str, Any]:
        return {"caption": row["caption"], "jpg": decode({"jpg": [row["jpg"]]})["jpg"][0]}

    return decoded


class Rows(Dataset[dict[str, Any]]):
    """The rows of shards by number, as a ``Dataset`` that people write themselves."""

    def __init__(self, path: Path) -> None:
        from streaming import StreamingDataset

        self._rows = StreamingDataset(local=str(path), batch_size=1)
        self._decoded = one_row()

    def __len__(self) -> int:
        return int(self._rows.num_samples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._decoded(self._rows[row])


def map_loader(path: Path, size: int) -> DataLoader[Any]:
    """A torch DataLoader over rows by number."""
    return DataLoader(Rows(path), size, shuffle=True, drop_last=True, num_workers=WORKERS)


def decoding_loader(path: Path, size: int) -> DataLoader[Any]:
    """MosaicML's own, over rows that it decodes."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, row: int) -> Any:
            return one_row()(super().__getitem__(row))

    clean_stale_shared_memory()
    dataset = Decoded(local=str(path), batch_size=size, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=size, drop_last=True, num_workers=WORKERS)


def streaming_loader(path: Path, size: int) -> DataLoader[Any]:
    """MosaicML's own."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(path), batch_size=size, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=size, drop_last=True, collate_fn=collate)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns of rows; images as they are read."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def open_clip_transform(image: Image.Image) -> torch.Tensor:
    """What open_clip's evaluation transform does: resize, cut, to floats, normalize."""
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    image = image.crop((left, top, left + SIZE, top + SIZE)).convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(MEAN[:, None, None]).div_(STD[:, None, None])


def pillow_all(batch: dict[str, Any], chosen: slice) -> dict[str, Any]:
    """Every image decoded and transformed by Pillow, one after the other; those chosen kept."""
    images = (Image.open(io.BytesIO(encoded)) for encoded in batch["jpg"])
    decoded = [open_clip_transform(image) for image in images]
    return {"jpg": torch.stack(decoded[chosen])}


def over_and_over(batches: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


def waiting_fraction(prefetch: int, smoke: bool) -> float:
    """Share of its time that a loop of 100 ms a step waits where reading takes 90 ms."""

    def source() -> Iterator[dict[str, Any]]:
        while True:
            time.sleep(0.09)
            yield {"image": np.ones((8, 4), np.float16), "text": np.ones((8, 4), np.float16)}

    dataset = JestDataset(
        source(), Cached(), super_batch_size=8, sub_batch_size=4, prefetch=prefetch
    )
    waited, started, batches = 0.0, 0.0, iter(dataset)
    for step in range(3 if smoke else 100):
        asked = time.perf_counter()
        next(batches)
        if step == 0:
            started = time.perf_counter()  # The first cannot have been read ahead.
        else:
            waited += time.perf_counter() - asked
        time.sleep(0.1)
    return waited / (time.perf_counter() - started)


def describe(form: dict[str, Any]) -> str:
    """One line of the table."""
    rate = form["per_cpu_s"]
    spread_of = f"({rate['min']:.0f}, {rate['max']:.0f})"
    parts = [f"{rate['median']:8.0f} {spread_of:14s} /CPU-s  {form['per_s']['median']:8.0f} /s"]
    parts.append(f"{form['times_floor']['median']:5.2f} x floor")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
