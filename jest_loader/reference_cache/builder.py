"""The chunks of a cache that one process builds: what the reference says of a source's rows."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jest_loader.batch import Batch, num_examples
from jest_loader.checks import first_few
from jest_loader.embeddings import Embeddings
from jest_loader.protocols import EpochSource, SeekableSource, Source, Stateful
from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.chunk_records import Record, not_the_same
from jest_loader.reference_cache.folder import CacheFolder
from jest_loader.reference_cache.format import is_missing
from jest_loader.reference_cache.measure import Arrays, Measure
from jest_loader.reference_cache.processes import Process
from jest_loader.reference_cache.sample_index import sample_ids
from jest_loader.seen import Marks, SeenFunction, marks_of
from jest_loader.skipped import Used

_LOG = logging.getLogger(__name__)


class _Drawn(NamedTuple):
    """A batch that the reference is at work on.

    Args:
        used: The reference's output, perhaps not computed yet.
        ids: The sample ids.
        seen: Which rows the reference was trained on, if that is kept.
        skip: How many rows at its beginning are in the cache already.
        state: The source's state after the batch, if it ends a chunk.
    """

    used: Used[Any]
    ids: Int64Array
    seen: Marks | None
    skip: int
    state: dict[str, Any] | None


class Builder:
    """Runs a reference over a source and adds what it says to a cache's folder, chunk by chunk.

    Args:
        source: Batches that hold each example once, with its id.
        measure: What is kept of a batch.
        folder: Of the cache.
        id_column: The column of sample ids.
        advance: Called with the number of rows just done.
        seen: Says which examples of a batch the reference was trained on; None keeps nothing of it.
    """

    def __init__(
        self,
        source: Source,
        measure: Measure[Any],
        folder: CacheFolder,
        id_column: str,
        advance: Callable[[int], None],
        seen: SeenFunction | None = None,
    ) -> None:
        self._source, self._measure, self._folder = source, measure, folder
        self._chunk_rows = folder.settings.chunk_rows
        self._id_column, self._advance, self._seen = id_column, advance, seen
        self._reasons: dict[int, str] = {}  # Why examples of the chunk in the making are missing.

    def build(self, rank: Process) -> None:
        """Build those of this process's chunks that are not there yet."""
        chunks = rank.chunks(self._folder.settings.num_chunks)
        number = chunks.start
        while number < chunks.stop:
            record = self._folder.record(number)
            if record is not None and not self._may_grow(record):
                self._measure.expect(record.logit)
                number, ended = number + 1, record.num_rows < self._chunk_rows
            elif self._folder.is_finished():  # By the first process: all chunks were there.
                return
            else:
                number, ended = self._build_from(number, chunks.stop)
            if ended:
                self._check_end(number, chunks)
                return

    def _may_grow(self, record: Record) -> bool:
        """Whether a short chunk may be longer by now: only a source with a length says it is not.

        Then it is built again, up to where the source ends.
        """
        return self._folder.settings.num_rows is None and record.num_rows < self._chunk_rows

    def _check_end(self, number: int, chunks: range) -> None:
        """Raise ``ValueError`` if the source ended before this process's chunks did."""
        settings = self._folder.settings
        if settings.num_rows is not None and number < chunks.stop:
            raise ValueError(
                f"the source must yield the {settings.num_rows} examples that it promises, but "
                f"ended before row {number * self._chunk_rows + 1}; use drop_last=False"
            )

    def _build_from(self, number: int, stop: int) -> tuple[int, bool]:
        """Build chunks from ``number`` on, up to one that is there or ``stop``.

        Returns:
            The number of that chunk, and whether the source ended before it.
        """
        held: list[Arrays] = []
        num_held = 0
        state = None
        for columns, after in self._measured(number):
            held.append(columns)
            num_held += len(columns["sample_id"])
            while num_held >= self._chunk_rows:
                joined = _joined(held)
                num_held -= self._chunk_rows
                held = [{name: rows[self._chunk_rows :] for name, rows in joined.items()}]
                state = after if num_held == 0 else None
                self._add(number, {n: r[: self._chunk_rows] for n, r in joined.items()}, state)
                number += 1
                record = self._folder.record(number)
                if number == stop or (record is not None and not self._may_grow(record)):
                    return number, False
        if num_held == 0:
            return number, True
        self._add(number, _joined(held), None)
        return number + 1, True

    def _add(self, number: int, columns: Arrays, state: dict[str, Any] | None) -> None:
        missing = is_missing(columns["loss" if "loss" in columns else "image"])
        ids, unnamed = columns["sample_id"][missing], self._measure.if_nan
        is_odd = missing.all() and (number == 0 or len(missing) == self._chunk_rows)
        if is_odd and not self._measure.missing_is_known:
            raise ValueError(
                "a reference must be able to use some examples of a chunk, but of "
                f"{len(ids)}, from sample {ids[0]} on, it could use none; check the model and "
                f"the data's columns (of the first: {self._reasons.get(int(ids[0]), unnamed)})"
            )
        if len(ids):
            reasons = [f"sample {i}: {self._reasons.pop(i, unnamed)}" for i in ids.tolist()]
            shown = first_few(reasons, separator="; ")
            _LOG.warning("chunk %d: %d examples are missing: %s", number, len(ids), shown)
        self._folder.add(number, columns, self._measure.logit, state)

    def _measured(self, number: int) -> Iterator[tuple[Arrays, dict[str, Any] | None]]:
        """Rows from the first of chunk ``number`` on, as they are stored.

        A batch is finished after the next one is started, so that the device does not wait.
        """
        before: _Drawn | None = None
        for drawn in self._drawn(number):
            if before is not None:
                yield self._finish(before), before.state
            before = drawn
        if before is not None:
            yield self._finish(before), before.state

    def _finish(self, drawn: _Drawn) -> Arrays:
        columns = self._measure.finish(drawn.used, drawn.ids)
        output = drawn.used.output
        reasons = drawn.used.with_reasons(output.skipped if isinstance(output, Embeddings) else {})
        self._reasons |= {int(drawn.ids[row]): reason for row, reason in reasons.items()}
        columns["sample_id"] = drawn.ids
        if drawn.seen is not None:
            columns["seen"] = drawn.seen
        self._advance(len(drawn.ids) - drawn.skip)
        return {name: rows[drawn.skip :] for name, rows in columns.items()}

    def _drawn(self, number: int) -> Iterator[_Drawn]:
        batches, behind = self._batches_from(number)
        num_rows = -behind
        for batch in batches:
            size = num_examples(batch)
            num_rows += size
            ids = sample_ids(batch, self._id_column)
            skip = max(0, size - num_rows)
            first_row = number * self._chunk_rows + num_rows - size
            self._folder.check_ids(first_row, ids[:skip])
            if num_rows <= 0:
                continue
            # Whole batches are measured: another size could round differently.
            state = _plain_state(self._source) if num_rows % self._chunk_rows == 0 else None
            seen = None if self._seen is None else marks_of(self._seen, batch)
            yield _Drawn(self._measure.start(batch), ids, seen, skip, state)
        if num_rows < 0:
            raise not_the_same(number * self._chunk_rows + num_rows)

    def _batches_from(self, number: int) -> tuple[Iterator[Batch], int]:
        """The batches from the first row of a chunk on, and how many rows before it they hold."""
        row, source = number * self._chunk_rows, self._source
        if isinstance(source, EpochSource):
            source.set_epoch(0)
        if isinstance(source, SeekableSource):
            batch = min(row // source.batch_size, len(source))
            source.seek(batch)
            return iter(source), row - batch * source.batch_size
        record = self._folder.record(number - 1)
        if record is not None and record.source is not None and isinstance(source, Stateful):
            source.load_state_dict(record.source)
            return iter(source), 0
        return iter(source), row


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _plain_state(source: Source) -> dict[str, Any] | None:
    """The source's state, if it has one that JSON can hold."""
    if not isinstance(source, Stateful):
        return None
    state = source.state_dict()
    try:
        is_plain = json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        return None
    return state if is_plain else None
