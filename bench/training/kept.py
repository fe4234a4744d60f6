"""What the reference's best fifth of the data has more of than all the data.

Regime: the rows from ``bench.training.data`` on which the arm ``filtered`` of ``bench.training`` is
trained.

    python -m bench.training.kept --data runs/icons > bench/results/training_kept.txt

Trains and caches the reference if ``--out`` does not have it yet. The last line of the output is
one JSON document.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import parser_of, print_document
from bench.training.arms import STEPS, Bench, Setting
from bench.training.subsets import best_rows
from jest_loader.adapters.mds import MdsSource


def main() -> None:
    """Count."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what bench.training.data wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/training"))
    parser.add_argument("--noise", type=int, default=20, help="percent shuffled")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="that the reference is trained for"
    )
    arguments = parser.parse_args()
    bench, setting = Bench(arguments.data, arguments.out, arguments.steps), Setting(arguments.noise)
    uncurated = bench.uncurated(setting)
    kept = best_rows(uncurated, bench.cache(setting), keep=0.2).numpy()
    caption, shuffled, icon_set = columns(uncurated, "caption", "shuffled", "set")
    # All uncurated sets have the same rows in the same order.
    (clean,) = columns(arguments.data / "uncurated_clean", "caption")
    curated_caption, curated_set = columns(arguments.data / "curated", "caption", "set")
    (test_caption,) = columns(arguments.data / "test", "caption")
    shares = {
        "shuffled captions": shuffled.astype(bool),
        "captions without words of style and size": caption == clean,
        "icons of the curated sets": among(icon_set, curated_set),
        "true names that curated icons have": among(clean, curated_caption),
        "true names that the test has": among(clean, test_caption),
    }
    found = {
        name: {"all": float(rows.mean()), "kept": float(rows[kept].mean())}
        for name, rows in shares.items()
    }
    for name, share in found.items():
        print(f"{name:44s} {share['all']:6.1%} of all, {share['kept']:6.1%} of what is kept")
    print_document({"shares": found})


def columns(data: Path, *names: str) -> list[NDArray[Any]]:
    """Columns of all rows in stored order, as objects, in one pass."""
    source = MdsSource(data, batch_size=4096, shuffle=False, drop_last=False)
    rows: list[list[Any]] = [[] for _ in names]
    for batch in source:
        for values, name in zip(rows, names, strict=True):
            values.extend(batch[name])
    return [np.array(values, dtype=object) for values in rows]


def among(values: NDArray[Any], those: Iterable[Any]) -> NDArray[np.bool_]:
    """Which of the values are among those."""
    known = set(those)
    return np.array([value in known for value in values])


if __name__ == "__main__":
    main()
