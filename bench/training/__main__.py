"""Does joint example selection train faster? Arms that differ in one thing each.

Regime: 349,000 icons of 211 sets with their names as captions, a stated share of them shuffled
(``bench.training.data`` makes them). The learner has 0.3 million weights besides its word
embeddings, batches hold 128 icons, and a run takes a few minutes of CPU. The test is zero-shot
classification over the names of three sets by other makers, which are never trained on. Captions
are a few words: this tests the selection of data, not language, and says nothing of ImageNet.

    python -m bench.training --data runs/icons --arms uniform joint --seeds 0 1 2

Trains the runs that ``--out`` does not have yet and continues stopped ones;
``bench.training.report`` puts them together. With batches of 128 the learning rate is the one at
which the uniform arm ended best with 20 % shuffled (``bench.training.sweep``); with batches of b it
is sqrt(b / 128) times that. All arms use it. The reference is trained once on the curated sets and
cached for each data set; all arms and seeds share it, except arms that name another reference. The
last line of the output is one JSON document.
"""

import argparse
import math
import time
from itertools import product
from pathlib import Path
from typing import Any

from bench.harness import parser_of, print_document
from bench.training.arms import ARMS, BATCH_SIZE, STEPS, Bench, Setting
from jest_loader.clip.stop import Stopped
from jest_loader.clip.train import train


def parsed() -> argparse.Namespace:
    """The command's arguments."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what bench.training.data wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/training"))
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--noise", type=int, nargs="+", default=[20], help="percent shuffled")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[BATCH_SIZE])
    parser.add_argument("--loss", nargs="+", default=["sigmoid"], choices=["sigmoid", "softmax"])
    parser.add_argument("--longer", type=int, nargs="+", default=[1], help="times the steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH_SIZE}")
    parser.add_argument("--max-seconds", type=float, help="stop then; the same command goes on")
    arguments = parser.parse_args()
    if "softmax" in arguments.loss and any("independent" in arm for arm in arguments.arms):
        parser.error("independent selection is for the sigmoid loss; name other --arms for softmax")
    return arguments


def main() -> None:
    """Train what is missing."""
    arguments = parsed()
    stops_at = time.monotonic() + (arguments.max_seconds or math.inf)
    bench = Bench(arguments.data, arguments.out, arguments.steps, stops_at)
    ended: list[dict[str, Any]] = []
    num_examples = arguments.steps * BATCH_SIZE
    for seed, noise, batch_size, loss, longer, name in product(
        arguments.seeds,
        arguments.noise,
        arguments.batch_size,
        arguments.loss,
        arguments.longer,
        arguments.arms,
    ):
        setting = Setting(noise, batch_size, num_examples, loss, longer)
        label = f"{setting.name}, {name}, seed {seed}"
        try:
            run = train(bench.config(name, setting, seed), label=label)
        except Stopped as stopped:
            print(stopped)
            break
        top1 = run.evaluations[-1].metrics["zero_shot_top1"]
        ended.append({"setting": setting.name, "arm": name, "seed": seed, "zero_shot_top1": top1})
        print(f"{label:48s} top-1 {top1:.2%}", flush=True)
    print_document({"steps": arguments.steps, "runs": ended})


if __name__ == "__main__":
    main()
