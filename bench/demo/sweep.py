"""Which learning rate each arm of the demo is best at.

Regime: the demo's data, learner and steps, one seed. The choice is made on the held-out accuracy
that the demo reports, alike for every arm. The reference is the demo's own.

    python -m bench.demo.sweep --out runs/demo_sweep > bench/results/demo_sweep.txt

The last line of the output is one JSON document.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

from bench.harness import parser_of, print_document
from jest_loader.clip.train import train
from jest_loader.demo.data import prepare
from jest_loader.demo.plan import Arm
from jest_loader.demo.run import DemoConfig, arm_config, reference_cache, reference_config

ARMS: tuple[Arm, ...] = ("uniform", "curated", "joint")


def main() -> None:
    """Run the sweep."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_sweep"))
    parser.add_argument("--steps", type=int, default=DemoConfig.steps)
    parser.add_argument("--reference-steps", type=int, default=DemoConfig.reference_steps)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    arguments = parser.parse_args()
    demo = DemoConfig(
        out=arguments.out, steps=arguments.steps, reference_steps=arguments.reference_steps
    )
    data = prepare(demo.out / "data", noise_fraction=demo.noise_fraction)
    train(reference_config(demo, data), label="reference")
    cache = reference_cache(demo, data)
    rows = []
    for arm, lr in product(ARMS, arguments.lr):
        base = arm_config(demo, data, arm, cache)
        config = replace(
            base,
            out=demo.out / f"{arm}-{lr:g}",
            optimizer=replace(base.optimizer, lr=lr),
            eval_every=base.steps,
        )
        metrics = train(config, label=config.out.name).evaluations[-1].metrics
        rows.append({"arm": arm, "lr": lr, "steps": base.steps, **metrics})
        print(
            f"{arm:10s} lr {lr:6g}  {base.steps:4d} steps  top-1 {metrics['zero_shot_top1']:.1%}  "
            f"top-5 {metrics['zero_shot_top5']:.1%}",
            flush=True,
        )
    best = {
        arm: max((row for row in rows if row["arm"] == arm), key=lambda row: row["zero_shot_top1"])
        for arm in ARMS
    }
    print_document({"best": best, "rows": rows})


if __name__ == "__main__":
    main()
