"""A source of batches from MDS shards."""

from collections.abc import Sequence
from os import PathLike
from typing import Unpack

from jest_loader.adapters.blocks import BlockSource, SourceKeywords
from jest_loader.adapters.mds.reader import MdsShards
from jest_loader.adapters.mds.stream import MdsStream
from jest_loader.checks import flag


class MdsSource(BlockSource):
    """Batches from MDS shards: a local folder, a remote one, or several mixed.

    Scalars and ``ndarray`` columns of fixed dtype and shape come as NumPy arrays [batch, ...],
    ``str`` as a list of str, ``bytes``, ``jpeg`` and ``png`` undecoded as ``RaggedBytes``, every
    other encoding decoded by ``streaming`` as an object array [batch]. See ``BlockSource`` for
    epochs, shuffling and state.

    Uncompressed shards stay open: while a source or a batch of it is in use, replace a shard's file
    by renaming another over it or by deleting it. Writing into it is an error at the next batch, or
    when an image of it is looked at.

    Args:
        path: A local folder with an index.json, an ``MdsStream`` (which may be remote), or a list
            of either.
        columns: The columns to read; None for all.
        allow_pickle: Whether ``pkl`` columns may be read. **Reading them runs whatever code their
            author put there.**
        **options: ``batch_size`` and the others of ``SourceOptions``.

    Raises:
        ValueError: if an argument is out of range, a folder holds no readable MDS index, or a
            ``pkl`` column would be read. While iterating: if a shard is not as the index describes
            it.
        FileNotFoundError: while iterating, if a shard is missing.
        OSError: if something cannot be fetched.
    """

    def __init__(
        self,
        path: str | PathLike[str] | MdsStream | Sequence[str | PathLike[str] | MdsStream],
        *,
        columns: Sequence[str] | None = None,
        allow_pickle: bool = False,
        **options: Unpack[SourceKeywords],
    ) -> None:
        several = path if isinstance(path, Sequence) and not isinstance(path, str) else [path]
        streams = [one if isinstance(one, MdsStream) else MdsStream(one) for one in several]
        shards = MdsShards(streams, columns, allow_pickle=flag("allow_pickle", allow_pickle))
        super().__init__(shards, parts=shards.parts, **options)
