"""What ``bench.scoring`` times: training, the embedders and the scorers of a setting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from bench.scoring.setting import Setting, cache_of, random_batch, random_sides
from jest_loader import (
    EasyReference,
    Embeddings,
    FrozenReference,
    HardLearner,
    JointSelector,
    Learnability,
    LiveLearner,
    OnlineProxy,
    Scorer,
)
from jest_loader.batch import Batch
from jest_loader.clip.models.towers import TwoTower
from jest_loader.cost.flops import selection_flops
from jest_loader.ops.losses import contrastive_loss
from jest_loader.protocols import Trainable
from jest_loader.scoring.models import ModelEmbedder

NUM_CHUNKS = 16
SELECTOR = JointSelector(NUM_CHUNKS)


class Form(NamedTuple):
    """Something to time, and what it costs by the cost model."""

    run: Callable[[], object]
    flops: int


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

    def embedder(self, kind: type[ModelEmbedder], model: nn.Module) -> ModelEmbedder:
        """A live learner or a frozen reference of this setting."""
        return kind(model, micro_batch_size=self.setting.micro_batch)

    def forms(self) -> dict[str, Form]:
        """All that is timed, training first."""
        forms = {"training": Form(self.train, self.training_flops)}
        forms |= dict(self.parts())
        forms |= dict(self.scorers())
        return forms

    @property
    def training_flops(self) -> int:
        """Flops of the learner's step: a backward pass costs two forward passes."""
        return 3 * self.learner.forward_flops() * self.setting.sub_batch

    @property
    def scoring_flops(self) -> int:
        """Flops of a forward pass of the learner, or of the reference, on the super-batch."""
        return self.learner.forward_flops() * self.setting.super_batch

    def train(self) -> None:
        """One step of the learner on a sub-batch."""
        in_bf16 = self.training_precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16):
            embeddings = self.learner(self.sub_batch)
        loss = contrastive_loss(embeddings, "sigmoid")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
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
            yield name, Form(partial(embedder.embed, self.candidates), flops)
        yield (
            "proxy update",
            Form(partial(self.proxy.update, self.sub_batch), 3 * forward * setting.sub_batch),
        )
        stored = Embeddings(*random_sides(setting, setting.super_batch, self.device), 10.0, -10.0)
        both = Learnability(Stored(stored), Stored(stored))
        yield "selection", Form(partial(self.select, both), self.selecting_flops(2))

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
            yield name, Form(partial(self.choose, scorer), total)

    def selecting_flops(self, num_models: int) -> int:
        """Flops of a joint selection."""
        setting, width = self.setting, self.setting.learner.embed_dim
        one = selection_flops(setting.super_batch, setting.sub_batch, width, NUM_CHUNKS)
        return num_models * one

    def select(self, scorer: Scorer) -> None:
        """Score and select."""
        scores = scorer.score(self.candidates)
        SELECTOR.select(scores, self.setting.sub_batch, key=0)

    def choose(self, scorer: Scorer) -> None:
        """Score and select without gradients, and let a proxy learn."""
        with torch.no_grad():
            self.select(scorer)
        if isinstance(scorer, Trainable):
            scorer.update(self.sub_batch)


class Stored:
    """An embedder that returns the same embeddings for any batch."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings

    def embed(self, batch: Batch) -> Embeddings:
        """The stored ones."""
        return self.embeddings


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Sets the precision of fp32 products within the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
