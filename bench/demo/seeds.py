"""What `jest-loader demo` shows, over several seeds.

Regime: icons and their names, half of the learner's captions shuffled, a learner of 0.3 million
weights besides its word embeddings, the floating-point operations of 1,000 uniform steps of 256 for
every arm. It tests data selection on noisy captions of a few words, and says nothing of image-text
training at scale.

    python -m bench.demo.seeds --out runs/demo_seeds > bench/results/demo_seeds.txt

Takes as long as a demo for each seed that runs/demo_seeds does not have yet. The last line of the
output is one JSON document.
"""

import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench.harness import parser_of, print_document
from jest_loader.demo.run import DemoConfig, run_demo
from jest_loader.demo.table import accuracy, first_step, wrong_fraction

MEASURES = ("zero_shot_top1", "zero_shot_top5", "retrieval_r10")


def main() -> None:
    """Run the demos and put them together."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=DemoConfig.steps)
    parser.add_argument("--reference-steps", type=int, default=DemoConfig.reference_steps)
    arguments = parser.parse_args()
    with redirect_stdout(sys.stderr):  # What each demo says of itself.
        demos = [run_demo(_config(arguments, seed)) for seed in arguments.seeds]
    summary = {arm: _summary(arm, demos) for arm in demos[0]["arms"]}
    for arm, found in summary.items():
        low, high = min(found["zero_shot_top1"]), max(found["zero_shot_top1"])
        print(
            f"{arm:12s} top-1 {mean(found['zero_shot_top1']):.1%} ({low:.1%} to {high:.1%})  "
            f"top-5 {mean(found['zero_shot_top5']):.1%}  steps {found['steps']}  "
            f"steps to uniform's accuracy {found['steps_to_uniform']}  "
            f"queries found {found['queries_found']}  "
            f"wrong captions {mean(found['wrong_fraction']):.0%}  flops {found['flops']:.2e}  "
            f"seconds {mean(found['seconds']):.0f}"
        )
    references = [accuracy(demo["reference"]) for demo in demos]
    print(f"{'reference':12s} top-1 {mean(references):.1%}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    document = {"seeds": arguments.seeds, "arms": summary, "reference_top1": references}
    print_document(document, device=device)


def _config(arguments: Namespace, seed: int) -> DemoConfig:
    return DemoConfig(
        out=arguments.out / f"seed-{seed}",
        seed=seed,
        steps=arguments.steps,
        reference_steps=arguments.reference_steps,
        independent=True,
    )


def _summary(arm: str, demos: list[dict[str, Any]]) -> dict[str, Any]:
    """The last measures of each seed's run, and when each passed its own seed's uniform run."""
    runs = [demo["arms"][arm] for demo in demos]
    last = [run["evaluations"][-1]["metrics"] for run in runs]
    targets = [accuracy(demo["arms"]["uniform"]) for demo in demos]
    return {
        **{name: [metrics[name] for metrics in last] for name in MEASURES},
        "steps_to_uniform": [
            first_step(run, target) for run, target in zip(runs, targets, strict=True)
        ],
        "queries_found": [demo["found"][arm] for demo in demos],
        "wrong_fraction": [wrong_fraction(arm, run) for run in runs],
        "steps": runs[0]["steps"],
        "flops": demos[0]["flops"][arm],
        "seconds": [run["seconds"] for run in runs],
        "counts": runs[0]["counts"],
    }


if __name__ == "__main__":
    main()
