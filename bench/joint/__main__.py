r"""Where does joint selection train better than independent selection? Arms in many settings.

Regime: 392,000 pairs of German and English of the Ding dictionary (``bench.joint.dictionary`` makes
them), half of which references are trained on and half are selected from, a fifth of the latter
with wrong captions. The learner averages embeddings of n-grams. The test finds the counterparts of
texts of 8,000 held-out lines.

    python -m bench.joint --data runs/dictionary --seeds 0 1 2 3 4
    python -m bench.joint --data runs/dictionary --batch-size 2048 --steps 300 --seeds 0 1 2

Each run is one line of ``--records``, and runs that it has are not made again. A run that
``--max-seconds`` stopped, or a kill, is continued by the same command. The last line of the output
is one JSON document.
"""

import argparse
import math
import time
from itertools import product
from pathlib import Path
from typing import get_args

from bench.harness import parser_of, print_document
from bench.joint.arms import ARMS, RATIO, Setting
from bench.joint.dictionary import Dictionary
from bench.joint.records import RECORDS, append, is_recorded
from bench.joint.references import REFERENCES, reference_of
from bench.joint.runs import Bench, Run
from bench.joint.sources import Order, Split
from jest_loader.protocols import Loss

_DEFAULT = Setting()


def parsed() -> argparse.Namespace:
    """The command's arguments."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="what bench.joint.dictionary wrote"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/joint"), help="runs under way")
    parser.add_argument("--records", type=Path, default=RECORDS, help="a line for each run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--batch-size", type=int, default=_DEFAULT.batch_size)
    parser.add_argument("--steps", type=int, default=_DEFAULT.steps)
    parser.add_argument("--loss", default=_DEFAULT.loss, choices=get_args(Loss))
    parser.add_argument("--order", default=_DEFAULT.order, choices=get_args(Order))
    parser.add_argument("--reference", default=_DEFAULT.reference, choices=REFERENCES)
    parser.add_argument("--wrong", type=float, default=_DEFAULT.wrong, help="share of captions")
    parser.add_argument("--languages", default=_DEFAULT.languages, choices=("german", "all"))
    parser.add_argument("--lr", type=float, default=_DEFAULT.lr)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="stop then")
    arguments = parser.parse_args()
    if arguments.loss == "softmax" and any("independent" in arm for arm in arguments.arms):
        parser.error("independent selection is for the sigmoid loss; name other --arms for softmax")
    return arguments


def check_pool(split: Split, setting: Setting) -> None:
    """Refuse a pool that is smaller than one super-batch."""
    num_rows = len(split.candidates(of_all=setting.languages == "all"))
    least = RATIO * setting.batch_size
    if num_rows < least:
        raise SystemExit(
            f"the pool, nearly half of the dictionary, must have at least {least} pairs, "
            f"{RATIO} batches of {setting.batch_size}, got {num_rows}; make a larger dictionary, "
            "or set a smaller --batch-size"
        )


def main() -> None:
    """Make the runs that are missing."""
    arguments = parsed()
    dictionary = Dictionary.read(arguments.data).to(arguments.device)
    split = Split.of(dictionary)
    setting = Setting(**{name: getattr(arguments, name) for name in vars(_DEFAULT)})
    check_pool(split, setting)
    arguments.out.mkdir(parents=True, exist_ok=True)
    reference = reference_of(setting.reference, setting.loss, dictionary, split, arguments.out)
    print(f"{setting}, the reference's {reference.accuracy}", flush=True)
    stops_at = time.monotonic() + arguments.max_seconds
    bench = Bench(dictionary, split, setting, reference, arguments.out, stops_at)
    ended = []
    for seed, arm in product(arguments.seeds, arguments.arms):
        if is_recorded(arguments.records, setting, arm, seed):
            continue
        record = Run(bench, arm, seed).finish()
        if record is None:
            print("stopped; the same command goes on")
            break
        append(arguments.records, record)
        end, seconds = record["curve"][-1], record["seconds"]
        ended.append({"arm": arm, "seed": seed, **end})
        print(f"{arm:14s} seed {seed}  R@1 {end['r1']:.2%}  in its line {end['fine']:.2%}", end="")
        print(f"  wrong {record['wrong']:.1%}  {seconds:.0f} s", flush=True)
    print_document({"setting": vars(setting), "runs": ended})


if __name__ == "__main__":
    main()
