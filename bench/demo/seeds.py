"""What `jest-loader demo` shows, over several seeds.

Regime: icons and their names, half of the learner's captions shuffled, a learner of a few hundred
thousand weights besides its word embeddings, 800 steps of 128. It tests data selection on noisy
captions of a few words, and says nothing of image-text training at scale.

    python -m bench.demo.seeds --out runs/demo_seeds > bench/results/demo_seeds.txt

Takes as long as a demo for each seed that runs/demo_seeds does not have yet. The last line of the
output is one JSON document.
"""

from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench.harness import parser_of, print_document
from jest_loader.demo.run import DemoConfig, run_demo
from jest_loader.demo.table import accuracy, first_step

MEASURES = ("zero_shot_top1", "zero_shot_top5", "retrieval_r10")


def main() -> None:
    """Run the demos and put them together."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=DemoConfig.steps)
    arguments = parser.parse_args()
    demos = [
        run_demo(
            DemoConfig(
                out=arguments.out / f"seed-{seed}",
                seed=seed,
                steps=arguments.steps,
                reference_steps=arguments.steps,
            )
        )
        for seed in arguments.seeds
    ]
    runs = {"curated only": [demo["reference"] for demo in demos]}
    for arm in demos[0]["arms"]:
        runs[arm] = [demo["arms"][arm] for demo in demos]
    summary = {name: _summary(found, runs["uniform"]) for name, found in runs.items()}
    for name, found in summary.items():
        low, high = min(found["zero_shot_top1"]), max(found["zero_shot_top1"])
        print(
            f"{name:12s} top-1 {mean(found['zero_shot_top1']):.1%} ({low:.1%} to {high:.1%})  "
            f"top-5 {mean(found['zero_shot_top5']):.1%}  "
            f"steps to uniform's accuracy {found['steps_to_uniform']}  "
            f"flops {found['flops']:.1e}  seconds {mean(found['seconds']):.0f}"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print_document({"seeds": arguments.seeds, "arms": summary}, device=device)


def _summary(runs: list[dict[str, Any]], uniform: list[dict[str, Any]]) -> dict[str, Any]:
    """The last measures of each seed's run, and when each passed its own seed's uniform run."""
    last = [run["evaluations"][-1]["metrics"] for run in runs]
    targets = [accuracy(run) for run in uniform]
    return {
        **{name: [metrics[name] for metrics in last] for name in MEASURES},
        "steps_to_uniform": [
            first_step(run, target) for run, target in zip(runs, targets, strict=True)
        ],
        "steps": runs[0]["steps"],
        "flops": runs[0]["flops"],
        "seconds": [run["seconds"] for run in runs],
        "counts": runs[0]["counts"],
    }


if __name__ == "__main__":
    main()
