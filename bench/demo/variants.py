"""Whether joint selection overtakes independent selection in the demo with other settings.

Regime: the demo's data, learner and learning rate, but every run has the same number of steps, so
those that score at full size, or whose reference is trained for longer, take more operations. The
question is what joint selection lacks here, not what is cheap.

    python -m bench.demo.variants --out runs/demo_variants > bench/results/demo_variants.txt

A run takes two minutes of a core; those that --out has are not made again. The last line of the
output is one JSON document.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.harness import parser_of, print_document
from jest_loader.clip.train import train
from jest_loader.demo.data import prepare
from jest_loader.demo.plan import SELECTING
from jest_loader.demo.run import DemoConfig, arm_config, reference_cache, reference_config


@dataclass(frozen=True)
class Variant:
    """How a run differs from the demo's.

    Args:
        name: Of its folder and of its line.
        selection: What it sets in place of the demo's ``SelectionConfig``.
        long_reference: Whether its reference is the one that is trained for longer.
    """

    name: str
    selection: dict[str, Any] = field(default_factory=dict)
    long_reference: bool = False


VARIANTS = (
    Variant("as in the demo"),
    Variant("gain 4", {"gain": 4.0}),
    Variant("equal captions masked", {"mask_equal_captions": True}),
    Variant("full size", {"score_image_size": None}),
    Variant("long reference", long_reference=True),
    Variant("long reference, full size", {"score_image_size": None}, long_reference=True),
)


def main() -> None:
    """Train by each variant with both selectors."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_variants"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=632, help="of each run")
    parser.add_argument("--reference-steps", type=int, default=DemoConfig.reference_steps)
    parser.add_argument("--long-reference-steps", type=int, default=700)
    arguments = parser.parse_args()
    rows = []
    for seed, variant in product(arguments.seeds, VARIANTS):
        demo = DemoConfig(
            out=arguments.out / f"seed-{seed}",
            seed=seed,
            reference_steps=arguments.reference_steps,
        )
        if variant.long_reference:
            demo = replace(
                demo,
                out=arguments.out / f"long-{seed}",
                reference_steps=arguments.long_reference_steps,
                # To pay for the reference; those of each run are set below.
                steps=demo.steps + arguments.long_reference_steps,
            )
        rows += compared(demo, arguments.out / "data", variant, arguments.steps)
    print_document({"rows": rows})


def compared(demo: DemoConfig, folder: Path, variant: Variant, steps: int) -> list[dict[str, Any]]:
    """A row for each selector, which is printed too."""
    data = prepare(folder, noise_fraction=demo.noise_fraction)
    reference = train(reference_config(demo, data), label="reference")
    cache = reference_cache(demo, data)
    rows = []
    for arm in SELECTING:
        base = arm_config(demo, data, arm, cache)
        config = replace(
            base,
            out=demo.out / f"{arm}, {variant.name}",
            steps=steps,
            eval_every=steps,
            selection=replace(base.selection, **variant.selection),
        )
        metrics = train(config, label=arm).evaluations[-1].metrics
        row = {"arm": arm, "variant": variant.name, "seed": demo.seed, **metrics}
        row["reference_top1"] = reference.evaluations[-1].metrics["zero_shot_top1"]
        rows.append(row)
        print(
            f"{variant.name:26s} {arm:12s} top-1 {row['zero_shot_top1']:.1%}  "
            f"top-5 {row['zero_shot_top5']:.1%}  reference {row['reference_top1']:.1%}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
