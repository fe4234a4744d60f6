"""The uniform arm's best learning rate, loss and initial logits, for ``bench.training``.

Regime: the data and learner of ``bench.training``, uniform selection, one seed. The choice is made
on the reported held-out accuracy, which favours the uniform arm: the others use its settings.

    python -m bench.training.sweep --data runs/icons > bench/results/training_sweep.txt

Takes minutes for each run that ``--out`` does not have yet. The last line of the output is one JSON
document.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.harness import parser_of, print_document
from bench.training.arms import STEPS, base_config
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.train import train

# Initial logit scale and bias: SigLIP's; between; where negatives count from the start.
STARTS = {"siglip": (10.0, -10.0), "middle": (10.0, -5.0), "clip": (14.3, -7.0)}


def main() -> None:
    """Run the sweep."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/training_sweep"))
    parser.add_argument("--train-on", default="uncurated_20")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lr", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--loss", nargs="+", default=["sigmoid", "softmax"])
    parser.add_argument("--start", nargs="+", default=["middle"], choices=STARTS)
    parser.add_argument("--logit-lr-factor", type=float, nargs="+", default=[10.0])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128])
    parser.add_argument("--augment", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    rows = []
    axes = ("loss", "lr", "start", "logit_lr_factor", "batch_size", "augment")
    for values in product(*(getattr(arguments, axis) for axis in axes)):
        row = dict(zip(axes, values, strict=True))
        name = "-".join([arguments.train_on, *(f"{value}" for value in values)])
        base = base_config(
            arguments.data / arguments.train_on,
            arguments.data / "test",
            arguments.out / f"{name}-{arguments.steps}",
            arguments.steps,
        )
        run = train(changed(base, row), label=name)
        metrics = run.evaluations[-1].metrics
        rows.append({"train_on": arguments.train_on, **row, **metrics, "seconds": run.seconds})
        print(f"{name:48s} top-1 {metrics['zero_shot_top1']:.2%}  {run.seconds:.0f} s", flush=True)
    best = max(rows, key=lambda row: row["zero_shot_top1"])
    print_document({"steps": arguments.steps, "best": best, "rows": rows})


def changed(base: TrainConfig, row: dict[str, Any]) -> TrainConfig:
    """The uniform arm's run with the row's settings."""
    scale, bias = STARTS[row["start"]]
    return replace(
        base,
        loss=row["loss"],
        initial_logit_scale=scale,
        initial_logit_bias=bias,
        data=replace(base.data, batch_size=row["batch_size"], augment=bool(row["augment"])),
        optimizer=replace(base.optimizer, lr=row["lr"], logit_lr_factor=row["logit_lr_factor"]),
    )


if __name__ == "__main__":
    main()
