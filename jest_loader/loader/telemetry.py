"""What a run has read, scored and trained on, and what each sub-batch was worth and cost.

Never one number for examples loaded, scored and trained.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from jest_loader.embeddings import Embeddings
from jest_loader.loader.seen_candidates import SeenNumbers
from jest_loader.protocols import BatchScores, WithReference
from jest_loader.scoring.near_duplicates import near_duplicates
from jest_loader.scoring.precision import without_autocast


@dataclass(frozen=True)
class Counts:
    """Examples of all ranks, since the first epoch began and through saved and restored states.

    Args:
        loaded: Read from the source into a super-batch.
        scored: Seen by a scorer.
        trained: Emitted in a sub-batch.
        dropped: Read at the end of an epoch, too few for another super-batch.
        skipped: Candidates that could not be prepared, scored or materialized.
        seen: Candidates that the reference was trained on, as far as that is known; where
            ``exclude_seen`` is set none of them was trained on.
    """

    loaded: int = 0
    scored: int = 0
    trained: int = 0
    dropped: int = 0
    skipped: int = 0
    seen: int = 0

    def plus(self, more: "Counts") -> "Counts":
        """These counts and ``more``."""
        return Counts(
            self.loaded + more.loaded,
            self.scored + more.scored,
            self.trained + more.trained,
            self.dropped + more.dropped,
            self.skipped + more.skipped,
            self.seen + more.seen,
        )

    def to_dict(self) -> dict[str, int]:
        """The counts by name, for a saved state or a log."""
        return asdict(self)


@dataclass(frozen=True)
class SelectionStats:
    """One sub-batch: what it came from, what it is worth, and the time that it took.

    A batch's score is what the scorer measures, taken on the batch by itself: for learnability the
    learner's loss on it less the reference's, per example.

    Args:
        counts: Examples of this super-batch alone.
        skipped: What is wrong with each skipped candidate, by sample id where the batch has one.
        score: The sub-batch's score; None where nothing was scored.
        uniform_score: The score of a uniform draw of the same size from the same super-batch.
        independent_overlap: The share of the sub-batch that independent selection would have taken
            too, under the same noise; None but for joint selection under the sigmoid loss.
        near_duplicates: The share of the sub-batch that has another example of it as close as a
            cosine of 0.95, by the reference's images or by its texts; None without embeddings of a
            reference.
        uniform_near_duplicates: The same share of a uniform draw of the same size.
        seen_candidates: The share of the candidates that the reference was trained on, over all
            ranks; None where it is not known what that was.
        seen_chosen: The same share of the sub-batch.
        steps_past_reference: Steps in a row up to this one, by a look every 20, of which the
            learner's loss on a uniform draw was below the reference's; 0 while the reference is
            ahead, None where scores do not compare the two.
        waiting_ms: The training loop's wait for the super-batch, or with ``overlap`` for the choice
            made of it.
        scoring_ms: On the GPU's clock where there is one, as ``selecting_ms``.
        selecting_ms: Conditioning and drawing.
        materializing_ms: In ``materialize``.
        bytes_received: By this rank from the others, for this sub-batch.
    """

    counts: Counts
    skipped: tuple[str, ...]
    score: float | None
    uniform_score: float | None
    independent_overlap: float | None
    near_duplicates: float | None
    uniform_near_duplicates: float | None
    seen_candidates: float | None
    seen_chosen: float | None
    steps_past_reference: int | None
    waiting_ms: float
    scoring_ms: float
    selecting_ms: float
    materializing_ms: float
    bytes_received: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values for a log."""
        return asdict(self)

    def numbers(self) -> dict[str, int | float]:
        """Those that are one number and known, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int | float)}


@dataclass(frozen=True, eq=False)
class Measured:
    """What ``SelectionStats`` are made of when they are asked for.

    Args:
        skipped: As in ``SelectionStats``.
        times: Of scoring, selecting and materializing.
        chosen: The scores of the sub-batch alone; None where nothing was scored.
        uniform: The scores of a uniform draw alone.
        independent_overlap: [], as in ``SelectionStats``.
        passed: Whether the uniform draw says that the learner has passed the reference; None where
            nobody looked.
        seen: How many examples the reference was trained on.
        steps_past_reference: As in ``SelectionStats``.
        counts: As in ``SelectionStats``.
        waiting_ms: As in ``SelectionStats``.
        bytes_received: As in ``SelectionStats``.
    """

    skipped: tuple[str, ...]
    times: "Stopwatch"
    chosen: BatchScores | None = None
    uniform: BatchScores | None = None
    independent_overlap: Tensor | None = None
    passed: bool | None = None
    seen: SeenNumbers = field(default_factory=SeenNumbers)
    steps_past_reference: int | None = None
    counts: Counts = field(default_factory=Counts)
    waiting_ms: float = 0.0
    bytes_received: int = 0

    def stats(self) -> SelectionStats:
        """The statistics; computes the scores and waits for the device."""
        overlap = self.independent_overlap
        with without_autocast():
            score = None if self.chosen is None else self.chosen.mean().item()
            uniform_score = None if self.uniform is None else self.uniform.mean().item()
            close, uniform_close = _near_duplicates(self.chosen), _near_duplicates(self.uniform)
        return SelectionStats(
            counts=self.counts,
            skipped=self.skipped,
            score=score,
            uniform_score=uniform_score,
            independent_overlap=None if overlap is None else overlap.item(),
            near_duplicates=close,
            uniform_near_duplicates=uniform_close,
            seen_candidates=self.seen.of_candidates,
            seen_chosen=self.seen.of_chosen,
            steps_past_reference=self.steps_past_reference,
            waiting_ms=self.waiting_ms,
            scoring_ms=self.times.ms("scoring"),
            selecting_ms=self.times.ms("selecting"),
            materializing_ms=self.times.ms("materializing"),
            bytes_received=self.bytes_received,
        )


def _near_duplicates(scores: object) -> float | None:
    """The share by the reference's embeddings; None where the scores have none."""
    reference = scores.reference if isinstance(scores, WithReference) else None
    return near_duplicates(reference).item() if isinstance(reference, Embeddings) else None


@dataclass(frozen=True)
class Stopwatch:
    """Times of named parts; a GPU is timed by events, so that measuring does not wait for it."""

    _parts: dict[str, "_Span"] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str, *, on_device: bool = False) -> Iterator[None]:
        """Time the block as ``name``, on the current GPU's clock if asked and if one is in use."""
        on_device = on_device and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        start = _mark(on_device)
        yield
        self._parts[name] = _Span(start, _mark(on_device))

    def ms(self, name: str) -> float:
        """The time of a part, 0 if it was not run; waits for the device."""
        return self._parts[name].ms() if name in self._parts else 0.0


@dataclass(frozen=True)
class _Span:
    start: "float | torch.cuda.Event"
    end: "float | torch.cuda.Event"

    def ms(self) -> float:
        if isinstance(self.start, float) or isinstance(self.end, float):
            assert isinstance(self.start, float)
            assert isinstance(self.end, float)
            return 1000 * (self.end - self.start)
        self.end.synchronize()
        return float(self.start.elapsed_time(self.end))


def _mark(on_device: bool) -> "float | torch.cuda.Event":
    if not on_device:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
