"""What scoring costs: each embedder and each scorer, as a share of the training step beside it.

Regime: one device, the bundled towers, random images and tokens that are already on the device. A
step trains on b examples chosen from B = 5 b (f = 0.8). On a GPU towers of ViT-B/16's size with 64
text tokens train in bf16, as the trainer does; on a CPU a small model trains in fp32 on one thread,
and times are the process's CPU times. All forms are timed in one run, in rounds, since only their
ratios carry over.

    python -m bench.scoring > bench/results/scoring_cpu.txt
    python -m bench.scoring --device cuda > bench/results/scoring_h100.txt

Forms:

- training: forward, backward and AdamW on a sub-batch; all shares are of this.
- live learner, live reference, proxy: embedding the super-batch, in fp32. On a GPU also in TF32
  (``torch.set_float32_matmul_precision("high")``) and in fp16 by autocast within ``embed``.
- proxy update: its training step on the sub-batch.
- cached reference: looking up B rows of a memory map of 10 B, and putting them on the device.
- selection: scores from two models' embeddings and a joint selection in 16 chunks.
- learnability, hard learner, easy reference: whole scorers, with the selection. Each is run with a
  live and with a cached reference where it has one, and with the proxy in the learner's place.

"Predicted" is the same share in floating-point operations by the cost model, which knows no
precision: where training is in bf16 and scoring in fp32 the device's rates differ, and so do the
shares. "Ratio" is measured over predicted. Looking rows up has no flops: it is predicted free.

Last come whole steps through ``JestDataset``, training and choosing in turn and with
``overlap=True``, by the wall clock: overlapped, a step should take what the longer part takes.

Memory is the peak above what is in use before; on a CPU that of the process, which keeps what
earlier forms have freed. The last line of the output is one JSON document.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bench.harness import PeakMemory, environment, once_ms, spread
from jest_loader import (
    CachedReference,
    EasyReference,
    Embeddings,
    FrozenReference,
    HardLearner,
    JestDataset,
    JointSelector,
    Learnability,
    LiveLearner,
    OnlineProxy,
    Scorer,
)
from jest_loader.batch import Batch
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.towers import TwoTower
from jest_loader.cost.flops import selection_flops
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Trainable
from jest_loader.scoring.models import ModelEmbedder

NUM_CHUNKS = 16
SUPER_TO_SUB = 5
CACHE_TO_SUPER = 10
SELECTOR = JointSelector(NUM_CHUNKS)


@dataclass(frozen=True)
class Setting:
    """A learner, a proxy, and sizes.

    Args:
        learner: Sizes of the learner and of the reference.
        proxy: Sizes of the proxy.
        sub_batch: Examples trained on.
        micro_batch: Candidates embedded at once.
    """

    learner: ModelConfig
    proxy: ModelConfig
    sub_batch: int
    micro_batch: int

    @property
    def super_batch(self) -> int:
        """Candidates."""
        return SUPER_TO_SUB * self.sub_batch


def towers(width: int, depth: int, heads: int, patch_size: int, **sizes: int) -> ModelConfig:
    """Two towers of one width and depth."""
    return ModelConfig(
        patch_size=patch_size,
        vision_width=width,
        vision_depth=depth,
        text_width=width,
        text_depth=depth,
        heads=heads,
        embed_dim=width,
        **sizes,
    )


LARGE = {"image_size": 224, "vocab_size": 32_000, "context_length": 64}
SMALL = {"image_size": 64, "vocab_size": 8_192, "context_length": 16}
SETTINGS = {
    "smoke": Setting(towers(32, 1, 2, 16, **SMALL), towers(16, 1, 2, 32, **SMALL), 16, 16),
    "cpu": Setting(towers(192, 4, 4, 8, **SMALL), towers(96, 2, 4, 16, **SMALL), 64, 64),
    "cuda": Setting(towers(768, 12, 12, 16, **LARGE), towers(384, 6, 6, 32, **LARGE), 512, 512),
}


class Form(NamedTuple):
    """Something to time, and what it costs by the cost model."""

    run: Callable[[], object]
    flops: int


def main() -> None:
    """Time every form of a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="small models, once")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)  # So that CPU time is not that of threads that wait.
    setting = SETTINGS["smoke" if arguments.smoke else arguments.device]
    repeats = 1 if arguments.smoke else arguments.repeats
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(setting, torch.device(arguments.device), Path(folder))
        found = measure(bench.forms(), arguments.device, repeats)
        steps = measure_steps(bench, num_steps=2 if arguments.smoke else 20)
    for name, form in found.items():
        print(f"{name:40s} {describe(form)}", flush=True)
    for name, ms in steps.items():
        print(f"{name:40s} {ms:9.2f} ms")
    document = {
        "environment": environment(arguments.device),
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
    print(json.dumps(document))


class Bench:
    """The models and batches of a setting."""

    def __init__(self, setting: Setting, device: torch.device, folder: Path) -> None:
        torch.manual_seed(0)
        self.setting, self.device = setting, device
        self.learner = TwoTower(setting.learner).to(device)
        self.proxy_model = TwoTower(setting.proxy).to(device)
        self.reference_model = TwoTower(setting.learner).to(device)
        self.optimizer = torch.optim.AdamW(self.learner.parameters(), lr=1e-5)
        self.candidates = random_batch(setting, setting.super_batch, device)
        self.sub_batch = random_batch(setting, setting.sub_batch, device)
        self.live = self.embedder(LiveLearner, self.learner)
        self.reference = self.embedder(FrozenReference, self.reference_model)
        self.proxy = OnlineProxy(
            self.proxy_model,
            torch.optim.AdamW(self.proxy_model.parameters(), lr=1e-5),
            micro_batch_size=setting.micro_batch,
        )
        self.cached = cache_of(setting, folder, device)
        on_gpu = device.type == "cuda"
        self.training_precision = "bf16" if on_gpu else "fp32"

    def embedder(
        self,
        kind: type[ModelEmbedder],
        model: nn.Module,
        embed: Callable[[nn.Module, Batch], Embeddings] | None = None,
    ) -> ModelEmbedder:
        """A live learner or a frozen reference of this setting."""
        return kind(model, embed, micro_batch_size=self.setting.micro_batch)

    def forms(self) -> dict[str, Form]:
        """All that is timed, training first."""
        forms = {"training": Form(self.train, self.training_flops)}
        forms |= dict(self.parts())
        forms |= dict(self.scorers())
        if self.device.type == "cuda":
            forms |= dict(self.coarser())
        return forms

    @property
    def training_flops(self) -> int:
        """Of the learner's step: a backward costs two forwards."""
        return 3 * self.learner.forward_flops() * self.setting.sub_batch

    @property
    def scoring_flops(self) -> int:
        """Of the learner's, or the reference's, forward on the super-batch."""
        return self.learner.forward_flops() * self.setting.super_batch

    def train(self) -> None:
        """One step of the learner on a sub-batch."""
        in_bf16 = self.training_precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16):
            embeddings = self.learner(self.sub_batch)
        loss = contrastive_loss(embeddings, "sigmoid")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def parts(self) -> Iterator[tuple[str, Form]]:
        """Each embedder by itself, the proxy's update, and the selection."""
        setting, forward = self.setting, self.proxy_model.forward_flops()
        for name, embedder, flops in (
            ("live learner", self.live, self.scoring_flops),
            ("live reference", self.reference, self.scoring_flops),
            ("proxy", self.proxy, forward * setting.super_batch),
            ("cached reference", self.cached, 0),
        ):
            yield name, Form(lambda embedder=embedder: embedder.embed(self.candidates), flops)
        yield (
            "proxy update",
            Form(lambda: self.proxy.update(self.sub_batch), 3 * forward * setting.sub_batch),
        )
        stored = Embeddings(*unit_rows(setting, setting.super_batch, self.device), 10.0, -10.0)
        both = Learnability(Stored(stored), Stored(stored))
        yield "selection", Form(lambda: self.select(both), self.selecting_flops(2))

    def scorers(self) -> Iterator[tuple[str, Form]]:
        """Whole scorers, with the selection, and a proxy's update."""
        setting, forward = self.setting, self.proxy_model.forward_flops()
        live, proxy = self.scoring_flops, forward * (setting.super_batch + 3 * setting.sub_batch)
        for name, scorer, flops, num_models in (
            (
                "learnability, live and live",
                Learnability(self.live, self.reference),
                2 * live,
                2,
            ),
            ("learnability, live and cached", Learnability(self.live, self.cached), live, 2),
            ("learnability, proxy and cached", Learnability(self.proxy, self.cached), proxy, 2),
            ("hard learner, live", HardLearner(self.live), live, 1),
            ("easy reference, live", EasyReference(self.reference), live, 1),
            ("easy reference, cached", EasyReference(self.cached), 0, 1),
        ):
            total = flops + self.selecting_flops(num_models)
            yield name, Form(lambda scorer=scorer: self.choose(scorer), total)

    def coarser(self) -> Iterator[tuple[str, Form]]:
        """The learner in TF32 and in fp16, for those who let it be less exact."""

        def in_tf32() -> None:
            with matmul_precision("high"):
                self.live.embed(self.candidates)

        def in_fp16(model: nn.Module, batch: Batch) -> Embeddings:
            with torch.autocast("cuda", torch.float16):
                return model.embed(batch)

        half = self.embedder(LiveLearner, self.learner, in_fp16)
        yield "live learner, TF32", Form(in_tf32, self.scoring_flops)
        yield "live learner, fp16", Form(lambda: half.embed(self.candidates), self.scoring_flops)

    def selecting_flops(self, num_models: int) -> int:
        """Of a joint selection."""
        setting, width = self.setting, self.setting.learner.embed_dim
        one = selection_flops(setting.super_batch, setting.sub_batch, width, NUM_CHUNKS)
        return num_models * one

    def select(self, scorer: Scorer) -> None:
        """Score and select."""
        scores = scorer.score(self.candidates)
        SELECTOR.select(scores, self.setting.sub_batch, key=0)

    def choose(self, scorer: Scorer) -> None:
        """The same, and let a proxy learn."""
        with torch.no_grad():
            self.select(scorer)
        if isinstance(scorer, Trainable):
            scorer.update(self.sub_batch)


