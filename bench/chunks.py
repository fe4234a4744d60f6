r"""How many chunks joint selection needs: learnability against the number of chunks.

Regime: real embeddings, from the demo's learner (trained with joint selection) and reference, of
super-batches of the demo's uncurated icons, 640 candidates or 5,120, of which
a fifth is chosen. The models were trained at the demo's batch size; scale and bias of both are
fitted to the sub-batch's on the first super-batch, since with those of another size negatives
weigh too much or too little. Brute force is Gibbs sampling, each example redrawn given all others,
from a uniform start: of 640 candidates only, since it takes hours for 5,120. The models were
trained with the sigmoid loss; the softmax scores are of the same embeddings.

    jest-loader demo
    python -m bench.chunks --demo runs/demo --plot bench/results/chunks.png \
        > bench/results/chunks.txt

The last line of the output is one JSON document.
"""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.harness import learnability, parser_of, print_document, pyplot
from jest_loader import (
    Embeddings,
    FactoredScores,
    FrozenReference,
    GibbsSelector,
    JointSelector,
    Selector,
    UniformSelector,
)
from jest_loader.adapters.mds import MdsSource
from jest_loader.clip.loading.columns import tokenize_and_decode
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.clip.saving import checkpoint
from jest_loader.demo.data import prepare
from jest_loader.demo.run import DemoConfig, arm_config
from jest_loader.protocols import Loss

LOSSES: tuple[Loss, ...] = ("sigmoid", "softmax")
SELECTORS: dict[str, Selector] = {
    "uniform": UniformSelector(),
    # One chunk is independent selection.
    **{f"{n} chunks": JointSelector(n) for n in (1, 2, 4, 8, 16, 32, 64, 128)},
}
BRUTE_FORCE = {f"Gibbs, {n} sweeps": GibbsSelector(n) for n in (1, 2, 4, 8)}
LARGEST_BRUTE_FORCE = 640

Sides = tuple[Embeddings, Embeddings]
Learnability = dict[str, list[float]]
"""By selector, one of each super-batch."""


def main() -> None:
    """Select from super-batches of each size, by each loss, in every way."""
    parser = parser_of(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--candidates", type=int, nargs="+", default=[640, 5120])
    parser.add_argument("--super-batches", type=int, default=3)
    arguments = parser.parse_args()
    found = []
    for num_candidates in arguments.candidates:
        drawn = list(islice(super_batches(arguments.demo, num_candidates), arguments.super_batches))
        for loss in LOSSES:
            by_selector = select_in_every_way(drawn, loss)
            title = f"{loss}, {num_candidates} -> {num_candidates // 5}"
            found.append({"title": title, "learnability": by_selector})
            print(f"{title}: learnability of the sub-batch, per example, mean and spread")
            for name, values in by_selector.items():
                print(f"  {name:16s} {mean(values):8.3f}  {spread(values):6.3f}", flush=True)
    if arguments.plot is not None:
        draw(found, arguments.plot)
    print_document({"found": found})


def select_in_every_way(drawn: list[Sides], loss: Loss) -> Learnability:
    """Learnability of what each selector makes of the same super-batches."""
    num_candidates = len(drawn[0][0].image)
    selectors = SELECTORS | (BRUTE_FORCE if num_candidates <= LARGEST_BRUTE_FORCE else {})
    found: Learnability = {name: [] for name in selectors}
    for step, sides in enumerate(drawn):
        scores = FactoredScores(*sides, loss)
        for name, selector in selectors.items():
            index = selector.select(scores, num_candidates // 5, key=step)
            found[name].append(learnability(sides, index, loss))
    return found


def super_batches(demo: Path, num_candidates: int) -> Iterator[Sides]:
    """The learner's and the reference's embeddings of super-batches of the uncurated set."""
    data = prepare(demo / "data", noise_fraction=DemoConfig.noise_fraction)
    run = arm_config(DemoConfig(out=demo), data, "joint")
    prepare_batch = tokenize_and_decode(run.data, trained_architecture(run))
    source = MdsSource(data.uncurated, batch_size=num_candidates, shuffle=True, seed=1)
    batches = map(prepare_batch, source)
    first = next(batches)
    learner, reference = (
        FrozenReference(
            checkpoint.load_model(demo / arm / "checkpoint.pt", for_inputs_of=run)
        ).calibrated([first], num_candidates // 5)
        for arm in ("joint", "reference")
    )
    for batch in chain([first], batches):
        yield learner.embed(batch), reference.embed(batch)


def spread(values: list[float]) -> float:
    """Standard deviation over super-batches; 0 of a single one."""
    return stdev(values) if len(values) > 1 else 0.0


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """A panel each: chunks along x, the Gibbs sampler and uniform draws as levels."""
    figure, panels = pyplot().subplots(1, len(found), figsize=(4 * len(found), 3.4), squeeze=False)
    for panel, setting in zip(panels[0], found, strict=True):
        by_selector = setting["learnability"]
        chunked = {
            int(name.split()[0]): v for name, v in by_selector.items() if name.endswith("chunks")
        }
        panel.errorbar(
            list(chunked),
            [mean(values) for values in chunked.values()],
            [spread(values) for values in chunked.values()],
            marker="o",
            capsize=2,
            label="joint (1 chunk: independent)",
        )
        for name in list(BRUTE_FORCE)[-1:]:
            if name in by_selector:
                panel.axhline(mean(by_selector[name]), color="C2", ls="--", label=name)
        panel.axhline(mean(by_selector["uniform"]), color="0.5", ls=":", label="uniform")
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(chunked), [str(number) for number in chunked])
        panel.set(title=setting["title"], xlabel="chunks")
    panels[0, 0].set_ylabel("learnability of the sub-batch")
    panels[0, 0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
