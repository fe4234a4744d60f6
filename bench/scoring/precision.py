r"""How many picks of fp64 scoring in fp32, fp16 and bf16 keeps, and what the others are worth.

Regime: the demo's learner (trained with joint selection) and its reference, on super-batches of the
demo's uncurated icons, of which a fifth is chosen by learnability, in 16 chunks and under the same
noise. Both models score in a precision; "rounded" also rounds the embeddings to it, as a model does
that normalises in it. "Other noise" is fp64 under another key: what two draws share anyway. Worth
is the learnability of the sub-batch per example, by the embeddings of fp64. These are means over
super-batches, since a single changed pick of 128 is 0.8 %, and the range. The model is small and on
a CPU, where autocast leaves norms in the lower precision that a GPU takes in fp32.

    jest-loader demo
    python -m bench.scoring.precision --demo runs/demo > bench/results/scoring_precision.txt

The last line of the output is one JSON document.
"""

from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from bench.harness import learnability, parser_of, print_document
from bench.scoring.exact import embed_in_fp64
from jest_loader import Embeddings, FactoredScores, FrozenReference, JointSelector
from jest_loader.adapters.mds import MdsSource
from jest_loader.batch import Batch
from jest_loader.clip.loading.columns import tokenize_and_decode
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.clip.saving import checkpoint
from jest_loader.demo.data import prepare
from jest_loader.demo.run import DemoConfig, arm_config
from jest_loader.protocols import Loss
from jest_loader.scoring.precision import Precision

PRECISIONS: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
LOSSES: tuple[Loss, ...] = ("sigmoid", "softmax")

Sides = tuple[Embeddings, Embeddings]
"""The learner's embeddings and the reference's."""


def main() -> None:
    """Select from super-batches of each size, by each loss, in each precision."""
    parser = parser_of(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--candidates", type=int, nargs="+", default=[640, 2560])
    parser.add_argument("--super-batches", type=int, default=10)
    arguments = parser.parse_args()
    found = []
    for num_candidates in arguments.candidates:
        drawn = list(islice(super_batches(arguments.demo, num_candidates), arguments.super_batches))
        for loss in LOSSES:
            title = f"{loss}, {num_candidates} -> {num_candidates // 5}"
            print(f"{title}: share of fp64's picks that is kept, and worth; mean and range")
            forms = compare(drawn, loss)
            for name, measured in forms.items():
                kept, worth = measured["kept"], measured["worth"]
                print(
                    f"  {name:14s} {kept['mean']:6.2%} ({kept['min']:.1%} to {kept['max']:.1%})"
                    f"  {worth['mean']:7.3f} ({worth['min']:.3f} to {worth['max']:.3f})",
                    flush=True,
                )
            found.append({"title": title, "forms": forms})
    print_document({"found": found})


def compare(drawn: list[dict[str, Sides]], loss: Loss) -> dict[str, dict[str, dict[str, float]]]:
    """Of each form, the share of fp64's picks and the worth of its own, over super-batches."""
    kept, worth = defaultdict(list), defaultdict(list)
    for step, forms in enumerate(drawn):
        exact = forms["fp64"]
        picks = {name: picked(sides, loss, key=step) for name, sides in forms.items()}
        picks["other noise"] = picked(exact, loss, key=len(drawn) + step)
        for name, index in picks.items():
            kept[name].append(float(torch.isin(index, picks["fp64"]).double().mean()))
            worth[name].append(learnability(exact, index, loss))
    return {name: {"kept": summary(kept[name]), "worth": summary(worth[name])} for name in kept}


def summary(values: list[float]) -> dict[str, float]:
    """Mean and range."""
    return {"mean": mean(values), "min": min(values), "max": max(values)}


def picked(sides: Sides, loss: Loss, *, key: int) -> Tensor:
    """Int64 [B / 5]: what joint selection picks."""
    scores = FactoredScores(*sides, loss)
    return JointSelector(16).select(scores, len(sides[0].image) // 5, key=key)


def super_batches(demo: Path, num_candidates: int) -> Iterator[dict[str, Sides]]:
    """Super-batches of the uncurated set as embedded in fp64 and in each precision."""
    data = prepare(demo / "data", noise_fraction=DemoConfig.noise_fraction)
    run = arm_config(DemoConfig(out=demo), data, "joint")
    models = [
        checkpoint.load_model(demo / arm / "checkpoint.pt", for_inputs_of=run)
        for arm in ("joint", "reference")
    ]
    exact = [FrozenReference(deepcopy(model).double(), embed_in_fp64) for model in models]
    embedders = {
        name: [FrozenReference(model, precision=name) for model in models] for name in PRECISIONS
    }
    prepare_batch = tokenize_and_decode(run.data, trained_architecture(run))
    for batch in MdsSource(data.uncurated, batch_size=num_candidates, shuffle=True, seed=1):
        inputs = prepare_batch(batch)
        forms = {"fp64": embedded(exact, inputs)}
        for name, pair in embedders.items():
            forms[name] = sides = embedded(pair, inputs)
            if name != "fp32":
                learner, reference = (rounded(side, PRECISIONS[name]) for side in sides)
                forms[f"{name}, rounded"] = learner, reference
        yield forms


def embedded(pair: list[FrozenReference], inputs: Batch) -> Sides:
    """What learner and reference make of a batch."""
    learner, reference = (embedder.embed(inputs) for embedder in pair)
    return learner, reference


def rounded(side: Embeddings, dtype: torch.dtype) -> Embeddings:
    """The embeddings, each number rounded to a dtype and back."""
    image, text = (rows.to(dtype).float() for rows in (side.image, side.text))
    return replace(side, image=image, text=text)


if __name__ == "__main__":
    main()