class Endless:
    """The same candidates again and again."""

    def __init__(self, candidates: Batch) -> None:
        self.candidates = candidates

    def __iter__(self) -> Iterator[Batch]:
        """Super-batches without end."""
        return itertools.repeat(self.candidates)


def measure_steps(bench: "Bench", num_steps: int) -> dict[str, float]:
    """Wall time of training alone and of whole steps, in turn and overlapped, in ms."""
    setting = bench.setting

    def steps(overlap: bool) -> Iterator[None]:
        dataset = JestDataset(
            Endless(bench.candidates),
            Learnability(bench.live, bench.cached),
            SELECTOR,
            super_batch_size=setting.super_batch,
            sub_batch_size=setting.sub_batch,
            overlap=overlap,
        )
        with dataset:
            for batch in dataset:
                bench.sub_batch = batch
                yield bench.train()

    loops = {
        "a step of training alone": iter(bench.train, False),
        "a step, choosing and training in turn": steps(overlap=False),
        "a step, choosing overlapped": steps(overlap=True),
    }
    return {name: _per_step_ms(loop, num_steps, bench.device) for name, loop in loops.items()}


def _per_step_ms(loop: Iterator[object], num_steps: int, device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(2):
        next(loop)
    wait()
    started = time.perf_counter()
    for _ in range(num_steps):
        next(loop)
    wait()
    return 1000 * (time.perf_counter() - started) / num_steps


class Stored:
    """Embeds with what it was given."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings

    def embed(self, batch: Batch) -> Embeddings:
        """The same for any batch."""
        return self.embeddings


def measure(forms: dict[str, Form], device: str, repeats: int) -> dict[str, Any]:
    """Times, peaks and shares of every form."""
    peaks = {}
    for name, form in forms.items():
        form.run()  # Compiles, and allocates what stays.
        with PeakMemory(device) as memory:
            form.run()
        peaks[name] = memory.peak_bytes
    # In rounds, since the machine's other work comes and goes: shares are taken within a round.
    rounds = [
        {name: time_ms(form.run, device) for name, form in forms.items()} for _ in range(repeats)
    ]
    training = forms["training"].flops
    found = {}
    for name, form in forms.items():
        shares = [times[name] / times["training"] for times in rounds]
        predicted = 0.0 if name == "training" else form.flops / training
        found[name] = {
            "ms": spread([times[name] for times in rounds]),
            "peak_bytes": peaks[name],
            "flops": form.flops,
            "share": spread(shares),
            "predicted_share": predicted,
            "ratio": spread([share / predicted for share in shares]) if predicted else None,
        }
    return found


def time_ms(run: Callable[[], object], device: str) -> float:
    """Time of one call in ms: on a CPU that which it spent itself."""
    if device == "cuda":
        return once_ms(run, device)
    started = time.process_time()
    run()
    return 1000 * (time.process_time() - started)


def random_batch(setting: Setting, size: int, device: torch.device) -> dict[str, Any]:
    """Images, tokens and sample ids."""
    config = setting.learner
    side = (config.channels, config.image_size, config.image_size)
    tokens = (size, config.context_length)
    return {
        "image": torch.randint(256, (size, *side), dtype=torch.uint8).to(device),
        "text": torch.randint(1, config.vocab_size, tokens).to(device),
        "sample_id": np.random.default_rng(0).permutation(CACHE_TO_SUPER * setting.super_batch)[
            :size
        ],
    }


def unit_rows(
    setting: Setting, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random image and text embeddings."""
    rows = torch.randn(2, size, setting.learner.embed_dim, device=device)
    image, text = nn.functional.normalize(rows, dim=2)
    return image, text


def cache_of(setting: Setting, folder: Path, device: torch.device) -> CachedReference:
    """Random fp16 embeddings in two memory maps."""
    size = CACHE_TO_SUPER * setting.super_batch
    maps = []
    for side, rows in zip("it", unit_rows(setting, size, torch.device("cpu")), strict=True):
        np.save(folder / f"{side}.npy", rows.half().numpy())
        maps.append(np.load(folder / f"{side}.npy", mmap_mode="r"))
    return CachedReference(*maps, 10.0, -10.0, device=device)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Of fp32 products, for the time being."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
