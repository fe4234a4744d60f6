r"""What a reference chooses where it has seen some of the candidates, and what helps.

Regime: the demo's icons, each picture once, dealt by its bytes into three parts. Two parts are
clean; in the third all captions are shuffled. A reference, the demo's small model with the sigmoid
loss, is trained on the first clean part alone, another on the second. All three parts are selected
from, a fifth of each super-batch of 5,120, jointly in 16 chunks, by the easy-reference score of
cached embeddings: no learner is trained, and what is told is what was chosen.

    python -m bench.seen --out runs/seen > bench/results/seen.txt

The last line of the output is one JSON document.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import parser_of, print_document
from jest_loader import CrossFitted, EasyReference, JestDataset, JointSelector, Options
from jest_loader.adapters.mds import MdsSource
from jest_loader.clip.config.presets import preset
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.demo.icons import FONTS, ICON_SIZE, Icon, render
from jest_loader.pack import write_mds
from jest_loader.reference_cache import CachedReference
from jest_loader.seen import content_keys

PARTS = ("first clean", "second clean", "shuffled")
COLUMNS = {"image": f"ndarray:uint8:{ICON_SIZE},{ICON_SIZE}", "caption": "str", "part": "int"}
CANDIDATES, CHOSEN = 5120, 1024


def main() -> None:
    """Train two references, cache what they say of all icons, and select in three ways."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/seen"))
    parser.add_argument("--steps", type=int, default=500, help="of each reference")
    parser.add_argument("--epochs", type=int, default=3, help="of the selection")
    arguments = parser.parse_args()
    data = packed(arguments.out)
    caches = [cache_of(arguments.out, data, part, arguments.steps) for part in range(2)]
    references = [CachedReference.open(path) for path in caches]
    ways = {
        "the reference of the first part": (references[0], Options()),
        "the same, exclude_seen": (references[0], Options(exclude_seen=True)),
        "both, cross-fitted": (CrossFitted(references), Options()),
    }
    shares = {
        name: chosen(data, reference, options, arguments.epochs)
        for name, (reference, options) in ways.items()
    }
    held = chosen_of(MdsSource(data, batch_size=512, seed=0))
    report({"of all icons": held, **shares})
    print_document({"shares": shares, "of all icons": held, "steps": arguments.steps})


def packed(out: Path) -> Path:
    """All icons as one data set, and the clean parts as one each."""
    folder = out / "all"
    if (folder / "index.json").is_file():
        return folder
    icons = distinct()
    parts = content_keys(np.stack([icon.pixels for icon in icons])) % len(PARTS)
    captions = [icon.caption for icon in icons]
    noisy = np.flatnonzero(parts == PARTS.index("shuffled"))
    for row, other in zip(noisy, np.random.default_rng(0).permutation(noisy), strict=True):
        captions[row] = icons[other].caption
    rows = [
        {"image": icon.pixels, "caption": caption, "part": int(part)}
        for icon, caption, part in zip(icons, captions, parts, strict=True)
    ]
    for number in range(2):
        clean = (row for row in rows if row["part"] == number)
        write_mds(out / f"part-{number}", COLUMNS, clean, overwrite=True)
    write_mds(folder, COLUMNS, rows, overwrite=True)
    return folder


def distinct() -> list[Icon]:
    """The icons, each picture once, in an order that does not tell where it comes from."""
    found: dict[bytes, Icon] = {}
    for icon in render(list(FONTS)):
        found.setdefault(icon.pixels.tobytes(), icon)
    icons = list(found.values())
    return [icons[row] for row in np.random.default_rng(0).permutation(len(icons))]


def cache_of(out: Path, data: Path, part: int, steps: int) -> Path:
    """The cache of a reference that was trained on one of the clean parts."""
    config = preset("demo", out / f"part-{part}", out / f"reference-{part}")
    train(replace(config, steps=steps), label=f"reference {part}")
    model = checkpoint.load_model(config.out / "checkpoint.pt")
    path = out / f"cache-{part}"
    build_reference_cache(path, replace(config.data, train=data), model, config.loss)
    return path


def chosen(data: Path, reference: Any, options: Options, epochs: int) -> dict[str, float]:
    """Which parts the chosen are of."""
    source = MdsSource(data, batch_size=512, seed=0)
    dataset = JestDataset(
        source,
        EasyReference(reference),
        JointSelector(),
        super_batch_size=CANDIDATES,
        sub_batch_size=CHOSEN,
        options=options,
    )
    return chosen_of(batch for _ in range(epochs) for batch in dataset)


def chosen_of(batches: Any) -> dict[str, float]:
    """The share of each part among the rows of some batches."""
    counts: Counter[int] = Counter()
    for batch in batches:
        counts.update(np.asarray(batch["part"]).tolist())
    return {name: counts[part] / counts.total() for part, name in enumerate(PARTS)}


def report(shares: dict[str, dict[str, float]]) -> None:
    """Print the shares as a table."""
    for line in lines(shares):
        print(line)


def lines(shares: dict[str, dict[str, float]]) -> Iterator[str]:
    """The table, a line at a time."""
    yield f"{'chosen by':34s}" + "".join(f"{name:>14s}" for name in PARTS)
    for name, found in shares.items():
        yield f"{name:34s}" + "".join(f"{100 * found[part]:12.1f} %" for part in PARTS)


if __name__ == "__main__":
    main()
