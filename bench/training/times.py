"""What a step of each arm of ``bench.training`` takes, beside a step of the uniform arm.

Regime: the data and learner of ``bench.training``, models on one thread, reading ahead on another.
The arms take turns for ``--rounds`` rounds, each for the first 40 steps of a run. The time includes
reading, scoring, selecting and training, not evaluation. The reference is cached.

    python -m bench.training.times --data runs/icons > bench/results/training_times.txt

The last line of the output is one JSON document, which ``bench.training.report`` reads.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from bench.harness import parser_of, print_document, ratios
from bench.training.arms import ARMS, BATCH_SIZE, STEPS, Bench, Setting
from jest_loader.clip.train import train


def main() -> None:
    """Take the times."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what bench.training.data wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/training"))
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        metavar="ARM",
        default=["independent", "joint", "flexi", "flexi_scored", "easy", "hard"],
        help="beside the uniform one; bench.training --help has their names",
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="that the reference is trained for"
    )
    parser.add_argument("--noise", type=int, default=20, help="percent shuffled")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed-steps", type=int, default=40, help="of each arm in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.data, arguments.out, arguments.steps)
    setting = Setting(arguments.noise, arguments.batch_size, arguments.steps * BATCH_SIZE)
    taken: dict[str, list[float]] = {arm: [] for arm in ("uniform", *arguments.arms)}
    for _ in range(arguments.rounds):
        for arm in taken:
            taken[arm].append(step_ms(bench, arm, setting, arguments.timed_steps))
    for arm, found in taken.items():
        slower = sorted(ratios(found, taken["uniform"]))
        print(
            f"{ARMS[arm].about:52s} {median(found):6.0f} ms, {median(slower):.2f} times uniform's "
            f"({slower[0]:.2f}-{slower[-1]:.2f})"
        )
    print_document({"setting": setting.name, "step_ms": taken})


def step_ms(bench: Bench, arm: str, setting: Setting, num_steps: int) -> float:
    """The median over the second, third and last quarter of a run's first steps."""
    every = num_steps // 4
    config = bench.config(arm, setting, seed=0)
    out = bench.out / "times"
    shutil.rmtree(out, ignore_errors=True)
    config = replace(
        config,
        data=replace(config.data, test=None, watch_columns=()),
        out=out,
        steps=num_steps,
        log=replace(config.log, every=every),
    )
    train(config)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates: list[float] = [record["examples_per_s"] for record in records if record["step"] > every]
    return 1000 * setting.batch_size / median(rates)


if __name__ == "__main__":
    main()
