"""Run a reference once over a data set and keep what it says.

    source --> reference --> chunks --> manifest

The rows of a cache are the source's examples in the order that they come in. They are written a
chunk at a time, and a building that was stopped goes on with the first chunk that is not there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.checks import whole
from jest_loader.protocols import Embedder, Source
from jest_loader.reference_cache.builder import Builder
from jest_loader.reference_cache.chunk_records import Settings
from jest_loader.reference_cache.folder import CacheFolder, finished, remove
from jest_loader.reference_cache.format import Manifest, read_manifest
from jest_loader.reference_cache.identity import identity_of
from jest_loader.reference_cache.measure import measure_of
from jest_loader.reference_cache.processes import (
    Process,
    all_there,
    num_promised,
    progress_bar,
    wait_for,
)
from jest_loader.seen import KnowsSeen, SeenFunction, SeenRows, check_seen
from jest_loader.version import __version__


def build(  # noqa: PLR0913
    path: str | Path,
    source: Source,
    reference: Embedder | Callable[[Batch], Tensor],
    *,
    identity: Mapping[str, str] | None = None,
    seen: SeenFunction | None = None,
    chunk_rows: int = 1 << 15,
    id_column: str = "sample_id",
    overwrite: bool = False,
    progress: bool = False,
    peers_timeout_s: float | None = 1800.0,
) -> Manifest:
    """Keep the reference's embeddings, or its losses, of every example in the folder ``path``.

    The build may be stopped at any moment; the same call then goes on and computes at most one
    chunk again. A cache that is whole is left as it is. The source must yield the same examples in
    the same order. A source with ``seek``, such as ``MdsSource``, is not read again up to that
    point; nor is one with ``state_dict`` whose batches fill chunks exactly and whose state is plain
    JSON.

    Where the environment variable ``WORLD_SIZE`` is more than 1, as under ``torchrun``, all
    processes must make this call: each builds its own chunks, and all return once the cache is
    whole.

    Args:
        path: The folder to make, on a file system that all processes share.
        source: Batches that hold each example once, with its id.
        reference: Embeds the examples; or a function ``loss(batch) -> Tensor [B]``. Examples for
            which it raises ``SkipRowsError``, or returns NaN, are recorded as missing.
        identity: What the cache is made from, as text by name: ``preprocessing``, ``tokenizer``,
            ``context_length``, whatever matters. ``data`` is known of a source with
            ``fingerprint``, and ``model`` of a reference that runs a module.
        seen: Says which examples of a batch the reference was trained on: ``SeenRows(ids)``, or a
            function of the source's batch that returns bool [B]. None takes what the reference says
            by its own ``has_seen``, if it does.
        chunk_rows: Rows of a chunk file.
        id_column: The column of sample ids, any int64.
        overwrite: Whether to delete a cache at ``path`` first.
        progress: Whether to show a progress bar on stderr.
        peers_timeout_s: Of several processes, the longest that one which is done waits without
            another chunk of the others, in seconds; None waits for ever.

    Returns:
        What the cache holds.

    Raises:
        ValueError: if ``path`` holds something else or a cache with other settings, an example
            comes twice, fewer come than promised, what the reference or ``seen`` returns cannot be
            kept, or ``peers_timeout_s`` is not positive.
        TimeoutError: if the other processes do not build their chunks.
    """
    folder, rank = Path(path).resolve(), Process.of_this_process()  # A link to it stays one.
    rank.check(source, peers_timeout_s, overwrite=overwrite)
    seen = _seen(seen, reference)
    settings = _settings(source, reference, identity, seen, chunk_rows)
    if overwrite:
        remove(folder)
    if (manifest := finished(folder, settings)) is not None:
        return manifest
    unfinished = CacheFolder(folder, settings)
    try:
        with progress_bar(unfinished, rank, shown=progress) as advance:
            measure = measure_of(reference)
            Builder(source, measure, unfinished, id_column, advance, seen).build(rank)
        return _finished(unfinished, rank, peers_timeout_s)
    except FileNotFoundError:
        if not unfinished.is_finished():
            raise
        # The same call was made twice at once, and the other has cleared what both worked in.
        return read_manifest(folder)


def build_part(  # noqa: PLR0913
    path: str | Path,
    source: Source,
    reference: Embedder | Callable[[Batch], Tensor],
    part: int,
    num_parts: int,
    *,
    identity: Mapping[str, str] | None = None,
    seen: SeenFunction | None = None,
    chunk_rows: int = 1 << 15,
    id_column: str = "sample_id",
) -> None:
    """Build one of several parts of a cache, in a task that waits for no other.

    For schedulers that start tasks when and where they can, and again where one was lost: Ray, or
    an array of jobs. Parts may come in any order, at once, and twice; what is there is left as it
    is. They are no cache yet: when all have ended, ``build`` with the same arguments, called once,
    computes what is still missing and completes it.

    Args:
        path: The folder of the cache, on a file system that all tasks share.
        source: As for ``build``; one that can start anywhere and knows how many examples it holds,
            such as ``MdsSource``.
        reference: As for ``build``.
        part: Which part, from 0.
        num_parts: How many there are. The chunks are divided among them.
        identity: As for ``build``.
        seen: As for ``build``.
        chunk_rows: As for ``build``.
        id_column: As for ``build``.

    Raises:
        ValueError: as ``build``, or if there is no such part, or the source cannot start anywhere.
    """
    number = whole("num_parts", num_parts, 1)
    process = Process(whole("part", part, 0, number - 1), number)
    process.check(source, None, overwrite=False)
    seen = _seen(seen, reference)
    folder = Path(path).resolve()
    settings = _settings(source, reference, identity, seen, chunk_rows)
    if finished(folder, settings) is not None:
        return
    unfinished = CacheFolder(folder, settings)
    builder = Builder(source, measure_of(reference), unfinished, id_column, lambda _: None, seen)
    try:
        builder.build(process)
    except FileNotFoundError:
        if not unfinished.is_finished():  # By a call that found this part to be there.
            raise


def _settings(
    source: Source,
    reference: Embedder | Callable[[Batch], Tensor],
    identity: Mapping[str, str] | None,
    seen: SeenFunction | None,
    chunk_rows: int,
) -> Settings:
    rows: object = seen
    known = {"seen": rows.fingerprint()} if isinstance(rows, SeenRows) else {}
    return Settings(
        measure_of(reference).kind,
        whole("chunk_rows", chunk_rows, 1),
        num_promised(source),
        identity_of(source, reference, known | dict(identity or {})),
        seen is not None,
    )


def _seen(given: SeenFunction | None, reference: object) -> SeenFunction | None:
    """What says which examples the reference was trained on: what is given, or its own."""
    check_seen(given)
    own = reference.has_seen if isinstance(reference, KnowsSeen) else None
    return own if given is None else given


def _finished(folder: CacheFolder, rank: Process, timeout_s: float | None) -> Manifest:
    """The whole cache, once all processes have built their chunks."""
    if rank.number == 0:
        others = f"the other {rank.world_size - 1} to build theirs"
        wait_for(lambda: all_there(folder), others, folder.num_built, timeout_s)
        if not folder.is_finished():
            return folder.finish(__version__)
    wait_for(folder.is_finished, "the first to finish the cache", folder.num_built, timeout_s)
    return read_manifest(folder.path)
