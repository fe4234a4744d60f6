"""One run: an arm in a setting, from its first step or from where it was stopped."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.joint.arms import ARMS, RATIO, Setting
from bench.joint.dictionary import Dictionary
from bench.joint.evaluation import evaluate
from bench.joint.learner import TwoTowers
from bench.joint.references import Reference
from bench.joint.sources import Pool, PoolSource, Split
from bench.joint.training import Trainer
from jest_loader import JestDataset, Options
from jest_loader.batch import Batch

_EVALUATIONS = 8
_SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Bench:
    """What runs share.

    Args:
        dictionary: The texts.
        split: Which of them are for what.
        setting: What the arms have in common.
        reference: What steers them.
        folder: Of runs under way.
        stops_at: When runs are to be saved and left, by ``time.monotonic``.
    """

    dictionary: Dictionary
    split: Split
    setting: Setting
    reference: Reference
    folder: Path
    stops_at: float


@dataclass
class Progress:
    """What a run has seen so far; its record once it is over.

    Args:
        curve: The evaluations, each with its ``step``.
        wrong: How many of the captions trained on are another's.
        seen: How many of the rows trained on the reference was trained on.
        german: How many of the rows trained on are German.
        near_duplicates: At each evaluation, the share of the sub-batch that has a look-alike in it.
        learnability: At each evaluation, of a uniform draw; not where nothing is scored by it.
        seconds: CPU time, without evaluations.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    wrong: int = 0
    seen: int = 0
    german: int = 0
    near_duplicates: list[float] = field(default_factory=list)
    learnability: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Run:
    """An arm with a seed: of weights, order, wrong captions and draws.

    Args:
        bench: What runs share.
        arm: The arm's name.
        seed: The seed.
    """

    def __init__(self, bench: Bench, arm: str, seed: int) -> None:
        setting = bench.setting
        self._bench, self._setting, self._arm, self._seed = bench, setting, arm, seed
        self._seen = torch.zeros(len(bench.dictionary), dtype=torch.bool)
        self._seen[bench.reference.rows] = True
        model = TwoTowers(setting.loss, setting.batch_size, seed)
        self._model = model.to(bench.dictionary.device)
        self._trainer = Trainer(self._model, setting.loss, setting.steps, setting.lr)
        self._dataset = self._dataset_of(bench.reference)
        self._progress, self._step = Progress(), 0
        name = "-".join(str(part) for part in [*asdict(setting).values(), arm, seed])
        self._path = bench.folder / f"{name}.pt"
        if self._path.exists():
            self._load()

    def finish(self) -> dict[str, Any] | None:
        """The record of the whole run; None where it was saved and left before its end."""
        saved_at = time.monotonic()
        started = time.process_time()
        for batch in self._batches():
            self._trainer.step(batch, self._step)
            self._step += 1
            self._progress.seconds += time.process_time() - started
            self._note(batch)
            now = time.monotonic()
            if now > self._bench.stops_at and self._step < self._setting.steps:
                self._save()
                return None
            if now - saved_at > _SAVE_EVERY_S:
                self._save()
                saved_at = now
            started = time.process_time()
        self._path.unlink(missing_ok=True)
        return self._record()

    def _batches(self) -> Iterator[Batch]:
        while self._step < self._setting.steps:
            for batch in self._dataset:
                yield batch
                if self._step == self._setting.steps:
                    return

    def _note(self, batch: Batch) -> None:
        progress, setting = self._progress, self._setting
        progress.wrong += int((batch["row"] != batch["caption"]).sum())
        progress.seen += int(self._seen[batch["row"]].sum())
        progress.german += int(self._bench.dictionary.is_german[batch["row"]].sum())
        if self._step * _EVALUATIONS % setting.steps < _EVALUATIONS:
            found = evaluate(self._model, self._bench.dictionary, self._bench.split.test)
            progress.curve.append({"step": self._step, **found})
            stats = self._dataset.stats
            assert stats is not None, "a sub-batch was delivered"
            if stats.near_duplicates is not None:
                progress.near_duplicates.append(stats.near_duplicates)
            if stats.uniform_score is not None:
                progress.learnability.append(stats.uniform_score)

    def _dataset_of(self, reference: Reference) -> JestDataset:
        bench, setting, arm = self._bench, self._setting, ARMS[self._arm]
        rows = bench.split.candidates(of_all=setting.languages == "all")
        pool = Pool.of(rows, wrong=setting.wrong, seed=self._seed)
        size = setting.batch_size * (RATIO if arm.selects else 1)
        source = PoolSource(
            bench.dictionary,
            pool,
            size,
            order=setting.order,
            seed=self._seed,
            reference=reference.embedded,
        )
        return JestDataset(
            source,
            arm.scorer(self._model, reference.column, setting.loss),
            arm.selector,
            super_batch_size=size,
            sub_batch_size=setting.batch_size,
            options=Options(seed=self._seed, prefetch=0),
        )

    def _record(self) -> dict[str, Any]:
        trained = self._setting.steps * self._setting.batch_size
        progress = asdict(self._progress)
        shares = {name: progress[name] / trained for name in ("wrong", "seen", "german")}
        return {
            "setting": asdict(self._setting),
            "arm": self._arm,
            "seed": self._seed,
            "reference_accuracy": self._bench.reference.accuracy,
            **progress,
            **shares,
        }

    def _state(self) -> dict[str, Any]:
        return {
            "model": self._model.state_dict(),
            "optimizer": self._trainer.optimizer.state_dict(),
            "dataset": self._dataset.state_dict(),
            "progress": asdict(self._progress),
            "step": self._step,
        }

    def _save(self) -> None:
        part = self._path.with_suffix(".part")
        torch.save(self._state(), part)
        part.replace(self._path)

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self._path, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._trainer.optimizer.load_state_dict(state["optimizer"])
        self._dataset.load_state_dict(state["dataset"])
        self._progress, self._step = Progress(**state["progress"]), state["step"]
