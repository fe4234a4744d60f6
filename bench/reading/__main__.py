"""How fast candidates are read: undecoded rows a second, shuffled, from local shards.

Regime: one process, warm page cache, no decoding, nothing done with the rows. A row has an encoded
image of 22 KB, a caption and two embeddings of 512 fp16 numbers. Rates are per CPU-second of the
process, all its threads included, and per second on the wall; forms take turns, and only ratios
within one run carry over to another machine.

    python -m bench.reading > bench/results/reading_cpu.txt

MDS forms: ``StreamingDataset``, iterated in shuffled order and indexed in stored order (iterating,
it shares the process with threads of its own, and its rate varied more than any other's on a shared
machine: from 3,400 to 9,200 rows a CPU-second over four runs, so read its ratios with care);
``MdsSource``, all columns, in batches of 512 and 2,560, in a source's first epoch, which hashes
each shard, and in later ones, which need not. Of images it delivers where they lie, as selection
asks for no more; "images as bytes" makes a ``bytes`` of each. "memcpy" copies the shards whole, the
ceiling of any reader that copies. ``TarSource`` reads the same rows from WebDataset tars, first
indexed; WebDataset and litData are left out where they are not installed. Tars are also timed from
nothing: examples indexed a CPU-second from a warm page cache, and the seconds until the first batch
of 100 tars that were never seen.

Zarr forms: plain slices of one chunk (or shard) after another, each let go of at once (in memory
that stays in the processor's cache), or held until a window of 2,048 rows is full, as a shuffle has
to; and ``ZarrSource``. Random bytes do not compress, so these are the least favourable pixels.

The last line of the output is one JSON document.
"""

import importlib.util
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import in_rounds, once_s, parser_of, print_document, ratios, spread
from bench.reading.data import make_litdata, make_mds, make_tars, make_zarr
from jest_loader.adapters.blocks import BlockSource
from jest_loader.adapters.blocks.order import BlockOrder
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.tar import TarSource
from jest_loader.adapters.zarr import ZarrSource

BATCH_SIZES = (512, 2560)
WINDOW_ROWS = 4 * 512
NUM_NEW_TARS = 100
TAR_COLUMNS = {
    "jpg": "jpg", "caption": "txt", "image_embedding": "image.npy", "text_embedding": "text.npy"
}  # fmt: skip
PACKAGES = ("mosaicml-streaming", "zarr", "webdataset", "litdata")
HASHES = ("xxh3_64", "xxh64", "sha1", "md5")
Form = Callable[[], object]


