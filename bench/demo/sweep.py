"""Which learning rate, loss and augmentation the demo's uniform arm is best at.

Regime: the demo's data and learner (icons, 800 steps of 128), uniform selection, one seed. The
choice is made on the held-out accuracy that the demo reports, which favours the uniform arm: the
other arms take its settings over and have none chosen for them.

    python -m bench.demo.sweep --loss sigmoid > bench/results/demo_sweep_sigmoid.txt
    python -m bench.demo.sweep --loss softmax > bench/results/demo_sweep_softmax.txt

The last line of the output is one JSON document.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

from bench.harness import parser_of, print_document
from jest_loader.clip.train import train
from jest_loader.demo.data import prepare
from jest_loader.demo.run import DemoConfig, arm_config


def main() -> None:
    """Run the sweep."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_sweep"))
    parser.add_argument("--steps", type=int, default=DemoConfig.steps)
    parser.add_argument("--lr", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--loss", nargs="+", default=["sigmoid", "softmax"])
    arguments = parser.parse_args()
    demo = DemoConfig(out=arguments.out, steps=arguments.steps)
    data = prepare(demo.out / "data", noise_fraction=demo.noise_fraction)
    base = arm_config(demo, data, "uniform")
    rows = []
    for loss, lr, augment in product(arguments.loss, arguments.lr, (False, True)):
        config = replace(
            base,
            out=demo.out / f"{loss}-{lr:g}-{'augmented' if augment else 'plain'}",
            loss=loss,
            data=replace(base.data, augment=augment),
            optimizer=replace(base.optimizer, lr=lr),
            eval_every=demo.steps,
        )
        run = train(config, label=config.out.name)
        metrics = run.evaluations[-1].metrics
        rows.append({"loss": loss, "lr": lr, "augment": augment, **metrics})
        print(
            f"{config.out.name:28s} top-1 {metrics['zero_shot_top1']:.2%}  "
            f"top-5 {metrics['zero_shot_top5']:.2%}",
            flush=True,
        )
    best = max(rows, key=lambda row: row["zero_shot_top1"])
    print_document({"steps": demo.steps, "best": best, "rows": rows})


if __name__ == "__main__":
    main()
