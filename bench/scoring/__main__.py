"""What scoring costs: each embedder and each scorer, as a share of the training step beside it.

Regime: a CPU, the bundled towers, random images and tokens. A step trains on b examples chosen from
B = 5 b (filter ratio 0.8). A small model trains in fp32 on one thread, and times are the process's
CPU times. All forms take turns in one run: only their ratios carry over to another machine.
``bench.gpu`` measures the same towers at their full size on a GPU.

    python -m bench.scoring > bench/results/scoring_cpu.txt

Forms:

- training: forward, backward and AdamW on a sub-batch; a share is a form's time over this time.
- live learner, live reference, proxy: embedding the super-batch, in fp32.
- proxy update: its training step on the sub-batch, in fp32.
- cached reference: looking up B rows of a memory map of 10 B.
- selection: scores from two models' embeddings and a joint selection in 16 chunks.
- learnability, hard learner, easy reference: whole scorers, with the selection. Each is run with a
  live and with a cached reference where it has one, and with the proxy in the learner's place.

"Predicted" is the same share in floating-point operations by the cost model. "Ratio" is measured
over predicted. Looking up rows has no flops, so its predicted share is zero.

Whole steps through ``JestDataset`` come last, by the wall clock: choosing and training in turn, and
with ``overlap=True``, where a step should take the time of the longer part.

Memory is the peak above the memory in use before a form, that of the process, which keeps the
memory that earlier forms have freed. The last line of the output is one JSON document.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.harness import (
    PeakMemory,
    in_rounds,
    once_s,
    parser_of,
    print_document,
    ratios,
    spread,
)
from bench.scoring.forms import NUM_CHUNKS, Bench, Form
from bench.scoring.setting import SETTINGS
from bench.scoring.steps import measure_steps


def main() -> None:
    """Time every form of a setting."""
    parser = parser_of(__doc__, smoke=True, repeats=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # So that CPU time is not that of threads that wait.
    setting = SETTINGS["smoke" if arguments.smoke else "cpu"]
    repeats = 1 if arguments.smoke else arguments.repeats
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(setting, torch.device("cpu"), Path(folder))
        found = measure(bench.forms(), repeats)
        steps = measure_steps(bench, num_steps=2 if arguments.smoke else 20)
    for name, form in found.items():
        print(f"{name:40s} {describe(form)}", flush=True)
    for name, ms in steps.items():
        print(f"{name:40s} {ms:9.2f} ms")
    figures = {
        "super_batch": setting.super_batch,
        "sub_batch": setting.sub_batch,
        "micro_batch": setting.micro_batch,
        "learner": {**vars(setting.learner), "forward_flops": bench.learner.forward_flops()},
        "proxy": {**vars(setting.proxy), "forward_flops": bench.proxy_model.forward_flops()},
        "num_chunks": NUM_CHUNKS,
        "training_precision": bench.training_precision,
        "repeats": repeats,
        "forms": found,
        "steps": steps,
    }
    print_document(figures)


def measure(forms: dict[str, Form], repeats: int) -> dict[str, Any]:
    """Times, peaks and shares of every form."""
    peaks = {}
    for name, form in forms.items():
        form.run()  # Allocates what stays.
        with PeakMemory("cpu") as memory:
            form.run()
        peaks[name] = memory.peak_bytes
    ms = in_rounds({name: form.run for name, form in forms.items()}, repeats, cpu_ms)
    training = forms["training"].flops
    found = {}
    for name, form in forms.items():
        shares = ratios(ms[name], ms["training"])
        predicted = 0.0 if name == "training" else form.flops / training
        found[name] = {
            "ms": spread(ms[name]),
            "peak_bytes": peaks[name],
            "flops": form.flops,
            "share": spread(shares),
            "predicted_share": predicted,
            "ratio": spread([share / predicted for share in shares]) if predicted else None,
        }
    return found


def cpu_ms(run: Callable[[], object]) -> float:
    """CPU time of one call in ms."""
    return 1000 * once_s(run).cpu


def describe(form: dict[str, Any]) -> str:
    """One line of the table."""
    share, ms = form["share"], form["ms"]
    parts = [
        f"{ms['median']:9.2f} ms ({ms['min']:.2f} to {ms['max']:.2f})",
        f"{form['peak_bytes'] / 2**20:7.0f} MiB",
        f"share {share['median']:7.1%} ({share['min']:.1%} to {share['max']:.1%})",
    ]
    if form["ratio"] is not None:
        parts.append(f"predicted {form['predicted_share']:7.1%}")
        parts.append(f"ratio {form['ratio']['median']:.2f}")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