def main() -> None:
    """Time every form of every format."""
    parser = parser_of(__doc__, smoke=True, repeats=5)
    parser.add_argument("--rows", type=int, default=30_000)
    arguments = parser.parse_args()
    num_rows, repeats = (2560, 1) if arguments.smoke else (arguments.rows, arguments.repeats)
    # For a type that zarr's specification does not have yet, and from what StreamingDataset uses.
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_mds(folder / "mds", num_rows)
        mds = measure(mds_forms(folder, num_rows), num_rows, repeats)
        show("MDS", mds)
        hashes = {name: hash_rate(folder / "mds", name) for name in HASHES}
        for name, gigabytes in hashes.items():
            print(f"  {name:10s} {gigabytes:6.1f} GB per CPU-s")
        new_tars = tars_from_nothing(folder, num_rows)
        print("Tars from nothing:", new_tars, flush=True)
        zarr = {}
        for layout, block_rows in make_zarr(folder / "zarr", num_rows).items():
            forms = zarr_forms(folder / "zarr" / layout, block_rows, num_rows)
            zarr[layout] = measure(forms, num_rows, repeats)
            show(f"Zarr, {layout}", zarr[layout])
    num_ordered = 10**6 if arguments.smoke else 10**8
    shapes = [(num_ordered // block_rows, block_rows) for block_rows in (1_000, 10_000)]
    order = {f"{blocks} x {rows}": order_of(blocks, rows) for blocks, rows in shapes}
    print(f"Order of {num_ordered:,} rows, in windows of 10,240")
    for blocks, found in order.items():
        shown = (f"{name} {value:.3g}" for name, value in found.items())
        print(f"  {blocks:16s} {', '.join(shown)}")
    figures = {
        "mds": mds,
        "tars": new_tars,
        "hash_gb_per_cpu_s": hashes,
        "zarr": zarr,
        "order": order,
    }
    print_document({"rows": num_rows, "repeats": repeats, **figures}, packages=PACKAGES)


def mds_forms(folder: Path, num_rows: int) -> dict[str, Form]:
    """Each form's name, and a call that reads all rows once."""
    from streaming import StreamingDataset

    path = folder / "mds"
    dataset = StreamingDataset(local=str(path), shuffle=True, batch_size=512)
    forms: dict[str, Form] = {
        "StreamingDataset, iterated": lambda: drain(dataset),
        "StreamingDataset[i]": lambda: drain(dataset[number] for number in range(num_rows)),
        **other_forms(folder, num_rows),
    }
    for batch_size in BATCH_SIZES:
        source = MdsSource(path, batch_size=batch_size, drop_last=False)
        drain(source)
        forms[f"MdsSource, {batch_size}, first epoch"] = partial(first_epoch, path, batch_size)
        forms[f"MdsSource, {batch_size}"] = partial(drain, source)
        forms[f"MdsSource, {batch_size}, images as bytes"] = partial(drain_images, source)
    shards = [np.memmap(shard, np.uint8, "r") for shard in sorted(path.glob("shard.*"))]
    room = np.zeros(max(map(len, shards)), np.uint8)
    forms["memcpy"] = partial(copy_shards, shards, room)
    return forms


def copy_shards(shards: Iterable[NDArray[np.uint8]], room: NDArray[np.uint8]) -> None:
    """Copy one shard after another to the same place."""
    for shard in shards:
        np.copyto(room[: len(shard)], shard)


def other_forms(folder: Path, num_rows: int) -> dict[str, Form]:
    """Loaders of other formats, if they are installed."""
    paths = make_tars(folder / "tars", num_rows)
    forms: dict[str, Form] = {}
    for batch_size in BATCH_SIZES:
        source = TarSource(paths, batch_size=batch_size, columns=TAR_COLUMNS, drop_last=False)
        forms[f"TarSource, {batch_size}"] = partial(drain, source)
    if importlib.util.find_spec("webdataset"):
        import webdataset

        tars = webdataset.WebDataset(paths, shardshuffle=len(paths)).shuffle(WINDOW_ROWS)
        forms["WebDataset"] = lambda: drain(tars)
    if importlib.util.find_spec("litdata"):
        import litdata

        make_litdata(folder / "litdata", num_rows)
        chunks = litdata.StreamingDataset(str(folder / "litdata"), shuffle=True)
        forms["litData"] = lambda: drain(chunks)
    for package in ("webdataset", "litdata"):
        if not importlib.util.find_spec(package):
            print(f"{package} is not installed and left out")
    return forms


def tars_from_nothing(folder: Path, num_rows: int) -> dict[str, float]:
    """What indexing tars costs, and how long the first batch of new ones takes."""
    paths = make_tars(folder / "new-tars", num_rows, max(1, num_rows // NUM_NEW_TARS))
    (folder / "indexes").mkdir()
    started, cpu_started = time.perf_counter(), time.process_time()
    source = TarSource(paths, batch_size=512, columns=TAR_COLUMNS, index=folder / "indexes")
    cpu_s = time.process_time() - cpu_started
    next(iter(source))
    return {
        "indexed_per_cpu_s": num_rows / cpu_s,
        "num_tars": float(len(paths)),
        "first_batch_s": time.perf_counter() - started,
    }


def zarr_forms(path: Path, block_rows: int, num_rows: int) -> dict[str, Form]:
    """The same for a Zarr group."""
    import zarr

    (array,) = (array for _, array in zarr.open_group(path, mode="r").arrays())
    starts = np.random.default_rng(0).permutation(np.arange(0, num_rows, block_rows)).tolist()
    window = max(1, WINDOW_ROWS // block_rows)

    def read(start: int) -> Any:
        return array[start : start + block_rows]

    return {
        "slices": lambda: drain(map(read, starts)),
        "slices, a window held": lambda: drain(
            list(map(read, starts[first : first + window]))
            for first in range(0, len(starts), window)
        ),
        **{
            f"ZarrSource, {batch_size}": partial(
                drain, ZarrSource(path, batch_size=batch_size, drop_last=False)
            )
            for batch_size in BATCH_SIZES
        },
    }


def first_epoch(path: Path, batch_size: int) -> None:
    """Open the shards and read them once."""
    drain(MdsSource(path, batch_size=batch_size, drop_last=False))


def drain(items: Iterable[Any]) -> None:
    """Take one item after another and keep none."""
    for item in items:
        del item


def drain_images(source: BlockSource) -> None:
    """The same, making a ``bytes`` of each image."""
    for batch in source:
        drain(batch["jpg"])


def measure(forms: dict[str, Form], num_rows: int, repeats: int) -> dict[str, Any]:
    """Rows per CPU-second and per second of each form: minimum, median and maximum.

    ``ratio`` is to the first form, the median of those within a round: what else the machine does
    slows neighbours in time alike.
    """
    taken = in_rounds(forms, repeats, once_s)
    rates = {
        name: {
            "per_cpu_s": [num_rows / seconds.cpu for seconds in found],
            "per_s": [num_rows / seconds.wall for seconds in found],
        }
        for name, found in taken.items()
    }
    base = next(iter(rates.values()))
    return {
        name: {
            kind: {**spread(values), "ratio": median(ratios(values, base[kind]))}
            for kind, values in found.items()
        }
        for name, found in rates.items()
    }


def show(title: str, forms: dict[str, Any]) -> None:
    """A table of rates and ratios."""
    print(f"{title}: rows per CPU-s (from, to), its ratio; rows per s, its ratio")
    for name, form in forms.items():
        cells = []
        for kind, rates in form.items():
            range_of = f" ({rates['min']:,.0f}, {rates['max']:,.0f})" if kind == "per_cpu_s" else ""
            cells.append(f"{rates['median']:10,.0f}{range_of:22s} {rates['ratio']:7.2f} x")
        print(f"  {name:36s} {'  '.join(cells)}", flush=True)


def hash_rate(path: Path, algorithm: str) -> float:
    """GB per CPU-second of a hash that the index may hold."""
    from streaming.base.hashing import get_hash

    data = min(path.glob("shard.*")).read_bytes()
    started = time.process_time()
    get_hash(algorithm, data)
    return len(data) / (time.process_time() - started) / 1e9


def order_of(num_blocks: int, block_rows: int) -> dict[str, float]:
    """What an epoch's order costs: windows at its start, then rows as windows are reached."""
    order = BlockOrder(np.full(num_blocks, block_rows), True, 10_240, 0)
    started = time.process_time()
    windows = order.windows(0)
    windows_s = time.process_time() - started
    some = windows[:: max(1, len(windows) // 200)]
    started = time.process_time()
    for window in some:
        order.rows(0, window)
    rows_s = (time.process_time() - started) * len(windows) / len(some)
    tracemalloc.start()
    kept = order.windows(0), order.rows(0, some[0])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return {"windows_cpu_s": windows_s, "rows_cpu_s": rows_s, "peak_mb": peak_bytes / 1e6}


if __name__ == "__main__":
    main()
